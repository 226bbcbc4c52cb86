"""Scales fitted to the weights alone, outliers counting less than in a least-squares fit.

The splitting of HQQ (Badri and Shaji, 2023): the errors' p-norm, p < 1, is minimised by turns over
the errors that are let go, which has a closed form, and over the grid, which has one too. HQQ keeps
the scale and fits a zero that is a real number; here a zero is a whole number of four bits, so the
scale is what is fitted, and zeros beside the first one are tried.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from ..profile import Format
from ..runtimes.grid import Grid, extremes, grouped, storable

POWER: Final = 0.7
_BETA: Final = 10.0
_GROWTH: Final = 1.01
_TURNS: Final = 20
_ROWS: Final = 4096
"""Rows fitted at a time: a vocabulary's table would need several times its own size."""


def half_quadratic(rows: Tensor, form: Format) -> Grid:
    """The grid with the smallest p-norm of errors that was found, never one worse than nearest's.

    Args:
        rows: `(n, k)` fp32.
        form: a format of whole numbers.
    """
    parts = [_fitted(part, form) for part in torch.split(rows, _ROWS)]
    scale, zero = (torch.cat([getattr(part, name) for part in parts]) for name in ("scale", "zero"))
    return replace(parts[0], scale=scale, zero=zero)


def lost(rows: Tensor, grid: Grid) -> Tensor:
    """The p-norm, to the power p, of each group's errors: `(n, groups)`."""
    errors = rows - grid.values(grid.nearest(rows))
    return grouped(errors, grid.size).abs().pow(POWER).sum(dim=2)


def _fitted(rows: Tensor, form: Format) -> Grid:
    best = start = extremes(rows, form)
    least = lost(rows, start)
    shifts = (0,) if form.name == "int8" else (0, -1, 1)
    for shift in shifts:
        zero = (start.zero + shift).clamp(start.low, start.high)
        found = replace(start, scale=_scale(rows, replace(start, zero=zero), form), zero=zero)
        loss = lost(rows, found)
        best = best.where(loss < least, found)
        least = torch.minimum(loss, least)
    return best


def _scale(rows: Tensor, grid: Grid, form: Format) -> Tensor:
    """Scales for given zeros, `(n, groups)`; errors are counted in the first grid's steps."""
    weights = grouped(rows, grid.size) / grid.scale[..., None]
    zero = grid.zero[..., None]
    factor, beta = torch.ones_like(zero), _BETA
    for _ in range(_TURNS):
        whole = torch.round(weights / factor).add_(zero).clamp_(grid.low, grid.high) - zero
        error = weights - factor * whole
        let_go = error.sign() * (error.abs() - error.abs().pow(POWER - 1) / beta).clamp(min=0)
        power = whole.square().sum(dim=2, keepdim=True)
        fit = ((weights - let_go) * whole).sum(dim=2, keepdim=True) / power.clamp(min=1)
        factor = torch.where(fit > 0, fit, factor)
        beta *= _GROWTH
    return storable(grid.scale * factor[..., 0], form)
