"""Which units matter: from the weights alone, or from what they do on the calibration split.

A unit is a group of heads or a feed-forward neuron; a block is judged by `block_influence`. Scores
order the units of one layer among themselves and mean nothing across layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..candidate import Candidate
from ..device import CPU
from ..families import family_of
from ..profile import Weight
from ..steps import Bench
from .cuts import Cut
from .observe import Watch, pass_over


def weight_scores(module: nn.Module, cuts: Mapping[int, Sequence[Cut]]) -> dict[int, Tensor]:
    """Score of each unit by layer, `(units,)`: the product of the L2 norms of its matrices.

    A unit whose input or output matrix is zero adds nothing, whatever the other holds: hence a
    product, not a sum (the coupled parameters of arXiv 2305.11627, section 3.2).
    """
    parameters = dict(module.named_parameters())
    scores: dict[int, Tensor] = {}
    for layer, layer_cuts in cuts.items():
        norms = [
            stack.detach().double().norm(dim=1)
            for cut in layer_cuts
            if cut.weight.role == "matrix"
            for stack in cut.stacks(parameters[cut.weight.name])
        ]
        scores[layer] = torch.stack(norms).prod(dim=0)
    return scores


def activation_scores(
    module: nn.Module, cuts: Mapping[int, Sequence[Cut]], bench: Bench
) -> dict[int, Tensor]:
    """Score of each unit by layer, `(units,)`: the size of what it adds to the hidden states.

    Mean squared activation times squared norm of the outgoing weights, summed over the channels of
    the unit (the score of arXiv 2306.11695, per unit instead of per weight).
    """
    returning = {layer: next(cut for cut in found if cut.returns) for layer, found in cuts.items()}
    squares: dict[int, Tensor] = {}

    def watch(layer: int) -> Watch:
        def add(real: Tensor, entering: Tensor, _: Any) -> None:
            square = entering.double()[real].square().sum(dim=0)
            squares[layer] = squares.get(layer, 0) + square.to(CPU)

        return add

    paths = {
        cut.weight.name.removesuffix(".weight"): watch(layer) for layer, cut in returning.items()
    }
    pass_over(module, paths, bench)
    parameters = dict(module.named_parameters())
    scores: dict[int, Tensor] = {}
    for layer, cut in returning.items():
        outgoing = parameters[cut.weight.name].detach().double().movedim(cut.axis, 0)
        added = squares[layer] * outgoing.square().sum(dim=1)
        scores[layer] = added.reshape(cut.units, -1).sum(dim=1)
    return scores


def block_influence(candidate: Candidate, bench: Bench) -> Tensor:
    """How much each block turns the hidden states, `(layers,)`.

    1 - mean cosine of what enters and what leaves, over tokens (arXiv 2403.03853, eq 1).
    """
    profile = candidate.paper.profile
    blocks = family_of(profile.family).layer
    paths = [f"{blocks}.{place}" for place in range(len(profile.layers))]
    turned = torch.zeros(len(paths), dtype=torch.float64)
    tokens = torch.zeros(len(paths), dtype=torch.float64)

    def watch(layer: int) -> Watch:
        def add(real: Tensor, entering: Tensor, leaving: Any) -> None:
            out = leaving[0] if isinstance(leaving, tuple) else leaving
            cosine = nn.functional.cosine_similarity(
                entering.double()[real], out.double()[real], dim=-1
            )
            turned[layer] += (1 - cosine).sum().to(CPU)
            tokens[layer] += len(cosine)

        return add

    pass_over(candidate.module, {path: watch(i) for i, path in enumerate(paths)}, bench)
    return turned / tokens


def channel_weights(module: nn.Module, axes: Sequence[tuple[Weight, int]]) -> Tensor:
    """Score of each hidden channel, `(width,)`: its share of each tensor's squares, summed.

    Shares, because the largest tensor (the table of words) would otherwise decide alone.
    """
    parameters = dict(module.named_parameters())
    squares = [
        parameters[weight.name].detach().double().square().movedim(axis, 0).flatten(1).sum(dim=1)
        if len(weight.shape) > 1
        else parameters[weight.name].detach().double().square()
        for weight, axis in axes
    ]
    return torch.stack([found / found.sum().clamp(min=1e-30) for found in squares]).sum(dim=0)


def channel_activations(
    module: nn.Module, axes: Sequence[tuple[Weight, int]], bench: Bench
) -> Tensor:
    """Score of each hidden channel, `(width,)`: its mean square after the norms, summed over them.

    What a norm hands on is what the blocks see of a channel (arXiv 2407.14679, section 2.2, which
    takes means of sizes).
    """
    squares: dict[str, Tensor] = {}

    def watch(path: str) -> Watch:
        def add(real: Tensor, _: Tensor, leaving: Any) -> None:
            square = leaving.double()[real].square().sum(dim=0)
            squares[path] = squares.get(path, 0) + square

        return add

    paths = {w.name.rpartition(".")[0] for w, _ in axes if w.group == "norm"}
    pass_over(module, {path: watch(path) for path in sorted(paths)}, bench)
    return torch.stack(list(squares.values())).sum(dim=0)


def strongest(scores: Tensor, stay: int) -> list[int]:
    """Places of the highest scores, ascending; of equals the first stays."""
    order = torch.argsort(scores, descending=True, stable=True)[:stay]
    return sorted(int(place) for place in order)
