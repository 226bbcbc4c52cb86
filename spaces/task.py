"""Task: what the model is for, as data; Batch: what steps and runners are fed.

Loading (hub, csv, text, docstrings) lives in `evaluators/tasks/`; here is only the contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

TaskKind = Literal["classification", "language-modelling"]


@dataclass(frozen=True)
class Batch:
    """Encoded items.

    Args:
        input_ids: `(b, s)` int64.
        attention_mask: `(b, s)` int64, 1 where there is text.
        labels: `(b,)` int64 class, or `(b, s)` next tokens' own ids (-100: not judged).
        items: `(b,)` int64, the items' numbers in their split: predictions are paired by them.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    labels: np.ndarray
    items: np.ndarray


def trimmed(batch: Batch) -> Batch:
    """The batch without columns in which no item has text, where padding is on the right.

    Masked positions weigh exactly 0 in attention, and positions count from the left, so in floating
    point the rest answers the same; activations that are rounded together are rounded without them.
    """
    mask = batch.attention_mask
    longest = max(int(mask.sum(1).max()), 1)
    if longest == mask.shape[1] or (np.diff(mask, axis=1) > 0).any():
        return batch
    labels = batch.labels if batch.labels.ndim == 1 else batch.labels[:, :longest]
    return Batch(
        input_ids=np.ascontiguousarray(batch.input_ids[:, :longest]),
        attention_mask=np.ascontiguousarray(mask[:, :longest]),
        labels=labels,
        items=batch.items,
    )


@dataclass(frozen=True)
class Items:
    """One split, encoded and padded to the task's length.

    Args:
        input_ids, attention_mask: `(n, s)` int64.
        labels: `(n,)` or `(n, s)` int64.
        text_bytes: UTF-8 bytes of each item's judged text, `(n,)`; for bits per byte.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    labels: np.ndarray
    text_bytes: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class Task:
    """A task, loaded and encoded.

    Args:
        name: as the study file writes it.
        kind: what is judged.
        labels: class names, in the order of the label ids; empty for language modelling.
        max_length: tokens per item.
        splits: `train`, `calibration`, `validation`, `test`.
        digest: over everything above; enters the keys of steps that read data.
        pad_token_id: what padding was made of.
        notes: what was left out of the data, a sentence each.
    """

    name: str
    kind: TaskKind
    labels: tuple[str, ...]
    max_length: int
    splits: Mapping[str, Items]
    digest: str
    pad_token_id: int
    notes: tuple[str, ...] = ()
