"""Acquisition: what a candidate is expected to add to the front. Minimised, closed form.

Expected hypervolume improvement for any number of objectives over disjoint boxes: the region that
the front leaves open below the reference is cut into boxes, and a Gaussian's expected share of a
box is a product over objectives (boxes as in arXiv 2105.08195; the closed form for two is eq. 7 of
1905.02370). An objective that is known exactly has a standard deviation of 0.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr

from ..pareto import non_dominated

Array = NDArray[np.float64]

MOST_BOXED_OBJECTIVES = 4
"""Beyond these the number of boxes explodes and `chebyshev_improvement` takes over."""


def open_boxes(front: Array, reference: Array) -> tuple[Array, Array]:
    """Disjoint boxes that together are all that would improve a front.

    Args:
        front: `(n, m)` losses; rows beyond the reference and dominated rows change nothing.
        reference: `(m,)`.

    Returns:
        Lower and upper corners, `(b, m)` each; lower ones may be minus infinity.

    >>> low, high = open_boxes(np.array([[1.0, 1.0]]), np.array([2.0, 2.0]))
    >>> high.tolist()
    [[2.0, 1.0], [1.0, 2.0]]
    """
    inside = front[(front < reference).all(axis=1)]
    rows = np.unique(inside[non_dominated(inside)], axis=0) if len(inside) else inside
    boxes = _slabs(rows, reference)
    corners = np.array(boxes, dtype=np.float64).reshape(len(boxes), 2, len(reference))
    return corners[:, 0], corners[:, 1]


def expected_improvement(means: Array, deviations: Array, lower: Array, upper: Array) -> Array:
    """Expected hypervolume improvement of each candidate alone.

    Args:
        means, deviations: `(k, m)`; a deviation of 0 is an exact value.
        lower, upper: `(b, m)` from `open_boxes`.

    Returns:
        `(k,)`, at least 0.
    """
    pairs = [_distinct_sides(lower[:, j], upper[:, j]) for j in range(means.shape[1])]
    scores = np.empty(len(means), dtype=np.float64)
    # In pieces that stay in the cache: 5 x faster than all at once with thousands of boxes.
    step = max(16, 2**17 // max(1, len(lower)))
    for at in range(0, len(means), step):
        piece = slice(at, at + step)
        product = np.ones((len(lower), len(means[piece])))
        for j, (low, high, place) in enumerate(pairs):
            mean, deviation = means[piece, j], deviations[piece, j]
            share = _shortfall(high, mean, deviation) - _shortfall(low, mean, deviation)
            product *= share[place]
        scores[piece] = product.sum(axis=0)
    np.maximum(scores, 0.0, out=scores)
    return scores


def _distinct_sides(lower: Array, upper: Array) -> tuple[Array, Array, NDArray[np.intp]]:
    """Boxes share sides: the distinct ones, and which of them each box has."""
    sides, place = np.unique(np.stack([lower, upper], axis=1), axis=0, return_inverse=True)
    return sides[:, 0], sides[:, 1], place.reshape(len(lower))


def chebyshev_improvement(means: Array, deviations: Array, seen: Array, weights: Array) -> Array:
    """Expected improvement of the weighted Chebyshev distance, for many objectives.

    The distance of a candidate is taken as normal, with the mean and the deviation of the objective
    that decides it: a scalarisation that costs nothing, not an exact expectation.

    Args:
        means, deviations: `(k, m)`. seen: `(n, m)` losses so far, all scaled alike near [0, 1].
        weights: `(m,)`, positive.

    Source: ParEGO, Knowles 2006, with the augmented term of .05.
    """
    best = _chebyshev(seen, weights).min()
    mean = _chebyshev(means, weights)
    decides = np.argmax(weights * means, axis=1)
    spread = (weights * deviations)[np.arange(len(means)), decides]
    return np.asarray(_shortfall(np.array([best]), mean, spread)[0])


def log_probability_below(bounds: Array, means: Array, deviations: Array) -> Array:
    """Log probability that all of several figures stay below their bounds: `(k,)`."""
    return np.asarray(
        log_ndtr((bounds - means) / np.maximum(deviations, 1e-12)).sum(axis=1), dtype=np.float64
    )


def _chebyshev(losses: Array, weights: Array) -> Array:
    return np.asarray((weights * losses).max(axis=1) + 0.05 * (weights * losses).sum(axis=1))


def _shortfall(sides: Array, means: Array, deviations: Array) -> Array:
    """E[max(side - y, 0)] for normal y: `(s, k)`; 0 for a side at minus infinity."""
    finite = np.isfinite(sides)
    gap = np.where(finite, sides, 0.0)[:, None] - means
    exact = deviations <= 0.0
    safe = np.where(exact, 1.0, deviations)
    z = gap / safe
    smooth = gap * ndtr(z) + safe * np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)
    value = np.where(exact, gap, smooth)
    return np.where(finite[:, None], np.maximum(value, 0.0), 0.0)


def _slabs(rows: Array, reference: Array) -> list[tuple[list[float], list[float]]]:
    """Slices along the last objective; within a slice, the boxes that its rows leave open."""
    if len(reference) == 1:
        return [([-np.inf], [float(rows.min(initial=reference[0]))])]
    last = rows[:, -1] if len(rows) else np.zeros(0)
    cuts = [-np.inf, *np.unique(last).tolist(), float(reference[-1])]
    boxes: list[tuple[list[float], list[float]]] = []
    for below, above in pairwise(cuts):
        active = rows[last <= below, :-1]
        if len(reference) > 2 and len(active):
            active = np.unique(active[non_dominated(active)], axis=0)
        for low, high in _slabs(active, reference[:-1]):
            boxes.append(([*low, below], [*high, above]))
    return boxes
