"""Batches on their way into a module: the order of a training, trimming, tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .steps import Bench
from .task import Batch
from .training import derived_seed


def training_order(bench: Bench, batch: int, seed: int, start: int) -> Iterator[Batch]:
    """The batches of a training from step `start` on, without end; step k is always the same.

    Every epoch is one pass in an order of its own.

    Raises:
        DataError: the train split is empty.
    """
    return islice(_epochs(bench, batch, seed), start, None)


def _epochs(bench: Bench, batch: int, seed: int) -> Iterator[Batch]:
    for epoch in count():
        empty = True
        order = derived_seed("order", seed, epoch)
        for found in bench.batches("train", batch=batch, seed=order):
            empty = False
            yield found
        if empty:
            raise DataError("the train split is empty; give the task training items")


def trimmed(batch: Batch) -> Batch:
    """The batch without columns in which no item has text, where padding is on the right.

    Masked positions weigh exactly 0 in attention, and positions count from the left, so the rest
    answers the same.
    """
    mask = batch.attention_mask
    longest = max(int(mask.sum(1).max()), 1)
    if longest == mask.shape[1] or (np.diff(mask, axis=1) > 0).any():
        return batch
    labels = batch.labels if batch.labels.ndim == 1 else batch.labels[:, :longest]
    return replace(
        batch,
        input_ids=batch.input_ids[:, :longest],
        attention_mask=mask[:, :longest],
        labels=labels,
    )


def inputs_of(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """What a transformers module is called with.

    Copies: torch warns of arrays that cannot be written, and a split may be a read-only file.
    """
    return {
        "input_ids": torch.tensor(batch.input_ids, device=device),
        "attention_mask": torch.tensor(batch.attention_mask, device=device),
    }
