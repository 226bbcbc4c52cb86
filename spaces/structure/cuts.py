"""Where the units of a layer lie in its tensors, read off two papers.

A tensor whose shape differs between the larger and the smaller paper is cut along the axis that
differs; the sizes of the layer say what belongs to one unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..profile import Layer, Profile, Weight

Units = Literal["heads", "ffn"]
"""What is removed: groups of heads, or feed-forward neurons."""


@dataclass(frozen=True)
class Cut:
    """One axis of one tensor along which the units of a layer lie side by side.

    Args:
        weight: the tensor, as it is before the cut. axis: of it.
        units: how many units lie there; after the cut, `stay`.
        widths: elements of one unit, once per stack (a fused projection stacks q, k and v).
    """

    weight: Weight
    axis: int
    units: int
    stay: int
    widths: tuple[int, ...]

    @property
    def returns(self) -> bool:
        """Whether this matrix sums over the units: it brings them back to the hidden states."""
        return self.weight.role == "matrix" and self.axis == self.weight.input_axis

    def stacks(self, tensor: Tensor) -> Iterator[Tensor]:
        """The units of each stack of a tensor, `(units, elements)`."""
        rows = tensor.movedim(self.axis, 0)
        start = 0
        for width in self.widths:
            stop = start + self.units * width
            yield rows[start:stop].reshape(self.units, -1)
            start = stop

    def rows(self, kept: Sequence[int]) -> Tensor:
        """Places on the axis that stay, `(stay x widths,)`."""
        places: list[int] = []
        start = 0
        for width in self.widths:
            for unit in kept:
                places += range(start + unit * width, start + (unit + 1) * width)
            start += self.units * width
        return torch.tensor(places)


def cuts_of(before: Profile, after: Profile, units: Units) -> dict[int, list[Cut]]:
    """Where the units of each layer lie, from the difference of two papers; unequal layers only."""
    smaller = {weight.name: weight.shape for weight in after.weights()}
    cuts: dict[int, list[Cut]] = {}
    for weight in before.weights():
        pairs = zip(weight.shape, smaller[weight.name], strict=True)
        for axis, (old, new) in enumerate(pairs):
            if old != new and weight.layer is not None:
                total, widths = _units(before.layers[weight.layer], units, old)
                stay = total * new // old
                cuts.setdefault(weight.layer, []).append(Cut(weight, axis, total, stay, widths))
    return cuts


def channel_axes(before: Profile, after: Profile) -> list[tuple[Weight, int]]:
    """Every tensor that touches the hidden states, once for each axis along which they lie.

    Read off two papers that differ in width alone.
    """
    narrower = {weight.name: weight.shape for weight in after.weights()}
    return [
        (weight, axis)
        for weight in before.weights()
        for axis, size in enumerate(weight.shape)
        if size != narrower[weight.name][axis]
    ]


def _units(layer: Layer, units: Units, size: int) -> tuple[int, tuple[int, ...]]:
    """Units on an axis of that size, and how many elements of each stack belong to one."""
    if units == "ffn":
        assert layer.feed_forward is not None
        return layer.feed_forward.width, (1,) * (size // layer.feed_forward.width)
    attention = layer.attention
    assert attention is not None
    key = attention.head_width
    query = key * attention.heads // attention.kv_heads
    stacks = {query: (query,), key: (key,), query + 2 * key: (query, key, key)}
    return attention.kv_heads, stacks[size // attention.kv_heads]
