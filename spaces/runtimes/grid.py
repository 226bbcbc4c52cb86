"""Grid: the numbers that the rows of a weight may take, (integer - zero) x scale.

Round to nearest lays a grid from the extremes of each group (arXiv 2103.13630, eq. 2-4). A method
that knows better hands its grid to the runtime in `Candidate.grids`, beside a module whose weights
already stand on it: rounding these again to the same grid gives the same integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from ..profile import WHOLE, Format, Profile, Weight
from .payload import DEFAULT_GROUP, stored_format

_SMALLEST: Final = 2.0**-24
"""The smallest fp16 number: what a scale is when all its weights are zero."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A scale and a zero for every group of every row.

    Args:
        scale: `(n, groups)` fp32, of numbers that the stored type holds.
        zero: `(n, groups)` fp32, whole numbers between `low` and `high`.
        size: columns of a group; the last one may reach beyond the row.
        low, high: the smallest and the largest integer.
    """

    scale: Tensor
    zero: Tensor
    size: int
    low: int
    high: int

    def nearest(self, rows: Tensor) -> Tensor:
        """The nearest integers, as floats: `(n, k)` to `(n, k)`."""
        groups = grouped(rows, self.size)
        whole = torch.round(groups / self.scale[..., None]).add_(self.zero[..., None])
        return whole.clamp_(self.low, self.high).flatten(1)[:, : rows.shape[1]]

    def where(self, better: Tensor, other: Grid) -> Grid:
        """The other grid's groups where it is better, `(n, groups)`, this one's elsewhere."""
        return replace(
            self,
            scale=torch.where(better, other.scale, self.scale),
            zero=torch.where(better, other.zero, self.zero),
        )

    def values(self, integers: Tensor) -> Tensor:
        """What integers stand for: `(n, k)` to `(n, k)`."""
        groups = grouped(integers, self.size) - self.zero[..., None]
        return (groups * self.scale[..., None]).flatten(1)[:, : integers.shape[1]]


def extremes(rows: Tensor, form: Format, share: float = 1.0) -> Grid:
    """The grid of round to nearest: from the smallest to the largest weight of each group.

    int8 is symmetric, one group a row. int4 and int3 always have zero on the grid.

    Args:
        rows: `(n, k)` fp32.
        form: a format of whole numbers.
        share: of the extremes; what lies beyond is cut off.
    """
    if form.bits == 8:
        largest = rows.abs().amax(dim=1, keepdim=True) * share
        scale = largest.clamp(min=torch.finfo(torch.float32).tiny) / 127
        return Grid(scale, torch.zeros_like(scale), rows.shape[1], -127, 127)
    size, high = form.group_size or DEFAULT_GROUP, 2**form.bits - 1
    groups = grouped(rows, size)
    low = groups.amin(dim=2).clamp(max=0) * share
    span = groups.amax(dim=2).clamp(min=0) * share - low
    scale = _not_below(span / high).float()
    return Grid(scale, torch.round(-low / scale), size, 0, high)


def storable(scale: Tensor, form: Format) -> Tensor:
    """The nearest scales, fp32, that the format's stored type holds."""
    if form.bits == 8:
        return scale.float()
    return scale.clamp(min=_SMALLEST).half().float()


def grouped(rows: Tensor, size: int) -> Tensor:
    """`(n, k)` to `(n, groups, size)`, the last group filled up with zeros."""
    filling = -rows.shape[1] % size
    return torch.nn.functional.pad(rows, (0, filling)).reshape(rows.shape[0], -1, size)


def rows_of(weight: Weight, tensor: Tensor) -> Tensor:
    """A matrix or table as rows, one for each output or word; its own inverse."""
    return tensor.t() if weight.role == "matrix" and weight.input_axis == 0 else tensor


def is_whole(profile: Profile, weight: Weight) -> bool:
    """Whether a weight is stored in whole numbers."""
    return stored_format(profile, weight).name in WHOLE


def told(name: str, grid: Grid) -> dict[str, Tensor]:
    """A weight's grid as `Candidate.grids` keeps it."""
    return {f"{name}:scale": grid.scale, f"{name}:zero": grid.zero.to(torch.uint8)}


def grid_of(grids: Mapping[str, Tensor], profile: Profile, weight: Weight) -> Grid | None:
    """The grid that was chosen for a weight; None: none was, or its format has none."""
    scale = grids.get(f"{weight.name}:scale")
    if scale is None or not is_whole(profile, weight):
        return None
    zero = grids[f"{weight.name}:zero"].float()
    form = stored_format(profile, weight)
    if form.bits == 8:
        return Grid(scale, zero, weight.count // len(scale), -127, 127)
    return Grid(scale, zero, form.group_size or DEFAULT_GROUP, 0, 2**form.bits - 1)


def _not_below(scale: Tensor) -> Tensor:
    """Scales in fp16, rounded up, so that the extremes of a group stay in reach."""
    half = scale.clamp(min=_SMALLEST).half()
    short = half.float() < scale
    # The next number of the same sign is the next pattern of bits.
    return torch.where(short, (half.view(torch.int16) + 1).view(torch.float16), half)
