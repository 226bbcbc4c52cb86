"""Rungs: which paused trials go on, with many objectives; pure functions of the records.

Asynchronous successive halving (arXiv 1810.05934) ranked by dominance (MO-ASHA, arXiv 2106.12639):
of the trials that have finished a rung, the best share goes on. What is never promoted stays.
Limits come before objectives (constrained domination, Deb et al. 2002, NSGA-II).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .pareto import contributions, just_beyond, non_dominated_ranks
from .records import Record

Losses = Callable[[Record], Sequence[float] | None]
"""A record's objective figures at its highest rung, lower is better; None where one is missing."""

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


def promotions(
    records: Sequence[Record],
    losses: Losses,
    rungs: Sequence[float],
    share: float = PROMOTED,
    excess: Excess = _keeps_all,
) -> list[int]:
    """Paused trials that deserve the next rung, the highest rung's best first.

    At each rung the best share of those that have finished it go on, never fewer than one;
    better is to keep the limits, then to break them by less, then a lower non-dominated rank, then
    more hypervolume, then the lower number.

    Args:
        records: every trial; baseline and repeats play no part.
        losses: of a record.
        rungs: shares of full fidelity, ascending.
        share: in (0, 1]; 1 promotes everything.
        excess: of a record, as it stood at the rung.

    Returns:
        Numbers of paused trials. Whether the budget allows them is the caller's business.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share must lie in (0, 1], not {share}")
    promoted: list[int] = []
    for rung in reversed(range(len(rungs) - 1)):
        finished = _finished(records, rung)
        quota = max(1, int(len(finished) * share + 1e-9))  # 0.29 of 100 is 28.999...
        best = [finished[i] for i in _order(finished, losses, excess)[:quota]]
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
    for record in records:
        reached = tuple(r for r in record.rungs if r.rung <= rung)
        if record.purpose == "search" and reached and reached[-1].rung == rung:
            found.append(replace(record, rungs=reached))
    return found


def _order(records: Sequence[Record], losses: Losses, excess: Excess) -> list[int]:
    """Rows from best to worst; those without all figures are left out."""
    by_excess: dict[float, list[int]] = {}
    for i, record in enumerate(records):
        by_excess.setdefault(max(0.0, excess(record)), []).append(i)
    return [i for _, rows in sorted(by_excess.items()) for i in _ranked(records, rows, losses)]


def _ranked(records: Sequence[Record], equals: Sequence[int], losses: Losses) -> list[int]:
    """Rows of equal excess from best to worst."""
    rows = [(i, loss) for i in equals if (loss := losses(records[i])) is not None]
    if not rows:
        return []
    values = np.array([loss for _, loss in rows], dtype=np.float64)
    ranks = non_dominated_ranks(values)
    worth = np.zeros(len(rows))
    beyond = just_beyond(values)
    for rank in np.unique(ranks):
        members = np.flatnonzero(ranks == rank)
        worth[members] = contributions(values[members], beyond)
    numbers = np.array([records[i].number for i, _ in rows])
    return [rows[k][0] for k in np.lexsort((numbers, -worth, ranks))]


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
