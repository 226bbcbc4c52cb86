"""Pareto mathematics: dominance, hypervolume, ranks, the knee, the chance of being on the front.

Everything is minimised; the sign flips at the objective's edge, never here. The heavy work is
moocore's (C, exact); this file fixes what it means for ties, empty sets, one objective and NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import moocore
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

SURE: Final = 1.645
"""Standard errors of a difference beyond which it is taken for one: 95 %, one-sided."""


def non_dominated(losses: Array) -> Mask:
    """Which rows no other row dominates. Equal rows stay together: all or none.

    Args:
        losses: `(n, m)`, lower is better. NaN is refused: drop failed trials before.

    Returns:
        `(n,)` mask.

    >>> non_dominated(np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0]])).tolist()
    [True, True, False]
    """
    losses = _checked(losses)
    if len(losses) == 0 or losses.shape[1] == 1:
        return np.asarray(losses[:, 0] == losses.min(initial=np.inf), dtype=bool)
    return np.asarray(moocore.is_nondominated(_ordinal(losses), keep_weakly=True), dtype=bool)


def non_dominated_ranks(losses: Array) -> NDArray[np.int64]:
    """The front that each row belongs to: 0 the front, 1 the front of the rest, and so on.

    Args:
        losses: `(n, m)`, lower is better. NaN is refused.

    Source: non-dominated sorting, Deb et al. 2002 (NSGA-II).

    >>> non_dominated_ranks(np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0]])).tolist()
    [0, 0, 1]
    """
    losses = _checked(losses)
    if len(losses) == 0 or losses.shape[1] == 1:
        return np.unique(losses[:, 0], return_inverse=True)[1].astype(np.int64)
    return np.asarray(moocore.pareto_rank(_ordinal(losses)), dtype=np.int64)


def sure_ranks(losses: Array, errors: Array) -> NDArray[np.int64]:
    """Fronts as in `non_dominated_ranks`, where only what is surely better dominates.

    Surely: in every objective by at least `SURE` standard errors of the difference, the errors of
    two rows being independent. Exact figures are compared as they are.

    Args:
        losses: `(n, m)`, lower is better. NaN is refused.
        errors: `(n, m)` standard errors, 0 for what is exact.

    >>> losses = np.array([[0.5, 1.0], [0.52, 2.0]])
    >>> sure_ranks(losses, np.array([[0.0, 0.0]] * 2)).tolist()
    [0, 1]
    >>> sure_ranks(losses, np.array([[0.07, 0.0]] * 2)).tolist()
    [0, 0]
    """
    losses = _checked(losses)
    errors = _checked(np.broadcast_to(errors, losses.shape))
    if not errors.any():
        return non_dominated_ranks(losses)
    better = np.ones((len(losses), len(losses)), dtype=bool)  # [j, i]: j is surely better than i
    somewhere = np.zeros_like(better)
    for loss, error in zip(losses.T, errors.T, strict=True):
        needed = SURE * np.hypot(error[:, None], error[None, :])
        better &= loss[None, :] >= loss[:, None] + needed
        somewhere |= loss[None, :] > loss[:, None]
    better &= somewhere
    ranks = np.full(len(losses), -1, dtype=np.int64)
    over, rank = better.sum(axis=0), 0
    while (ranks < 0).any():
        front = (ranks < 0) & (over == 0)
        ranks[front], rank = rank, rank + 1
        over = over - better[front].sum(axis=0)
    return ranks


def spread_order(losses: Array, taken: Array) -> list[int]:
    """Rows in an order in which each lies farthest from all before it; the first of equals.

    Args:
        losses: `(n, m)` on scales on which distances mean something.
        taken: `(t, m)` rows before the first, t >= 1.

    Source: Gonzalez 1985; to choose among equal ranks: Schmucker et al. 2021 (arXiv 2106.12639).

    >>> spread_order(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[0.1, 0.9]]))
    [1, 0]
    """
    gaps = ((losses[:, None] - taken[None]) ** 2).sum(axis=2).min(axis=1)
    order: list[int] = []
    for _ in range(len(losses)):
        order.append(int(np.argmax(gaps)))
        gaps = np.minimum(gaps, ((losses - losses[order[-1]]) ** 2).sum(axis=1))
        gaps[order] = -1.0
    return order


def hypervolume(losses: Array, reference: Array) -> float:
    """Volume that a front dominates below a reference point; larger is better.

    Args:
        losses: `(n, m)`, lower is better. NaN and minus infinity are refused. Rows beyond the
            reference count nothing.
        reference: `(m,)`, finite.

    >>> hypervolume(np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([3.0, 3.0]))
    3.0
    """
    losses, reference = _checked(losses, reference)
    if len(losses) == 0:
        return 0.0
    if losses.shape[1] == 1:
        return float(max(0.0, reference[0] - losses.min()))
    return float(moocore.hypervolume(losses, ref=reference))


def contributions(losses: Array, reference: Array) -> Array:
    """Hypervolume that each row alone adds; 0 for dominated and for repeated rows.

    Args:
        losses: `(n, m)`, lower is better. NaN and minus infinity are refused.
        reference: `(m,)`, finite.

    >>> contributions(np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([3.0, 3.0])).tolist()
    [1.0, 1.0]
    """
    losses, reference = _checked(losses, reference)
    if len(losses) == 0:
        return np.zeros(0)
    if losses.shape[1] == 1:
        best, single = losses[:, 0] == losses.min(), np.zeros(len(losses))
        if best.sum() == 1:
            second = np.min(losses[~best], initial=reference[0])
            single[best] = max(0.0, min(second, reference[0]) - losses.min())
        return single
    # moocore's default forgets the dominated rows that would step in for a removed one.
    alone = moocore.hv_contributions(losses, ref=reference, ignore_dominated=False)
    return np.asarray(alone, dtype=np.float64)


def reference_point(baseline: Array | None, initial: Array, limits: Array | None = None) -> Array:
    """Where a study's hypervolume is measured from; take it once, store it, never move it.

    The user's limit where there is one. Elsewhere the worst value among the non-dominated rows of
    baseline and initial design, and a tenth of the rows' range beyond it (on a logarithmic scale
    where all values are positive).

    Args:
        baseline: `(m,)` losses, None where there is none.
        initial: `(n, m)` losses of the initial design.
        limits: `(m,)` losses, not finite where the user set none.

    Raises:
        ValueError: no rows at all, or NaN among the losses.

    >>> reference_point(None, np.array([[1.0, -3.0], [10.0, -5.0]])).round(3).tolist()
    [12.589, -2.8]
    """
    initial = np.atleast_2d(np.asarray(initial, dtype=np.float64))
    rows = initial if baseline is None else np.vstack([initial, np.atleast_2d(baseline)])
    rows = _checked(rows)
    if len(rows) == 0:
        raise ValueError("a reference point needs the baseline or one finished trial")
    columns = rows.shape[1]
    front = rows[non_dominated(rows)]
    reference = np.array([_beyond(rows[:, j], front[:, j]) for j in range(columns)])
    caps = np.full(columns, np.nan) if limits is None else np.asarray(limits, dtype=np.float64)
    return np.where(np.isfinite(caps), caps, reference)


def just_beyond(losses: Array) -> Array:
    """A point that every row improves on, so that each extreme contributes some volume.

    Args:
        losses: `(n, m)`, n >= 1.

    >>> just_beyond(np.array([[1.0, 5.0], [2.0, 5.0]])).tolist()
    [2.1, 5.5]
    """
    low, high = losses.min(axis=0), losses.max(axis=0)
    size = np.where(high != 0.0, np.abs(high), 1.0)  # of a column of equals
    return np.asarray(high + 0.1 * np.where(high > low, high - low, size))


def knee(front: Array) -> int:
    """Row of the knee: where giving up a little of one objective starts to cost much of another.

    Each objective is scaled to [0, 1] over the rows; the knee lies farthest below the plane through
    the extremes, which is the smallest sum. The first of equals.

    Args:
        front: `(n, m)`, n >= 1, lower is better. NaN is refused.

    Source: Das 1999, "On characterizing the knee of the Pareto curve".

    >>> knee(np.array([[0.0, 1.0], [0.1, 0.1], [1.0, 0.0]]))
    1
    """
    front = _checked(front)
    if len(front) == 0:
        raise ValueError("an empty front has no knee")
    return int(np.argmin(scaled(front).sum(axis=1)))


def scaled(losses: Array) -> Array:
    """Each column mapped linearly to [0, 1] over its rows; a column of equals becomes 0."""
    low, high = losses.min(axis=0), losses.max(axis=0)
    return np.asarray((losses - low) / np.where(high > low, high - low, 1.0))


def front_probability(
    losses: Array,
    stderrs: Array,
    rng: np.random.Generator,
    draws: int = 1000,
    shared: NDArray[np.int64] | None = None,
) -> Array:
    """How often each row is on the front when every figure is redrawn from its standard error.

    Args:
        losses: `(n, m)`, lower is better. NaN is refused.
        stderrs: `(n, m)`, at least 0; 0 for what is exact.
        rng: where the redraws come from.
        draws: how many redraws; the answer's own standard error is at most .5 / sqrt(draws).
        shared: `(n, m)`, rows with the same number in a column have the same error there, as they
            rest on one measurement; None: all errors are independent.

    Returns:
        `(n,)` shares in [0, 1].
    """
    hits = np.zeros(len(losses))
    for drawn in redrawn(losses, stderrs, rng, draws, shared):
        hits += non_dominated(drawn)
    return hits / draws


def redrawn(
    losses: Array,
    stderrs: Array,
    rng: np.random.Generator,
    draws: int,
    shared: NDArray[np.int64] | None = None,
) -> Iterator[Array]:
    """Losses with every figure redrawn from its standard error; arguments of `front_probability`.

    Returns:
        `draws` times `(n, m)`.
    """
    losses = _checked(losses)
    stderrs = _checked(np.broadcast_to(stderrs, losses.shape))
    if (stderrs < 0).any():
        raise ValueError("a standard error is never negative")
    rows = np.arange(len(losses))[:, None] + np.zeros_like(losses, dtype=np.int64)
    same = rows if shared is None else shared
    for _ in range(draws):
        noise = np.take_along_axis(rng.standard_normal(losses.shape), same, axis=0)
        yield losses + stderrs * noise


def attainment(fronts: Sequence[Array], share: float) -> Array:
    """Front of the points that at least a share of several runs dominates or reaches.

    Args:
        fronts: one `(n_i, m)` per run, m of 2 or 3, lower is better.
        share: in (0, 1]; .5 gives the median front.

    Returns:
        `(k, m)`, ascending in the first objective.

    Source: empirical attainment function, Grunert da Fonseca et al. 2001.

    >>> attainment([np.array([[1.0, 1.0]]), np.array([[2.0, 2.0]])], 1.0).tolist()
    [[2.0, 2.0]]
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share must be in (0, 1], not {share}")
    rows = _checked(np.vstack([np.atleast_2d(front) for front in fronts]))
    runs = np.repeat(np.arange(1, len(fronts) + 1), [len(np.atleast_2d(f)) for f in fronts])
    surface = np.asarray(moocore.eaf(rows, sets=runs, percentiles=[100.0 * share]))[:, :-1]
    return np.asarray(surface[np.lexsort(surface.T[::-1])], dtype=np.float64)


