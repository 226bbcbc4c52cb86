"""Proof: some validation items with what the searched model answered to them.

`proof.npz` lies in the exported folder, without pickle, so that the proof can be repeated without
the run. Language models answer one vector a token, too much to keep: of them the likelihood of each
item and the likeliest token at each place are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

import numpy as np

from ...errors import VerificationFailed
from ...evaluators.metric import Predictions
from ...evaluators.quality.predictions import predict
from ...spaces.steps import Runner
from ...spaces.task import Batch, Items, Task, TaskKind

NAME: Final = "proof.npz"
MOST_ITEMS: Final = 256


@dataclass(frozen=True)
class Proof:
    """Questions, and the answers that are expected.

    Args:
        items: `(n,)` numbers in the validation split.
        input_ids, attention_mask: `(n, s)`. labels: `(n,)` or `(n, s)`.
        timed_ids: `(batch, prompt_tokens)`, the texts for which speed is measured.
        logits: `(n, classes)`; None for language models.
        nll: `(n,)` nats. tokens: `(n,)` judged tokens. likeliest: `(n, s)` token ids. None for
            classifiers.
    """

    items: np.ndarray
    input_ids: np.ndarray
    attention_mask: np.ndarray
    labels: np.ndarray
    timed_ids: np.ndarray
    logits: np.ndarray | None = None
    nll: np.ndarray | None = None
    tokens: np.ndarray | None = None
    likeliest: np.ndarray | None = None

    @property
    def timed(self) -> Batch:
        """The texts for which speed is measured, as a batch."""
        ids = self.timed_ids
        return Batch(ids, np.ones_like(ids), ids, np.arange(len(ids)))


def questions(task: Task, timed: Batch) -> Proof:
    """The first validation items, unanswered: whole batches, as every candidate was asked.

    A runtime that rounds activations over a batch answers otherwise in other company.
    """
    items, together = task.splits["validation"], len(timed.input_ids)
    most = max(MOST_ITEMS - MOST_ITEMS % together, together)
    numbers = np.arange(min(len(items), most))
    return Proof(
        items=numbers,
        input_ids=items.input_ids[numbers],
        attention_mask=items.attention_mask[numbers],
        labels=items.labels[numbers],
        timed_ids=timed.input_ids,
    )


def answered(proof: Proof, runner: Runner, kind: TaskKind) -> Proof:
    """The same questions with a runner's answers.

    Raises:
        StepFailed: `diverged`, an answer is not finite.
    """
    heard = _Overheard(runner, kind, proof.input_ids.shape[1])
    items = Items(
        proof.input_ids, proof.attention_mask, proof.labels, np.zeros(len(proof.items), np.int64)
    )
    found: Predictions = predict(heard, items, task_kind=kind, batch=len(proof.timed_ids))
    likeliest = np.concatenate(heard.likeliest) if heard.likeliest else None
    return replace(
        proof, logits=found.logits, nll=found.nll, tokens=found.tokens, likeliest=likeliest
    )


def save_proof(folder: Path, proof: Proof) -> None:
    """Writes `proof.npz`."""
    pairs = ((f.name, getattr(proof, f.name)) for f in fields(proof))
    arrays = {name: array for name, array in pairs if array is not None}
    np.savez_compressed(folder / NAME, allow_pickle=False, **arrays)


def load_proof(folder: Path) -> Proof:
    """What `save_proof` wrote.

    Raises:
        VerificationFailed: missing, or broken.
    """
    path = folder / NAME
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Proof(**arrays)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise VerificationFailed(f"{path} cannot be read: {error}; export it anew") from error


class _Overheard:
    """A runner whose likeliest tokens are kept as they pass, -1 where a batch had no text."""

    def __init__(self, runner: Runner, kind: TaskKind, width: int) -> None:
        self._runner = runner
        self._kind = kind
        self._width = width
        self.likeliest: list[np.ndarray] = []

    def logits(self, batch: Batch) -> np.ndarray:
        logits = self._runner.logits(batch)
        if self._kind == "language-modelling":
            found = logits.argmax(-1).astype(np.int32)
            rest = ((0, 0), (0, self._width - found.shape[1]))
            self.likeliest.append(np.pad(found, rest, constant_values=-1))
        return logits

    def generate(self, batch: Batch, tokens: int) -> np.ndarray:
        return self._runner.generate(batch, tokens)

    def files(self) -> Sequence[Path]:
        return self._runner.files()

    def close(self) -> None:
        self._runner.close()
