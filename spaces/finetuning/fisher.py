"""Fisher information of single elements, and the elements that have the most of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import islice

import torch
from torch import Tensor, nn

from ...errors import DataError, StepFailed
from ..batching import inputs_of
from ..device import CPU, computing_on, to_the_bit
from ..families import family_of
from ..losses import task_loss
from ..profile import Profile
from ..recipe import Mask
from ..steps import Bench
from ..task import trimmed
from ..training import derived_seed


def fisher_information(
    module: nn.Module, profile: Profile, mask: Mask, bench: Bench, items: int, seed: int
) -> dict[str, Tensor]:
    """Sum over items of the squared gradient of the loss, by parameter under the mask.

    The diagonal of the empirical Fisher information (arXiv 2111.09839): each item's gradient
    is squared by itself, with the label that it has. Without dropout.

    Args:
        module: left as it is.
        profile: what it is on paper.
        mask: which parameters count.
        bench: for the train split.
        items: so many of it at most, drawn by the seed.
        seed: of their order.

    Raises:
        StepFailed: kind `diverged`, a gradient is not finite.
        DataError: the train split is empty.
    """
    module = copy.deepcopy(module).eval()
    told = {"use_cache": False} if family_of(profile.family).kind == "decoder" else {}
    weights = {}
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(mask.covers(name))
        if parameter.requires_grad:
            weights[name] = parameter
    scores = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    order = derived_seed("fisher", seed)
    seen = 0
    with computing_on(bench.device, module), to_the_bit(bench.device):
        for full in islice(bench.batches("train", batch=1, seed=order), items):
            bench.training_turn()
            item = trimmed(full)
            device = next(module.parameters()).device
            logits = module(**inputs_of(item, device), **told).logits
            loss = task_loss(logits, torch.tensor(item.labels, device=device))
            found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for score, gradient in zip(scores.values(), found, strict=True):
                if gradient is not None:
                    score += gradient.square().to(CPU)
            seen += 1
            bench.progress(seen, items)
    if not seen:
        raise DataError("the train split is empty; give the task training items")
    if not all(bool(torch.isfinite(score).all()) for score in scores.values()):
        raise StepFailed(
            "diverged", "the given model's gradients are not finite; check its weights"
        )
    return scores


def most_informed(scores: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Places of the highest scores of all parameters together; of equals the first.

    Args:
        scores: by parameter, of any shape.
        count: how many places in all, at least 1.

    Returns:
        By parameter, ascending int64 places in it when laid flat; empty where it has none.
    """
    flat = torch.cat([score.detach().flatten() for score in scores.values()])
    least = torch.topk(flat, count).values[-1]
    chosen = flat > least
    equals = torch.nonzero(flat == least).flatten()
    chosen[equals[: count - int(chosen.sum())]] = True
    apart = torch.split(chosen, [score.numel() for score in scores.values()])
    return {n: torch.nonzero(p).flatten() for n, p in zip(scores, apart, strict=True)}
