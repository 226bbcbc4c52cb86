"""Selection: the best point under given limits, from what is stored, and why in one sentence.

The baseline is a rival: a trial that it dominates is not chosen, and where no trial is better than
it at anything, the baseline is the choice and the sentence says so. A trial that was confirmed and
does not keep a limit on the test split comes after all that do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import BadRequest, StudyError, UnknownName
from .against import Gap, broken_when_confirmed, confirmed_gaps, gap
from .doubts import timing_doubts
from .front import Front, front_of, judge, pooled_trials, values, written_limits
from .limits import Limit, parse_limit
from .pareto import Array, Mask, non_dominated, scaled
from .pooled import pooled
from .records import Record
from .run import Run
from .units import readable

if TYPE_CHECKING:
    from .rules import Knowledge
    from .storage import StudyStorage

MOST_RIVALS: Final = 3


@dataclass(frozen=True)
class Selection:
    """What was selected, and why.

    Args:
        number: the trial. record: as stored.
        sentence: why, for a person.
        limits: that were applied, resolved against the baseline.
        comparisons: with the baseline, one per objective; empty without a baseline, and for it.
        kept: how many trials keep all limits, the baseline apart.
        rivals: the next best trials of the front, best first.
    """

    number: int
    record: Record
    sentence: str
    limits: tuple[Limit, ...]
    comparisons: tuple[Gap, ...]
    kept: int
    rivals: tuple[int, ...]


def select(
    run: Run,
    where: Sequence[str] = (),
    prefer: str | None = None,
    objectives: Sequence[str] | None = None,
) -> Selection:
    """The best stored trial under some limits.

    Args:
        run: what was found.
        where: limits beside the study's own; one on the same metric from the same side takes the
            place of the study's.
        prefer: the metric to be best at; None: the knee of the front.
        objectives: metrics that the front is taken over; None: the study's.

    Raises:
        UnknownName: a metric that the run does not hold.
        StudyError: a limit that cannot be read or that no trial keeps.
    """
    names = list(objectives) if objectives else [row.name for row in run.objectives]
    for name in [*names, *([prefer] if prefer else [])]:
        if name not in run.metrics:
            raise UnknownName("metric", name, run.metrics)
    asked = _limits(run, where)
    limits = _resolved(run, asked)
    needed = list(dict.fromkeys([*names, *([prefer] if prefer else [])]))
    _refuse_nothing_kept(run, limits, needed)
    front = front_of(run, needed, limits)
    kept = sum(record.purpose == "search" for record in front.judged)
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in front.excluded.items())
        raise StudyError(f"no trial can be judged: {reasons}; ask for other metrics")
    order = best_first(front, prefer)
    broken = {r.number: broken_when_confirmed(run, r.number, asked) for r in order}
    order.sort(key=lambda record: bool(broken[record.number]))
    chosen = order[0]
    found = () if chosen.purpose == "baseline" else _comparisons(run, chosen, needed)
    return Selection(
        number=chosen.number,
        record=chosen,
        sentence=_sentence(run, chosen, found, limits, kept, prefer, front.knee)
        + _warning(broken[chosen.number], timing_doubts(run, [chosen], needed)),
        limits=limits,
        comparisons=found,
        kept=kept,
        rivals=tuple(record.number for record in order[1 : 1 + MOST_RIVALS]),
    )


def recommend(knowledge: Knowledge) -> int:
    """The trial that `select` would choose now from a run's records, limits and objectives.

    Raises:
        StudyError: no trial has ended within the limits.
    """
    front = current_front(knowledge)
    if not any(record.purpose == "search" for record in front.judged):
        raise StudyError("no trial has ended within the limits; search on, or widen them")
    return best_first(front)[0].number


def recommendation(run: Run) -> tuple[Record | None, str]:
    """The record that selection gives without further wishes; else why there is none."""
    try:
        return select(run).record, ""
    except BadRequest as error:
        return None, str(error)


def current_front(knowledge: Knowledge) -> Front:
    """The front of a study that is still open, the baseline among its rivals.

    Trials that were made again under further seeds are judged by their means.
    """
    storage = knowledge.storage
    records = [pooled(r, repeated(storage, n)) for n, r in sorted(storage.records.items())]
    broken = {
        r.number: [text for text, by in knowledge.violations(r).items() if by > 0]
        for r in records
        if r.state == "final"
    }
    signs = {row.name: row.sign for row in knowledge.study.objective_rows()}
    return judge(records, signs, {r.number: broken.get(r.number, ()) for r in records})


def repeated(storage: StudyStorage, number: int) -> list[Record]:
    """Repeats of a trial on the validation split, those that failed too."""
    return [r for r in storage.confirmations.get(number, ()) if r.purpose == "repeat"]


def best_first(front: Front, prefer: str | None = None) -> list[Record]:
    """Records to choose from, best first: the knee and what balances like it, or by one metric.

    Args:
        front: on the objectives, and on `prefer` too where this is none of them.
        prefer: the metric to be best at, for which trials beside the front count too.
    """
    column = None if prefer is None else front.objectives.index(prefer)
    return [front.judged[i] for i in _best_first(front.losses, _tried(front), column)]


def first_choice(front: Front, losses: Array) -> int:
    """The row that would be recommended if the losses of a front's trials were these, `(n, m)`."""
    return int(_best_first(losses, _tried(front))[0])


