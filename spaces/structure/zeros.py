"""Zeros: which weights of a matrix become zero, and a candidate with such matrices.

Equally many in every row, whatever judges them: sizes are then known on paper, and comparing within
rows is what arXiv 2306.11695 found best (section 5).
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor

from ..candidate import Candidate
from ..paper import Paper
from ..profile import Sparsity
from ..runtimes.grid import rows_of
from ..steps import Bench
from .factors import damped
from .matrices import by_block
from .observe import input_moments, input_squares

Judge = Literal["magnitude", "wanda", "sparsegpt"]

BLOCK = 128
"""Columns of which SparseGPT chooses the zeros at once, seeing what earlier ones have moved."""


def zeroed(candidate: Candidate, after: Paper, judge: Judge, bench: Bench) -> Candidate:
    """The candidate with zeros in the matrices of the paper's sparse groups.

    Args:
        candidate: without zeros; left as it is.
        after: says how many.
        judge: says which.
        bench: where calibration data comes from; `magnitude` reads none.

    Returns:
        The sparse candidate; its masks keep any training from filling the zeros.
    """
    profile = after.profile
    sparsity = dict(profile.sparsity)
    module = copy.deepcopy(candidate.module)
    tensors, masks = dict(module.named_parameters()), dict(candidate.masks)
    for block in by_block(profile, {w.name for w in profile.weights() if profile.zeros(w)}):
        given = _inputs_of(module, list(block), judge, bench)
        for path, weight in block.items():
            rows, wanted = rows_of(weight, tensors[weight.name].detach()), sparsity[weight.group]
            if judge == "sparsegpt":
                values, stays = sparsegpt(rows, wanted, given[path])
            else:
                stays = mask_of(scores_of(rows, given.get(path)), wanted)
                values = rows * stays
            rows.copy_(values)
            mask = stays if weight.input_axis == 1 else stays.t().contiguous()
            masks[weight.name] = mask & masks.get(weight.name, mask)
    return Candidate(module, after, notes=candidate.notes, masks=masks)


def scores_of(rows: Tensor, squares: Tensor | None = None) -> Tensor:
    """How much each weight matters, `(n, k)`.

    Its size; with the mean squares of the inputs `(k,)`, its size times their root (Wanda,
    arXiv 2306.11695, eq. 1; the mean in place of the sum orders alike).
    """
    sizes = rows.double().abs()
    return sizes if squares is None else sizes * squares.sqrt()


def mask_of(scores: Tensor, sparsity: Sparsity) -> Tensor:
    """True where a weight stays, `(n, k)`: the highest of a row or block; of equals the first."""
    rows, columns = scores.shape
    size = sparsity.block
    if size is None:
        return _highest(scores, columns - sparsity.zeros(columns))
    whole = columns - columns % size
    blocks = scores[:, :whole].reshape(rows, -1, size)
    stays = _highest(blocks, size - sparsity.zeros(size)).reshape(rows, whole)
    return torch.nn.functional.pad(stays, (0, columns - whole), value=True)


def sparsegpt(
    rows: Tensor, sparsity: Sparsity, moment: Tensor, block: int = BLOCK
) -> tuple[Tensor, Tensor]:
    """Values and mask of a matrix whose remaining weights make up for those that went.

    Columns are visited from left to right; what a zero takes from the outputs is put onto the
    columns right of it, in the way that changes the outputs least (arXiv 2301.00774, algorithm 1).
    The share of zeros holds in every row of a block of columns.

    Args:
        rows: `(n, k)`. sparsity: how many zeros.
        moment: of the inputs, `(k, k)`, E x x^T; damped here.
        block: columns chosen at once.

    Returns:
        `(n, k)` fp32 and bool.
    """
    values = rows.double().clone()
    columns = values.shape[1]
    inverse = torch.linalg.inv(damped(moment))
    # Row i holds the inverse of what is left of the moment from column i on (section 3.3).
    upper = torch.linalg.cholesky(inverse, upper=True)
    step = upper.diagonal()
    stays = torch.ones_like(values, dtype=torch.bool)
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        error = torch.zeros(len(values), stop - start, dtype=values.dtype)
        for i in range(start, stop):
            until = _chosen_at_once(i, start, stop, sparsity)
            if until is not None:
                scores = (values[:, i:until] / step[i:until]).square()  # eq. 3
                zeros = _zeros_between(i, until, sparsity)
                stays[:, i:until] = _highest(scores, until - i - zeros)
            lost = torch.where(stays[:, i], 0.0, values[:, i]) / step[i]
            values[:, i:stop] -= lost[:, None] * upper[i, i:stop]
            error[:, i - start] = lost
        values[:, stop:] -= error @ upper[start:stop, stop:]
    return torch.where(stays, values, 0.0).float(), stays


def _chosen_at_once(i: int, start: int, stop: int, sparsity: Sparsity) -> int | None:
    """Up to which column zeros are chosen when column i is reached; None: it was chosen before."""
    if sparsity.block is None:
        return stop if i == start else None
    return min(i + sparsity.block, stop) if i % sparsity.block == 0 else None


def _zeros_between(start: int, stop: int, sparsity: Sparsity) -> int:
    """Zeros in a row between two columns, so that whole rows come out as on paper."""
    return sparsity.zeros(stop) - sparsity.zeros(start)


def _inputs_of(
    module: torch.nn.Module, paths: list[str], judge: Judge, bench: Bench
) -> dict[str, Tensor]:
    """What the judge wants to know of the inputs of each module."""
    if judge == "magnitude":
        return {}
    return (input_squares if judge == "wanda" else input_moments)(module, paths, bench)


def _highest(scores: Tensor, stay: int) -> Tensor:
    order = scores.argsort(dim=-1, descending=True, stable=True)[..., :stay]
    return torch.zeros(scores.shape, dtype=torch.bool).scatter_(-1, order, True)
