"""Sub-networks in practice: run inside the whole network, or cut out of it.

A sub-network is a selection of the whole one's own tensors: the blocks that turn the hidden states
most, in them the units that add most to the hidden states, as the given model does it on the
calibration split. So the smaller of two numbers is always part of the larger. Tensors are not put
into that order: the largest sub-network is the given model, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..build import kept_tensors, set_heads
from ..candidate import Candidate
from ..families import family_of
from ..paper import Paper
from ..profile import Profile
from ..steps import Bench
from ..structure.cuts import Cut, Units, cuts_of
from ..structure.importance import activation_scores, block_influence
from ..structure.surgery import cut_layers, filled
from .shapes import Block, Blocks, narrowed, whole_block

ORDER: Final = "order"
"""The note that holds blocks, groups of heads and neurons in order of importance."""

_UNITS: Final[tuple[Units, ...]] = ("heads", "ffn")


def importance_order(candidate: Candidate, bench: Bench) -> dict[str, Any]:
    """Places from the most to the least important, on the calibration split.

    Returns:
        `layers`: of the blocks; `heads`, `ffn`: of each block's groups and neurons.
    """
    profile, whole = candidate.paper.profile, whole_block(candidate.paper.profile)
    order: dict[str, Any] = {"layers": _ranked(block_influence(candidate, bench))}
    places, total = range(len(profile.layers)), {"heads": whole.groups, "ffn": whole.neurons}
    for units in _UNITS:
        # A block of one unit has nothing to cut, and nothing to rank.
        cuts = _cuts(profile, dict.fromkeys(places, Block(1, 1)), units)
        scores = activation_scores(candidate.module, cuts, bench) if cuts else {}
        alone = list(range(total[units]))
        order[units] = [_ranked(scores[p]) if p in scores else alone for p in places]
    return order


class Supernet:
    """A module that runs its own sub-networks.

    Args:
        module, profile: the whole network.
        notes: of its candidate; they hold `ORDER`.
    """

    def __init__(self, module: nn.Module, profile: Profile, notes: Mapping[str, Any]) -> None:
        self._module, self._profile, self._order = module, profile, notes[ORDER]

    def stays(self, blocks: Blocks) -> dict[int, Block]:
        """The places of the blocks that stay, ascending, and what stays of each."""
        places = sorted(self._order["layers"][: len(blocks)])
        return dict(zip(places, blocks, strict=True))

    def cuts(self, blocks: Blocks, units: Units) -> Iterator[tuple[int, list[int], list[Cut]]]:
        """Of each block that loses units: its place, the units that stay, where all of them lie."""
        for place, cuts in _cuts(self._profile, self.stays(blocks), units).items():
            yield place, sorted(self._order[units][place][: cuts[0].stay]), cuts

    def tensors(self, blocks: Blocks) -> dict[str, Tensor]:
        """The parts of tensors that a sub-network has; gradients lead back to the whole."""
        whole, parts = dict(self._module.named_parameters()), dict[str, Tensor]()
        for units in _UNITS:
            for _, kept, cuts in self.cuts(blocks, units):
                for cut in cuts:
                    tensor = whole[cut.weight.name]
                    rows = cut.rows(kept).to(tensor.device)
                    parts[cut.weight.name] = tensor.index_select(cut.axis, rows)
        return parts

    @contextmanager
    def narrowed(self, blocks: Blocks) -> Iterator[dict[str, Tensor]]:
        """While it lasts, the module has a sub-network's sizes; asked with these tensors it is one.

        Yields:
            What stands in for its parameters, by name.
        """
        family, stays = family_of(self._profile.family), self.stays(blocks)
        with ExitStack() as stack:
            for place, layer in enumerate(self._profile.layers):
                block = self._module.get_submodule(f"{family.layer}.{place}")
                if place not in stays:
                    stack.enter_context(_passed_by(block))
                    continue
                small = narrowed(layer, stays[place]).attention
                assert small is not None
                assert layer.attention is not None
                set_heads(block, family, small, place)
                stack.callback(set_heads, block, family, layer.attention, place)
            tensors = self.tensors(blocks)
            for name, tensor in tensors.items():
                module = self._module.get_submodule(name.rpartition(".")[0])
                if isinstance(module, Conv1D) and tensor.dim() == 2:
                    # The one kind of matrix that keeps its size apart from its tensor.
                    stack.callback(setattr, module, "nf", module.nf)
                    module.nf = tensor.shape[1]
            yield tensors


def extracted(candidate: Candidate, after: Paper, blocks: Blocks) -> Candidate:
    """The sub-network as a model of its own.

    Args:
        candidate: the whole network, with its `ORDER`; left as it is.
        after: the sub-network on paper.
        blocks: what stays.

    Returns:
        The smaller candidate; `notes["architecture"]` lists what stayed in place of `ORDER`.
    """
    profile, notes = candidate.paper.profile, dict(candidate.notes or {})
    net = Supernet(candidate.module, profile, notes)
    stays = net.stays(blocks)
    tensors = {**kept_tensors(candidate.module), **net.tensors(blocks)}
    thin = _thinned(profile, stays)
    small = cut_layers(
        Candidate(filled(thin, tensors), replace(candidate.paper, profile=thin)), after, list(stays)
    )
    del notes[ORDER]
    notes["architecture"] = {"layers": list(stays)} | {
        units: {str(place): kept for place, kept, _ in net.cuts(blocks, units)} for units in _UNITS
    }
    return Candidate(small.module, after, notes=notes)


def _thinned(profile: Profile, stays: Mapping[int, Block], units: Units | None = None) -> Profile:
    """As many blocks as before, those that stay with their new sizes, of one kind or of both."""
    layers = list(profile.layers)
    for place, block in stays.items():
        new = narrowed(layers[place], block)
        if units == "heads":
            new = replace(layers[place], attention=new.attention)
        elif units == "ffn":
            new = replace(layers[place], feed_forward=new.feed_forward)
        layers[place] = new
    return replace(profile, layers=tuple(layers))


def _cuts(profile: Profile, stays: Mapping[int, Block], units: Units) -> dict[int, list[Cut]]:
    return cuts_of(profile, _thinned(profile, stays, units), units)


def _ranked(scores: Tensor) -> list[int]:
    return [int(place) for place in torch.argsort(scores, descending=True, stable=True)]


@contextmanager
def _passed_by(block: Any) -> Iterator[None]:
    """While it lasts, what enters a block leaves it."""

    def same(hidden_states: Tensor, *rest: Any, **named: Any) -> Tensor:
        return hidden_states

    block.forward = same
    try:
        yield
    finally:
        del block.forward