def _tried(front: Front) -> Mask:
    return np.array([record.purpose != "baseline" for record in front.judged], dtype=bool)


def _best_first(losses: Array, tried: Mask, prefer: int | None = None) -> NDArray[np.intp]:
    """`best_first` on rows: `(n, m)` losses, `(n,)` not the baseline, a column to be best at."""
    rivals: Array = losses[~tried]
    ahead: Mask = np.asarray((losses[:, None] < rivals).any(axis=2), dtype=bool)
    better = tried & ahead.all(axis=1)
    if not better.any():
        return np.flatnonzero(~tried)
    if prefer is not None:
        rows = np.flatnonzero(better)
        return rows[np.lexsort((scaled(losses[rows]).sum(axis=1), losses[rows, prefer]))]
    rows = np.flatnonzero(non_dominated(losses) & better)
    return rows[np.argsort(scaled(losses[rows]).sum(axis=1), kind="stable")]


def _limits(run: Run, where: Sequence[str]) -> tuple[Limit, ...]:
    """Limits that apply, still open where they lean on the baseline."""
    units = {name: facts["unit"] for name, facts in run.metrics.items()}
    wished = [parse_limit(text, units) for text in where]
    replaced = {_side(limit) for limit in wished}
    return (*(limit for limit in written_limits(run) if _side(limit) not in replaced), *wished)


def _resolved(run: Run, limits: Sequence[Limit]) -> tuple[Limit, ...]:
    baseline = values(run.baseline) if run.baseline else {}
    for limit in (found := tuple(limit.resolve(baseline) for limit in limits)):
        if limit.open:
            raise StudyError(
                f"{limit.text!r} needs the baseline's {limit.metric}, which this run does not "
                "hold; write the number instead"
            )
    return found


def _side(limit: Limit) -> tuple[str, str]:
    return limit.metric, limit.operator[0]


def _refuse_nothing_kept(run: Run, limits: Sequence[Limit], names: Sequence[str]) -> None:
    trials = [r for r in pooled_trials(run) if r.purpose == "search"]
    ended = [r for r in trials if r.state == "final"]
    whole = [r for r in ended if all(name in values(r) for name in names)]
    if not whole:
        raise StudyError(
            f"none of {len(ended)} finished trials has figures for {', '.join(names)}; "
            "search on, or ask for other metrics"
        )
    if any(all(limit.satisfied(values(r)) for limit in limits) for r in whole):
        return
    nearest = min(whole, key=lambda record: _worst(record, limits))
    broken = [limit for limit in limits if not limit.satisfied(values(nearest))]
    says = "; ".join(f"{m.metric} is {_shown(nearest, m.metric)}" for m in broken)
    raise StudyError(
        f"no trial keeps {' and '.join(repr(limit.text) for limit in limits)}; the nearest is "
        f"trial {nearest.number}, where {says}; widen the limits or search on"
    )


