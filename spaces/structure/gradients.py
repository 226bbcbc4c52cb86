"""Which units matter to the loss: first-order Taylor on the calibration split, labels read.

A unit is given a gate of 1; the derivative of an item's loss by its gate is, to first order, what
the item loses without the unit, and equals the sum of gradient times weight over the columns that
bring the unit back to the hidden states (arXiv 1906.10771, eq. 7; for heads 1905.10650, eq. 2).
Sizes are summed over items: one item's gain does not make up for another's loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..batching import inputs_of
from ..candidate import Candidate
from ..device import CPU, computing_on, to_the_bit
from ..families import family_of
from ..losses import IGNORED, task_loss
from ..steps import Bench
from .cuts import Cut
from .observe import calibration

Gates = dict[str, Tensor]
"""The gates of one pass, by the path of the module that they stand at."""


def unit_gradients(
    module: nn.Module, cuts: Mapping[int, Sequence[Cut]], bench: Bench
) -> dict[int, Tensor]:
    """Score of each unit by layer, `(units,)`: how much the loss changes without it."""
    returning = {layer: next(cut for cut in found if cut.returns) for layer, found in cuts.items()}
    paths = {cut.weight.name.removesuffix(".weight"): layer for layer, cut in returning.items()}
    scores = {
        layer: torch.zeros(cut.units, dtype=torch.float64) for layer, cut in returning.items()
    }
    for items, found in _derivatives(module, paths, _gate_input, bench):
        for path, derivative in found.items():
            units = returning[paths[path]].units
            # Tokens may come flattened: the first axis is that of the items either way.
            by_unit = derivative.double().reshape(items, -1, units, derivative.shape[-1] // units)
            scores[paths[path]] += by_unit.sum(dim=(1, 3)).abs().sum(dim=0)
    return scores


def block_gradients(candidate: Candidate, bench: Bench) -> Tensor:
    """How much the loss changes when each block hands on what enters it, `(layers,)`."""
    profile = candidate.paper.profile
    blocks = family_of(profile.family).layer
    places = {f"{blocks}.{place}": place for place in range(len(profile.layers))}
    scores = torch.zeros(len(places), dtype=torch.float64)
    for items, found in _derivatives(candidate.module, places, _gate_block, bench):
        for path, derivative in found.items():
            by_item = derivative.double().reshape(items, -1).sum(dim=1)
            scores[places[path]] += by_item.abs().sum()
    return scores


def _derivatives(
    module: nn.Module, paths: Mapping[str, int], gate: Gate, bench: Bench
) -> Iterator[tuple[int, Gates]]:
    """For every calibration batch its number of items, and the summed loss by every gate."""
    device = torch.device(bench.device)
    with computing_on(bench.device, module), to_the_bit(bench.device):
        for batch in calibration(bench):
            labels = torch.tensor(batch.labels, device=device)
            with _gated(module, paths, gate) as gates, torch.enable_grad():
                logits = module(**inputs_of(batch, device)).logits
                judged = len(labels) if labels.ndim == 1 else int((labels[:, 1:] != IGNORED).sum())
                # The mean over what is judged would weigh the items of a short batch more.
                loss = task_loss(logits, labels) * judged
                found = [g.to(CPU) for g in torch.autograd.grad(loss, list(gates.values()))]
            yield len(labels), dict(zip(gates, found, strict=True))


Gate = Callable[[nn.Module, Gates, str], Any]
"""Puts a gate at a module; returns the handle of its hook."""


def _gate_input(module: nn.Module, gates: Gates, path: str) -> Any:
    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        gates[path] = torch.ones_like(args[0], requires_grad=True)
        return (args[0] * gates[path], *args[1:])

    return module.register_forward_pre_hook(hook)


def _gate_block(module: nn.Module, gates: Gates, path: str) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any], out: Any) -> Any:
        entering = args[0] if args else named["hidden_states"]
        leaving = out[0] if isinstance(out, tuple) else out
        gates[path] = torch.zeros_like(leaving[..., :1], requires_grad=True)
        # At 0 the block's own output, bit for bit; at 1 what entered it.
        turned = leaving + gates[path] * (entering - leaving).detach()
        return (turned, *out[1:]) if isinstance(out, tuple) else turned

    return module.register_forward_hook(hook, with_kwargs=True)


@contextmanager
def _gated(module: nn.Module, paths: Mapping[str, int], gate: Gate) -> Iterator[Gates]:
    gates: Gates = {}
    handles = [gate(module.get_submodule(path), gates, path) for path in paths]
    try:
        yield gates
    finally:
        for handle in handles:
            handle.remove()
