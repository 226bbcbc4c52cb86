"""Batches on their way into a module: the order of a training, tensors."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice

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


def inputs_of(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """What a transformers module is called with.

    Copies: torch warns of arrays that cannot be written, and a split may be a read-only file.
    """
    return {
        "input_ids": torch.tensor(batch.input_ids, device=device),
        "attention_mask": torch.tensor(batch.attention_mask, device=device),
    }
