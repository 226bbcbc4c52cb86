"""What a frozen encoder says about each training item, computed once.

Only for trainings in which nothing below the head changes. The frozen encoder then runs without
dropout, with or without this memory, so that an item's features are one fact.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .batching import inputs_of
from .steps import Bench
from .task import Batch, trimmed

MEMORY_BYTES = 1 << 30
"""Most that the features of a split may take; beyond it they are computed anew each time."""


class Recall:
    """Features by item, put in the place of a frozen encoder's answer.

    Args:
        encoder: whose answers these are. Its pooler, part of the head, still runs.
        kind: the type of its output.
        states: `(n, s, h)`, or `(n, 1, h)` where the head reads the first position alone.
        row: row of each item number.
    """

    def __init__(self, encoder: Any, kind: Any, states: Tensor, row: dict[int, int]) -> None:
        self._pooler, self._kind = getattr(encoder, "pooler", None), kind
        self._states, self._row = states, row
        self._current: list[int] = []
        self._length = 0

    def turn_to(self, batch: Batch) -> None:
        """Makes the next answer the one for this batch."""
        self._current = [self._row[int(item)] for item in batch.items]
        self._length = batch.input_ids.shape[1]

    def answer(self, *_: Any, **__: Any) -> Any:
        """What the encoder would have said; its arguments were already used."""
        states = self._states[self._current, : self._length]
        if self._pooler is None:
            return self._kind(last_hidden_state=states)
        return self._kind(last_hidden_state=states, pooler_output=self._pooler(states))


def remember(
    encoder: nn.Module, bench: Bench, batch: int, items: int, first_only: bool
) -> Recall | None:
    """The features of the whole train split, in the order of its items.

    The pass never depends on where training stands: a resumed training sees the same bits.

    Args:
        encoder: frozen, in eval mode.
        bench: for the items.
        batch: items a pass.
        items: size of the split, for the memory bound.
        first_only: the head reads the first position alone.

    Returns:
        None where they would take more than `MEMORY_BYTES`.
    """
    parts: list[Tensor] = []
    row: dict[int, int] = {}
    kind: Any = None
    device = next(encoder.parameters()).device
    for full in bench.batches("train", batch=batch, seed=None):
        bench.training_turn()
        with torch.no_grad():
            out = encoder(**inputs_of(trimmed(full), device))
        kind, states = type(out), out.last_hidden_state
        length = 1 if first_only else full.input_ids.shape[1]
        parts.append(nn.functional.pad(states, (0, 0, 0, length - states.shape[1])))
        if parts[0][0].nbytes * items > MEMORY_BYTES:
            return None
        row.update({int(item): len(row) + i for i, item in enumerate(full.items)})
    return Recall(encoder, kind, torch.cat(parts), row)


@contextmanager
def standing_in(encoder: nn.Module, recall: Recall | None) -> Iterator[None]:
    """While it lasts, the encoder answers from memory (if there is one)."""
    if recall is None:
        yield
        return
    encoder.forward = recall.answer
    try:
        yield
    finally:
        del encoder.forward