def _worst(record: Record, limits: Sequence[Limit]) -> float:
    violations = [limit.violation(values(record)) for limit in limits]
    return max((math.inf if v is None else v for v in violations), default=0.0)


def _comparisons(run: Run, chosen: Record, names: Sequence[str]) -> tuple[Gap, ...]:
    if run.baseline is None:
        return ()
    found = (gap(run, name, chosen, run.baseline) for name in names)
    return tuple(one for one in found if one is not None)


def _sentence(
    run: Run,
    chosen: Record,
    comparisons: Sequence[Gap],
    limits: Sequence[Limit],
    kept: int,
    prefer: str | None,
    knee: int | None,
) -> str:
    among = f"{kept} trial{'s' if kept != 1 else ''}"
    under = f" with {' and '.join(limit.text for limit in limits)}" if limits else ""
    if chosen.purpose == "baseline":
        return f"None of {among}{under} beats the baseline at anything; the baseline is the choice."
    rule = f"is best at {prefer}" if prefer else "gives the best balance of the objectives"
    start = f"Trial {chosen.number} {rule} of {among}{under}"
    start += ", the knee of the front" if not prefer and chosen.number == knee else ""
    if not comparisons:
        return f"{start}."
    tested = confirmed_gaps(run, chosen.number)
    again = [tested[gap.metric] for gap in comparisons if gap.metric in tested]
    test = _listed(run, [one for one, by_item in again if by_item])
    seen = f" On the test split: {test}." if test else ""
    timed = _listed(run, [one for one, by_item in again if not by_item])
    seen += f" Measured again: {timed}." if timed else ""
    last = [tested.get(gap.metric, (gap, None))[0] for gap in comparisons]
    lost = ", ".join(gap.metric for gap in last if gap.verdict == "worse")
    worse = f" It is worse than the baseline in {lost}." if lost else ""
    return f"{start}; against the baseline: {_listed(run, comparisons)}.{seen}{worse}"


def _warning(broken: Sequence[str], doubts: Sequence[str]) -> str:
    kept = f" As confirmed it does not keep {' and '.join(broken)}." if broken else ""
    return kept + "".join(f" {doubt[:1].upper()}{doubt[1:]}." for doubt in doubts)


def _listed(run: Run, found: Sequence[Gap]) -> str:
    return ", ".join(_in_words(one, run.metrics[one.metric]["unit"]) for one in found)


def _in_words(gap: Gap, unit: str) -> str:
    points = unit == "fraction"
    size = 0.01 if points else abs(gap.theirs) / 100 or 1.0
    name = "points" if points else "%" if gap.theirs else unit
    apart = (gap.mine - gap.theirs) / size
    digits = 1 if points or abs(apart) < 10 else 0
    more = f"{name} {'more' if apart > 0 else 'less'}"
    told = f"{abs(apart):.{digits}f} {more}" if apart else "the same"
    # where a relative difference counts beyond doubt, its interval would only fill the line
    if gap.half and gap.low is not None and gap.high is not None and (points or _in_doubt(gap)):
        told += f", 95 % interval {gap.low / size:+.{digits}f} to {gap.high / size:+.{digits}f}"
    doubt = ": no clear difference" if apart and _in_doubt(gap) else ""
    return f"{gap.metric} {readable(gap.mine, unit)} ({told}{doubt})"


def _in_doubt(gap: Gap) -> bool:
    return gap.verdict == "same"


def _shown(record: Record, metric: str) -> str:
    figure = record.measurements.get(metric)
    if figure is None or figure.value is None:
        return "missing"
    return readable(figure.value, figure.unit)
