"""Asking a deployed model, item by item; keeping what it answered.

Items are a fixed share of their split: the first ones of one permutation, so that a rung's items
are among the next rung's, and any two candidates are judged on the same ones. Figures are made of
the stored answers later (`classification.py`, `language.py`, `paired.py`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Final

import numpy as np

from ...errors import StepFailed, StorageFailed
from ...spaces.steps import Runner
from ...spaces.task import Batch, Items, TaskKind, trimmed
from ..metric import Predictions

ORDER_SEED: Final = 20230729
"""Seeds the permutation; a study's own seed must not move the items that it is judged on."""

LOGITS_BYTES: Final = 2**28
"""Most bytes of logits that one answer may have, where one text's logits allow it."""

NOT_JUDGED: Final = -100


def chosen_items(n: int, share: float) -> np.ndarray:
    """Numbers of the items that a share of a split stands for, ascending: `(ceil(share n),)`.

    Args:
        n: items of the split.
        share: in (0, 1].

    >>> set(chosen_items(100, 0.25)) <= set(chosen_items(100, 0.5))
    True
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share of the items lies in (0, 1], not {share}")
    order = np.random.default_rng(ORDER_SEED).permutation(n)
    # ceil with a little slack: .1 * 30 is 3.0000000000000004
    return np.sort(order[: math.ceil(share * n - 1e-9)])


def predict(
    runner: Runner,
    items: Items,
    *,
    task_kind: TaskKind,
    batch: int = 16,
    share: float = 1.0,
    report: Callable[[int, int], None] | None = None,
) -> Predictions:
    """What a runner answers to a share of a split's items, asked as a server would: no padding
    beyond the longest of a batch.

    Args:
        runner: the deployed model.
        items: a split.
        task_kind: what is judged.
        batch: most items asked together.
        share: of the items, in (0, 1].
        report: called with items done and items in all, after every batch.

    Raises:
        StepFailed: `diverged`, where an answer is not finite.
    """
    numbers = chosen_items(len(items), share)
    classes = task_kind == "classification"
    read = _classes if classes else _likelihoods
    parts, done = [], 0
    together = batch if classes else 1
    while done < len(numbers):
        asked = trimmed(_batch(items, numbers[done : done + together]))
        logits = np.asarray(runner.logits(asked))
        if not np.isfinite(logits).all():
            raise StepFailed(
                "diverged", f"logits of items {asked.items.tolist()} are not finite; train milder"
            )
        parts.append(read(logits, asked))
        done += len(asked.items)
        # a vocabulary of 50,000 makes 100 MB of logits of one text of 512 tokens
        together = max(1, min(batch, LOGITS_BYTES * len(asked.items) // logits.nbytes))
        if report is not None:
            report(done, len(numbers))
    answers = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    text = None if classes else items.text_bytes[numbers]
    return Predictions(items=numbers, text_bytes=text, **answers)


def save_predictions(folder: Path, predictions: Predictions) -> str:
    """Writes answers into `folder/DIGEST.npz`, without pickle, and returns the digest."""
    folder.mkdir(parents=True, exist_ok=True)
    name = predictions_digest(predictions)
    path = folder / f"{name}.npz"
    if not path.exists():
        part = folder / f".{name}.part.npz"
        np.savez_compressed(part, allow_pickle=False, **_arrays(predictions))
        part.replace(path)
    return name


def load_predictions(folder: Path, name: str) -> Predictions:
    """The answers that `save_predictions` wrote.

    Raises:
        StorageFailed: the file is missing, or not what its name says.
    """
    path = folder / f"{name}.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            predictions = Predictions(**arrays)
    except (OSError, ValueError, TypeError) as error:
        raise StorageFailed(f"{path} cannot be read as predictions: {error}") from error
    found = predictions_digest(predictions)
    if found != name:
        raise StorageFailed(f"{path} holds {found}, not what its name says; ask the model again")
    return predictions


def predictions_digest(predictions: Predictions) -> str:
    """32 hex digits over the names, types, shapes and contents of the arrays."""
    state = hashlib.sha256()
    for name, array in sorted(_arrays(predictions).items()):
        state.update(f"{name} {array.dtype.str} {array.shape}".encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()[:32]


def _arrays(predictions: Predictions) -> dict[str, np.ndarray]:
    pairs = ((f.name, getattr(predictions, f.name)) for f in fields(predictions))
    return {name: value for name, value in pairs if value is not None}


def _batch(items: Items, numbers: np.ndarray) -> Batch:
    return Batch(
        input_ids=items.input_ids[numbers],
        attention_mask=items.attention_mask[numbers],
        labels=items.labels[numbers],
        items=numbers,
    )


def _classes(logits: np.ndarray, asked: Batch) -> dict[str, np.ndarray]:
    return {"labels": asked.labels, "logits": logits.astype(np.float32)}


def _likelihoods(logits: np.ndarray, asked: Batch) -> dict[str, np.ndarray]:
    wanted = asked.labels[:, 1:]  # position t answers for the token at t + 1
    nll = [_nll(given[:-1], tokens) for given, tokens in zip(logits, wanted, strict=True)]
    return {"nll": np.array(nll), "tokens": (wanted != NOT_JUDGED).sum(1)}


def _nll(logits: np.ndarray, wanted: np.ndarray) -> float:
    """Nats that the judged tokens of one text cost: `(s, vocabulary)`, `(s,)`."""
    judged = wanted != NOT_JUDGED
    given = logits[judged].astype(np.float64)
    given -= given.max(-1, keepdims=True)
    picked = np.take_along_axis(given, wanted[judged][:, None], -1)
    return float(np.log(np.exp(given).sum(-1)).sum() - picked.sum())
