"""Rungs: which paused trials go on, with many objectives; pure functions of the records.

Asynchronous successive halving (arXiv 1810.05934) ranked by dominance (MO-ASHA, arXiv 2106.12639):
of the trials that have finished a rung, the best share goes on. A lower rung judges on few items,
so only what is better beyond the figures' errors dominates, and within a rank the trials that go on
are spread over the trade-off. Limits come before objectives (constrained domination, Deb et al.
2002, NSGA-II). What is never promoted stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .pareto import (
    Array,
    contributions,
    just_beyond,
    non_dominated_ranks,
    scaled,
    spread_order,
    sure_ranks,
)
from .records import Record

Losses = Callable[[Record], Sequence[float] | None]
"""A record's objective figures at its highest rung, lower is better; None where one is missing."""

Errors = Callable[[Record], Sequence[float]]
"""Standard errors of a record's objective figures at its highest rung, 0 where there is none."""

Excess = Callable[[Record], float]
"""How far a record is beyond the limits that count at its rung; 0 where it keeps them."""

PROMOTED = 0.5
"""Share of those that finished a rung that go on; with few trials a harsher cut loses the front."""


@dataclass(frozen=True)
class RankFlips:
    """How well a rung foretells the next.

    Args:
        low, high: the two rungs.
        trials: that have finished both.
        pairs: of these trials, ranked differently at the lower rung.
        flipped: pairs whose order is the other way round at the higher rung.
        lost: trials on the lower rung's front that are not on the higher one's.
    """

    low: int
    high: int
    trials: int
    pairs: int
    flipped: int
    lost: tuple[int, ...]


def _keeps_all(record: Record) -> float:
    return 0.0


def _exact(record: Record) -> tuple[float, ...]:
    return (0.0,)


def promotions(
    records: Sequence[Record],
    losses: Losses,
    rungs: Sequence[float],
    share: float = PROMOTED,
    excess: Excess = _keeps_all,
    errors: Errors = _exact,
) -> list[int]:
    """Paused trials that deserve the next rung, the highest rung's best first.

    At each rung the best share of those that have finished it go on, never fewer than one;
    better is to keep the limits, then to break them by less, then a lower rank (`sure_ranks`); of
    equal ranks the one that adds most hypervolume begins, and each further one lies farthest from
    those before it.

    Args:
        records: every trial; baseline and repeats play no part.
        losses: of a record.
        rungs: shares of full fidelity, ascending.
        share: in (0, 1]; 1 promotes everything.
        excess, errors: of a record, as it stood at the rung.

    Returns:
        Numbers of paused trials. Whether the budget allows them is the caller's business.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share must lie in (0, 1], not {share}")
    promoted: list[int] = []
    for rung in reversed(range(len(rungs) - 1)):
        finished = _finished(records, rung)
        quota = max(1, int(len(finished) * share + 1e-9))  # 0.29 of 100 is 28.999...
        best = [finished[i] for i in _order(finished, losses, excess, errors)[:quota]]
        # `finished` holds records cut at this rung: whether a trial went on is asked of the whole.
        waits = {r.number for r in records if r.state == "paused" and r.rungs[-1].rung == rung}
        promoted += [record.number for record in best if record.number in waits]
    return promoted


def rank_flips(
    records: Sequence[Record], losses: Losses, rungs: Sequence[float]
) -> list[RankFlips]:
    """For each pair of neighbouring rungs, how many trials changed places.

    Args:
        records, losses, rungs: as in `promotions`.
    """
    return [_flips(records, losses, low) for low in range(len(rungs) - 1)]


def _finished(records: Sequence[Record], rung: int) -> list[Record]:
    """Search trials that have figures at a rung, as they stood there."""
    found = []
    for record in sorted(records, key=lambda record: record.number):
        reached = tuple(r for r in record.rungs if r.rung <= rung)
        if record.purpose == "search" and reached and reached[-1].rung == rung:
            found.append(replace(record, rungs=reached))
    return found


def _order(records: Sequence[Record], losses: Losses, excess: Excess, errors: Errors) -> list[int]:
    """Rows from best to worst; those without all figures are left out."""
    by_excess: dict[float, list[int]] = {}
    for i, record in enumerate(records):
        if losses(record) is not None:
            by_excess.setdefault(max(0.0, excess(record)), []).append(i)
    return [
        rows[k]
        for _, rows in sorted(by_excess.items())
        for k in _ranked([records[i] for i in rows], losses, errors)
    ]


def _ranked(equals: Sequence[Record], losses: Losses, errors: Errors) -> list[int]:
    """Rows of equal excess from best to worst."""
    values = np.array([losses(record) for record in equals], dtype=np.float64)
    spans = np.broadcast_to([errors(record) for record in equals], values.shape)
    ranks = sure_ranks(values, spans)
    places, beyond = scaled(_on_scales(values)), just_beyond(values)
    order: list[int] = []
    for rank in np.unique(ranks):
        members = np.flatnonzero(ranks == rank).tolist()
        if not order:
            order.append(members.pop(int(np.argmax(contributions(values[members], beyond)))))
        order += [members[k] for k in spread_order(places[members], places[order])]
    return order


def _on_scales(values: Array) -> Array:
    """Columns of positive figures as logarithms: sizes differ by orders of magnitude."""
    positive = (values > 0.0).all(axis=0)
    return np.where(positive, np.log(np.where(positive, values, 1.0)), values)


def _flips(records: Sequence[Record], losses: Losses, low: int) -> RankFlips:
    upper = {r.number: loss for r in _finished(records, low + 1) if (loss := losses(r)) is not None}
    lower = {r.number: loss for r in _finished(records, low) if (loss := losses(r)) is not None}
    both = sorted(upper.keys() & lower.keys())
    if not both:
        return RankFlips(low, low + 1, 0, 0, 0, ())
    before = non_dominated_ranks(np.array([lower[n] for n in both], dtype=np.float64))
    after = non_dominated_ranks(np.array([upper[n] for n in both], dtype=np.float64))
    order = np.sign(before[:, None] - before[None, :])
    turned = np.sign(after[:, None] - after[None, :])
    ahead = order < 0
    lost = tuple(n for n, b, a in zip(both, before, after, strict=True) if b == 0 and a > 0)
    flipped = int((ahead & (turned > 0)).sum())
    return RankFlips(low, low + 1, len(both), int(ahead.sum()), flipped, lost)