def _checked(losses: Any, reference: Any = None) -> Any:
    rows = np.ascontiguousarray(losses, dtype=np.float64)
    if rows.ndim != 2:
        raise ValueError(f"losses must be (n, m), not of shape {rows.shape}")
    if np.isnan(rows).any():
        bad = int(np.argmax(np.isnan(rows).any(axis=1)))
        raise ValueError(f"row {bad} holds NaN: drop failed and unmeasured trials before")
    if reference is None:
        return rows
    if np.isneginf(rows).any():
        bad = int(np.argmax(np.isneginf(rows).any(axis=1)))
        raise ValueError(f"row {bad} holds minus infinity: no volume below it has an end")
    point = np.asarray(reference, dtype=np.float64)
    if point.shape != (rows.shape[1],) or not np.isfinite(point).all():
        raise ValueError(f"the reference must be {rows.shape[1]} finite numbers, not {reference}")
    # What lies beyond the reference counts as if on it; moocore answers for finite numbers alone.
    return np.ascontiguousarray(np.minimum(rows, point)), point


def _ordinal(losses: Array) -> Array:
    """Infinite numbers as places in their column, which dominate alike: moocore dies of them."""
    if np.isfinite(losses).all():
        return losses
    columns = [np.unique(column, return_inverse=True)[1] for column in losses.T]
    return np.ascontiguousarray(np.stack(columns, axis=1), dtype=np.float64)


def _beyond(column: Array, front: Array) -> float:
    """The worst of the front and a tenth of the column's range more."""
    # A front of one row has no extent of its own: then the worst of all rows.
    worst = front.max() if front.max() > front.min() else column.max()
    best = column.min()
    if best > 0.0:
        ratio = column.max() / best
        return float(worst * (ratio**0.1 if ratio > 1.0 else 1.1))
    spread = column.max() - best
    return float(worst + 0.1 * (spread if spread > 0.0 else max(abs(worst), 1.0)))
