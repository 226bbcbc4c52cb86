"""In which range what enters a matrix lies on the calibration split, extremes cut off or not.

One pass of the model as it is. Exact percentiles of all numbers of all tokens that are no padding:
of these only the outermost are kept while the split goes by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from ..candidate import Candidate
from ..device import computing_on
from ..profile import Weight
from ..steps import Bench
from .fed import calibration, watching

TOKENS: Final = 2048
"""Tokens that are looked at, padding included."""


class Ends:
    """The outermost numbers of a stream.

    Args:
        kept: of either end.
        device: where.
    """

    def __init__(self, kept: int, device: torch.device) -> None:
        self.count = 0
        self._kept = kept
        self._low = torch.empty(0, device=device)
        self._high = torch.empty(0, device=device)

    def add(self, tokens: Tensor) -> None:
        """Takes in numbers of any shape."""
        flat = tokens.flatten()
        self.count += len(flat)
        low, high = torch.cat((self._low, flat)), torch.cat((self._high, flat))
        kept = min(self._kept, len(low))
        self._low = low.topk(kept, largest=False).values
        kept = min(self._kept, len(high))
        self._high = high.topk(kept).values

    def within(self, share: float) -> tuple[float, float]:
        """The range that leaves out half of `1 - share` of all numbers at either end."""
        beyond = beyond_of(self.count, share)
        return float(self._low[beyond]), float(self._high[beyond])


def beyond_of(count: int, share: float) -> int:
    """Numbers of either end that lie beyond the middle share of so many.

    >>> beyond_of(1000, 0.99), beyond_of(1000, 1.0)
    (5, 0)
    """
    # rounded first: .99 leaves a little less than .01 in binary
    return math.floor(round(count * (1 - share) / 2, 6))


def entering_ranges(
    candidate: Candidate, bench: Bench, weights: Sequence[Weight], share: float
) -> dict[str, tuple[float, float]]:
    """Smallest and largest number that enters each matrix, by its name.

    Args:
        candidate: left as it is.
        bench: where the calibration items come from, and where to compute.
        weights: matrices.
        share: of the numbers that lies within, in (0, 1]; 1: all.

    Raises:
        DataError: the calibration split is empty.
    """
    module, soft = candidate.module, candidate.paper.profile.soft_tokens
    with computing_on(bench.device, module), torch.no_grad():
        batches = calibration(bench, torch.device(bench.device), TOKENS)
        tokens = sum(ids.numel() + soft * len(ids) for ids in (b["input_ids"] for b in batches))

        def nothing(columns: int, device: torch.device) -> Ends:
            return Ends(beyond_of(tokens * columns, share) + 1, device)

        with watching(module, weights, nothing, soft) as watch:
            for done, batch in enumerate(batches):
                watch.turn_to(batch["attention_mask"])
                module(**batch)
                bench.progress(done + 1, len(batches))
        return {name: ends.within(share) for name, ends in watch.found.items()}
