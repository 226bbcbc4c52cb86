"""How much of a channel's size is moved, and where extremes are cut: searched or computed.

AWQ (arXiv 2306.00978, section 3.2): channels that are fed large numbers keep more of their weights'
exactness when they are scaled up before rounding. SmoothQuant (arXiv 2211.10438, eq. 4): sizes move
from activations into weights, so that both are rounded alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from ..profile import Format
from ..runtimes.grid import Grid, extremes, grouped
from .columns import output_error
from .fed import Fed
from .folds import Fold

POWERS: Final = tuple(step / 10 for step in range(11))
"""Of the mean input: 0 leaves the channels as they are."""

SHARES: Final = tuple(1 - step / 20 for step in range(11))
"""Of a group's extremes: 1 cuts nothing off."""

_FLOOR: Final = 0.01
"""Share of the mean below which a channel counts no smaller: one that is silent on the calibration
split may not be silent elsewhere."""


def awq_numbers(
    place: Fold, readers: Sequence[tuple[Tensor, Format]], fed: Sequence[Fed]
) -> Tensor:
    """The numbers of a fold with the smallest squared error of all readers' outputs.

    Args:
        place: the fold.
        readers: rows and format of each matrix that reads it.
        fed: what each is fed.

    Returns:
        `(channels,)`; ones where nothing is gained.
    """
    size = _floored(place.made(fed[0].total).mean(dim=0)).float()
    best, least = torch.ones_like(size), float("inf")
    for power in POWERS:
        numbers = size**power
        numbers = numbers / (numbers.max() * numbers.min()).sqrt()
        columns, error = place.read(numbers), 0.0
        for (rows, form), seen in zip(readers, fed, strict=True):
            wide = rows * columns
            grid = extremes(wide, form)
            change = grid.values(grid.nearest(wide)) / columns - rows
            error += float(output_error(change, seen.gram).sum())
        if error < least:
            best, least = numbers, error
    return best


def smooth_numbers(
    place: Fold,
    readers: Sequence[tuple[Tensor, Format]],
    fed: Sequence[Fed],
    strength: float,
) -> Tensor:
    """The numbers of a fold that even out activations and weights, `(channels,)`.

    Args:
        place: the fold.
        readers: rows and format of each matrix that reads it. fed: what each is fed.
        strength: share of the activations' size that moves, in (0, 1).
    """
    largest = place.made(fed[0].largest).amax(dim=0)
    columns = torch.stack([rows.abs().amax(dim=0) for rows, _ in readers]).amax(dim=0)
    weights = place.made(columns).amax(dim=0)
    return _floored(largest) ** strength / _floored(weights) ** (1 - strength)


def clipped(rows: Tensor, gram: Tensor, form: Format) -> Grid:
    """The grid whose extremes are cut where that makes the group's own output error smallest."""
    best = extremes(rows, form)
    blocks = _blocks(gram, best.size).float()
    least = _group_error(rows, best, blocks)
    for share in SHARES[1:]:
        tried = extremes(rows, form, share)
        error = _group_error(rows, tried, blocks)
        best = best.where(error < least, tried)
        least = torch.minimum(error, least)
    return best


def _floored(sizes: Tensor) -> Tensor:
    """Sizes that are no smaller than a share of their mean, and never 0."""
    mean = sizes.mean()
    return sizes.clamp(min=float(_FLOOR * mean)) if mean > 0 else torch.ones_like(sizes)


def _blocks(gram: Tensor, size: int) -> Tensor:
    """The square of each group on the diagonal, `(groups, size, size)`, filled up with zeros."""
    filling = -len(gram) % size
    filled = torch.nn.functional.pad(gram, (0, filling, 0, filling))
    groups = len(filled) // size
    return filled.reshape(groups, size, groups, size).diagonal(dim1=0, dim2=2).movedim(2, 0)


def _group_error(rows: Tensor, grid: Grid, blocks: Tensor) -> Tensor:
    """Squared output error of every group by itself, `(n, groups)`."""
    change = grouped(grid.values(grid.nearest(rows)) - rows, grid.size)
    return (torch.einsum("ngi,gij->ngj", change, blocks) * change).sum(dim=2)
