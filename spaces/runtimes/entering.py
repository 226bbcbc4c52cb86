"""Ranges of what enters a matrix, fixed beforehand: 8 bits between two numbers that data chose.

real = step (whole - zero), whole in -128..127, and 0 is on the grid (arXiv 1712.05877, eq. 1 and
section 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import StepFailed
from ..profile import Weight

_LEAST, _LEVELS = -128, 255


@dataclass(frozen=True)
class Range:
    """Activations from `low` to `high`, in 256 steps; what lies beyond is cut off.

    Args:
        low: at most 0. high: at least 0.
    """

    low: float
    high: float

    @property
    def step(self) -> float:
        """What one whole number more stands for."""
        return (self.high - self.low) / _LEVELS or 1.0

    @property
    def zero(self) -> int:
        """The whole number that stands for 0."""
        return _LEAST + round(-self.low / self.step)


def as_ranges(name: str, low: float, high: float) -> dict[str, Tensor]:
    """A matrix's range as `Candidate.grids` keeps it: `(2,)` fp32."""
    return {_key(name): torch.tensor([min(low, 0.0), max(high, 0.0)])}


def range_of(grids: Mapping[str, Tensor], weight: Weight) -> Range:
    """The range of what enters a matrix.

    Raises:
        StepFailed: kind `crashed`, none was chosen, or a later step dropped it.
    """
    found = grids.get(_key(weight.name))
    if found is None:
        raise StepFailed(
            "crashed",
            f"{weight.name} is declared int8_static, and nothing says in which range its inputs "
            "lie; int8_static must be the last step that changes the candidate",
        )
    low, high = found.tolist()
    return Range(low, high)


def _key(name: str) -> str:
    return f"{name}:entering"
