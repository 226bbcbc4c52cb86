"""Factors: a matrix as the product of two thin ones, and a candidate with such matrices."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ..build import kept_tensors
from ..candidate import Candidate
from ..family import NARROW, WIDEN
from ..paper import Paper
from ..profile import Profile
from ..runtimes.grid import rows_of
from ..steps import Bench
from .matrices import by_block
from .observe import input_moments
from .surgery import filled

DAMPING = 0.01
"""What is added to every input's second moment, as a share of their mean (as in arXiv 2210.17323):
directions that the calibration split hardly takes are not given up for nothing."""


def factors(rows: Tensor, rank: int, moment: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The two matrices of a rank whose product is nearest to a matrix.

    Without a moment nearest in the sum of squares (Eckart and Young 1936), with one in the mean
    square of what it answers: with `moment = L L^T`, E |(W - M) x|^2 = |(W - M) L|^2, whose best M
    is `U U^T W` for the first left singular vectors U of `W L`. This is the optimum that arXiv
    2403.07378 reaches through the inverse of L, which is not needed.

    Args:
        rows: `(n, k)`. rank: at most the smaller of both.
        moment: of the inputs, `(k, k)`, E x x^T; None: all directions count alike.

    Returns:
        `widen` `(n, rank)`, its columns orthonormal, and `narrow` `(rank, k)`, fp32. Orthonormal,
        so that int8's one scale a row fits what is in it.
    """
    whole = rows.double()
    seen = whole if moment is None else whole @ torch.linalg.cholesky(damped(moment))
    left = torch.linalg.svd(seen, full_matrices=False).U[:, :rank]
    return left.float(), (left.t() @ whole).float()


def damped(moment: Tensor) -> Tensor:
    """A second moment that can be inverted, `(k, k)` fp64."""
    mean = moment.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
    return moment + DAMPING * mean * torch.eye(len(moment), dtype=moment.dtype)


def factorised(candidate: Candidate, after: Paper, judge: Bench | None) -> Candidate:
    """The candidate with thin matrices where the paper has them.

    Args:
        candidate: with whole ones; left as it is.
        after: says which matrices become thin, and their ranks.
        judge: where calibration data comes from; None: the weights alone are looked at.
    """
    profile = candidate.paper.profile
    module = copy.deepcopy(candidate.module)
    tensors = dict(module.named_parameters())
    new = kept_tensors(module)
    ranks = _ranks(profile, after.profile)
    for block in by_block(profile, ranks):
        moments = {} if judge is None else input_moments(module, list(block), judge)
        for path, weight in block.items():
            rows = rows_of(weight, tensors[weight.name].detach())
            widen, narrow = factors(rows, ranks[weight.name], moments.get(path))
            rows.copy_(widen @ narrow)
            del new[weight.name]
            new |= {f"{path}.{NARROW}.weight": narrow, f"{path}.{WIDEN}.weight": widen}
            if f"{path}.bias" in new:
                new[f"{path}.{WIDEN}.bias"] = new.pop(f"{path}.bias")
    return Candidate(filled(after.profile, new), after, notes=candidate.notes)


def _ranks(before: Profile, after: Profile) -> dict[str, int]:
    """The rank of every matrix that becomes thin, by its name."""
    thin = {weight.name: weight.shape[0] for weight in after.weights()}
    names = (weight.name.removesuffix(".weight") for weight in before.weights())
    narrow = {f"{path}.weight": f"{path}.{NARROW}.weight" for path in names}
    return {name: thin[first] for name, first in narrow.items() if first in thin}
