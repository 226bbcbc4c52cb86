"""Which units matter: from the weights alone, or from what they do on the calibration split.

A unit is a group of heads or a feed-forward neuron; a block is judged by `block_influence`. Scores
order the units of one layer among themselves and mean nothing across layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import DataError
from ..batching import inputs_of
from ..candidate import Candidate
from ..device import CPU, computing_on
from ..families import family_of
from ..steps import Bench
from .cuts import Cut

BATCH = 16
"""Calibration items per forward pass."""


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

    def watch(layer: int) -> Callable[[Tensor, Tensor, Any], None]:
        def add(real: Tensor, entering: Tensor, _: Any) -> None:
            square = entering.double()[real].square().sum(dim=0)
            squares[layer] = squares.get(layer, 0) + square.to(CPU)

        return add

    paths = {
        cut.weight.name.removesuffix(".weight"): watch(layer) for layer, cut in returning.items()
    }
    _pass_over(module, paths, bench)
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

    def watch(layer: int) -> Callable[[Tensor, Tensor, Any], None]:
        def add(real: Tensor, entering: Tensor, leaving: Any) -> None:
            out = leaving[0] if isinstance(leaving, tuple) else leaving
            cosine = nn.functional.cosine_similarity(
                entering.double()[real], out.double()[real], dim=-1
            )
            turned[layer] += (1 - cosine).sum().to(CPU)
            tokens[layer] += len(cosine)

        return add

    _pass_over(candidate.module, {path: watch(i) for i, path in enumerate(paths)}, bench)
    return turned / tokens


def strongest(scores: Tensor, stay: int) -> list[int]:
    """Places of the highest scores, ascending; of equals the first stays."""
    order = torch.argsort(scores, descending=True, stable=True)[:stay]
    return sorted(int(place) for place in order)


def _pass_over(
    module: nn.Module, watched: Mapping[str, Callable[[Tensor, Tensor, Any], None]], bench: Bench
) -> None:
    """One pass over the calibration split, on the bench's device.

    Watchers get mask `(b, s)`, input and output.
    """
    seen, device = 0, torch.device(bench.device)
    with computing_on(bench.device, module):
        for batch in bench.batches("calibration", batch=BATCH):
            inputs = inputs_of(batch, device)
            with _watching(module, watched, inputs["attention_mask"].bool()), torch.no_grad():
                module(**inputs)
            seen += len(batch.items)
    if not seen:
        raise DataError(
            "the calibration split is empty; choose an importance that reads no data, "
            "or give the task calibration items"
        )


@contextmanager
def _watching(
    module: nn.Module, watched: Mapping[str, Callable[[Tensor, Tensor, Any], None]], real: Tensor
) -> Iterator[None]:
    def hook(watch: Callable[[Tensor, Tensor, Any], None]) -> Callable[..., None]:
        def call(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any], out: Any) -> None:
            entering = args[0] if args else named["hidden_states"]
            # distilbert's feed-forward and GPT-2's projections may see tokens flattened
            watch(real if entering.dim() == 3 else real.flatten(), entering, out)

        return call

    handles = [
        module.get_submodule(path).register_forward_hook(hook(watch), with_kwargs=True)
        for path, watch in watched.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
