"""Folds: where a channel's size can move from what makes it into what reads it, exactly.

    norm  -> query, key, value       where the norm stands before the part and nothing else reads it
    norm  -> up, gate                likewise
    value -> output                  attention mixes tokens, never channels
    up    -> down                    gated blocks alone: elsewhere an activation lies between

Families that normalise behind the residual (BERT and its kin) have only value -> output: what their
norms make is read by the residual as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..families import family_of
from ..family import Family, Role
from ..paper import Paper
from ..profile import Layer, Profile

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Fold:
    """One place in one layer.

    Args:
        maker: path of the norm or matrix whose outputs are divided, biases included.
        start: the first of these outputs (a fused matrix makes others too).
        readers: paths of the matrices whose columns are multiplied.
        run: channels that are made side by side, a head's width or all.
        shared: times that each run is read in a row: query heads of one value head.
        channels: numbers of the fold, one for each output of the maker.
    """

    maker: str
    start: int
    readers: tuple[str, ...]
    channels: int
    run: int
    shared: int = 1

    def read(self, numbers: Tensor) -> Tensor:
        """Numbers of the fold as the readers' columns meet them."""
        return numbers.reshape(-1, self.run).repeat_interleave(self.shared, dim=0).flatten()

    def made(self, columns: Tensor) -> Tensor:
        """What the readers' columns say, `(shared, channels)`: one row for each reading head."""
        return columns.reshape(-1, self.shared, self.run).movedim(1, 0).flatten(1)


def folds_of(profile: Profile, layer: int) -> tuple[Fold, ...]:
    """The exact folds of one layer, from its input to its output."""
    return tuple(_folds(family_of(profile.family), profile, layer, profile.layers[layer]))


def fold_objections(paper: Paper) -> list[str]:
    """Why channels of this model cannot be scaled."""
    # soft tokens stand before the first layer, as words do
    beside = {adapter.kind for adapter in paper.profile.adapters if not adapter.tokens}
    if not beside:
        return []
    kinds = ", ".join(sorted(beside))
    return [
        f"{kinds} adapters read the channels too, so that scaling them changes the answers; merge "
        "the adapters, or choose int8, int4, gptq or hqq"
    ]


def has_folds(profile: Profile) -> bool:
    """Whether there is an exact fold anywhere."""
    whole = {weight.name for weight in profile.weights()}
    return any(
        f"{path}.weight" in whole
        for layer in range(len(profile.layers))
        for place in folds_of(profile, layer)
        for path in place.readers
    )


def _folds(family: Family, profile: Profile, index: int, layer: Layer) -> Iterator[Fold]:
    width, norms_first = profile.width, family.final_norm is not None

    def paths(*roles: Role) -> tuple[str, ...]:
        return tuple(dict.fromkeys(family.path(role, index) for role in roles))

    if layer.attention is not None:
        attention, head = layer.attention, layer.attention.head_width
        channels = attention.kv_heads * head
        if norms_first:
            readers = paths("attention.query", "attention.key", "attention.value")
            yield Fold(family.path("attention.norm", index), 0, readers, width, width)
        fused = len(family.fused("attention.value")) > 1
        yield Fold(
            family.path("attention.value", index),
            attention.heads * head + channels if fused else 0,
            paths("attention.output"),
            channels,
            head,
            attention.heads // attention.kv_heads,
        )
    if layer.feed_forward is not None:
        hidden = layer.feed_forward.width
        if norms_first:
            readers = paths("ffn.up", "ffn.gate") if family.gated else paths("ffn.up")
            yield Fold(family.path("ffn.norm", index), 0, readers, width, width)
        if family.gated:
            yield Fold(family.path("ffn.up", index), 0, paths("ffn.down"), hidden, hidden)


def fold(module: nn.Module, place: Fold, numbers: Tensor, axes: Mapping[str, int]) -> None:
    """Divides what is made and multiplies what reads it, in place: the answers stay.

    Args:
        module: the whole model.
        place: where.
        numbers: `(channels,)`, above 0.
        axes: the axis of inputs of each matrix, by parameter name.
    """
    import torch

    made = slice(place.start, place.start + place.channels)
    maker = module.get_submodule(place.maker)
    with torch.no_grad():
        for name, parameter in maker.named_parameters(recurse=False):
            outputs = 1 - axes.get(f"{place.maker}.{name}", 1)
            parameter.movedim(outputs, 0)[made] /= _beside(numbers, parameter.dim())
        for path in place.readers:
            matrix = module.get_parameter(f"{path}.weight")
            matrix.movedim(axes[f"{path}.weight"], 0).mul_(place.read(numbers)[:, None])


def _beside(numbers: Tensor, dimensions: int) -> Tensor:
    return numbers.reshape(-1, *[1] * (dimensions - 1))
