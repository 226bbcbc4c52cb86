"""The largest hypervolume of a problem, as far as it can be found: a genetic search of millions.

For problems whose points can be judged many at once (`Benchmark.at`). What comes out is a lower
bound: two searches from different seeds say how far to trust it.
"""

from __future__ import annotations

import numpy as np

from ..errors import BadRequest
from ..search.pareto import non_dominated
from .benchmark import Array, Benchmark, Searchable

CHILDREN = 20_000
"""Points of a generation."""

MOST_PARENTS = 5_000
"""More of a front are thinned out at random: fronts of four objectives have no end."""

RATES = (0.03, 0.1, 0.3)
"""Shares of genes that a mutation changes."""


def greatest(benchmark: Benchmark, evaluations: int, seed: int) -> float:
    """The hypervolume of the front that a genetic search finds.

    Args:
        benchmark: one that is `Searchable`. evaluations: points judged, rounded up to whole
            generations of `CHILDREN`. seed: of the search.

    Raises:
        BadRequest: a problem whose points can only be asked one by one.
    """
    if not isinstance(benchmark, Searchable):
        raise BadRequest(
            "this problem has no search for its optimum; it is known without, or not at all"
        )
    rng = np.random.default_rng(seed)
    first = min(CHILDREN, evaluations)
    genes = _drawn(first, benchmark.genes, rng)
    genes, losses = _front(genes, benchmark.at(genes), rng)
    for _ in range(-(-evaluations // CHILDREN) - 1):
        made = _children(genes, rng)
        found = benchmark.at(made)
        genes, losses = _front(np.vstack([genes, made]), np.vstack([losses, found]), rng)
    return benchmark.hypervolume(losses)


def _drawn(count: int, size: int, rng: np.random.Generator) -> Array:
    """Half of them even, half about a level that the genes of one point share.

    Even draws alone are all average where many genes do the same.
    """
    even = rng.random((count, size))
    level = rng.random((count, 1)) + 0.2 * rng.standard_normal((count, size))
    return np.where(rng.random((count, 1)) < 0.5, even, _inside(level))


def _children(parents: Array, rng: np.random.Generator) -> Array:
    """Two parents crossed, then some genes anew or moved a little."""
    first, second = parents[rng.integers(len(parents), size=(2, CHILDREN))]
    shape = first.shape
    made = np.where(rng.random(shape) < rng.random((CHILDREN, 1)), first, second)
    moved = _inside(made + 0.1 * rng.standard_normal(shape))
    other = np.where(rng.random((CHILDREN, 1)) < 0.5, rng.random(shape), moved)
    return np.where(rng.random(shape) < rng.choice(RATES, size=(CHILDREN, 1)), other, made)


def _inside(genes: Array) -> Array:
    return np.clip(genes, 0.0, np.nextafter(1.0, 0.0))


def _front(genes: Array, losses: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """What no other point dominates, each once, not too many; infinite losses never stay."""
    _, once = np.unique(losses, axis=0, return_index=True)
    kept = once[np.isfinite(losses[once]).all(axis=1)]
    kept = kept[non_dominated(losses[kept])]
    if len(kept) > MOST_PARENTS:
        ends = kept[np.argmin(losses[kept], axis=0)]
        kept = np.union1d(ends, rng.choice(kept, MOST_PARENTS, replace=False))
    return genes[kept], losses[kept]
