"""Writing without a cache between tokens: the whole text is read anew for every token."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..task import Batch


def written_anew(
    answer: Callable[[np.ndarray, np.ndarray], np.ndarray], batch: Batch, tokens: int
) -> np.ndarray:
    """Greedy continuation: `(b, tokens)`; padding may be on either side.

    Args:
        answer: ids and mask `(b, s)` to logits `(b, s, vocabulary)`.
        batch: what is continued.
        tokens: how many each text gets.
    """
    ids, mask = padded_right(batch.input_ids, batch.attention_mask, tokens)
    rows, ends = np.arange(len(ids)), mask.sum(axis=1)
    written = np.empty((len(ids), tokens), dtype=np.int64)
    for step in range(tokens):
        width = int(ends.max())
        answers = answer(ids[:, :width], mask[:, :width])
        written[:, step] = answers[rows, ends - 1].argmax(axis=-1)
        ids[rows, ends] = written[:, step]
        mask[rows, ends] = 1
        ends = ends + 1
    return written


def padded_right(ids: np.ndarray, mask: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts moved to the left, their order kept, with room for tokens behind the last one."""
    order = np.argsort(1 - mask, axis=1, kind="stable")
    rest = ((0, 0), (0, room))
    moved = (np.take_along_axis(part, order, axis=1) for part in (ids, mask))
    wide_ids, wide_mask = (np.pad(part, rest) for part in moved)
    return wide_ids, wide_mask
