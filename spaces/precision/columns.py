"""Rounding column by column, each error made up for by the columns still to come.

arXiv 2210.17323, algorithm 1: the greedy solution of arXiv 2208.11580 (OBQ) with one order of
columns for all rows. Scales and zeros are fixed beforehand, so that any order fits a storage of
consecutive groups.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from ..runtimes.grid import Grid

DAMPING: Final = 0.01
"""Share of the mean squared input that is added to each: the paper's. It keeps matrices with more
columns than there were tokens in bounds."""

_BLOCK: Final = 128
"""Columns whose errors reach the rest in one product."""


def by_columns(
    rows: Tensor, gram: Tensor, grid: Grid, *, ordered: bool, damping: float = DAMPING
) -> Tensor:
    """The integers of a matrix, chosen for the error of its outputs.

    What is zero stays zero, whatever it could make up for: it may have been pruned.

    Args:
        rows: `(n, k)`.
        gram: `(k, k)` sum of x x^T over what the matrix is fed.
        grid: scales and zeros.
        ordered: columns with the largest inputs first; otherwise as they stand.
        damping: share of the mean of gram's diagonal that is added to it.

    Returns:
        `(n, k)` fp32, whole numbers between `grid.low` and `grid.high`.
    """
    count = rows.shape[1]
    order = torch.arange(count, device=gram.device)
    if ordered:
        order = torch.argsort(gram.diagonal(), descending=True, stable=True)
    left = rows.double()[:, order]
    pruned = left == 0
    scale, zero = grid.scale.double(), grid.zero.double()
    factor = _factor(gram[order][:, order], damping)
    integers = torch.empty_like(left)
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        errors = left.new_empty(len(left), stop - start)
        for place in range(start, stop):
            group = int(order[place]) // grid.size
            step, middle = scale[:, group], zero[:, group]
            column = left[:, place]
            whole = torch.round(column / step).add_(middle).clamp_(grid.low, grid.high)
            whole = torch.where(pruned[:, place], middle, whole)
            error = (column - (whole - middle) * step) / factor[place, place]  # eq. 2
            left[:, place:stop] -= torch.outer(error, factor[place, place:stop])
            integers[:, place], errors[:, place - start] = whole, error
        left[:, stop:] -= errors @ factor[start:stop, stop:]  # eq. 4
    return integers[:, torch.argsort(order)].float()


def output_error(change: Tensor, gram: Tensor) -> Tensor:
    """Squared error of each output that a change of the rows makes: `(n, k)` to `(n,)`."""
    return ((change @ gram.to(change.dtype)) * change).sum(dim=1)


def _factor(gram: Tensor, damping: float) -> Tensor:
    """The upper triangular U with U^T U = (gram + damping)^-1.

    From the Cholesky factor of the matrix turned upside down: half the work of inverting first.
    """
    mean = gram.diagonal().mean()
    added = damping * mean if mean > 0 else torch.ones_like(mean)
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    lower = torch.linalg.cholesky((gram + added * eye).flip(0, 1))
    factor: Tensor = torch.linalg.solve_triangular(lower.flip(0, 1), eye, upper=True)
    return factor
