"""Selection: the best point under given limits, from what is stored, and why in one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import StudyError, UnknownName
from ..evaluators.measurement import Measurement
from .limits import Limit, parse_limit
from .pareto import knee, non_dominated, scaled
from .records import Record
from .run import Run

if TYPE_CHECKING:
    from .rules import Knowledge

Z95: Final = 1.959964
MOST_RIVALS: Final = 3

Verdict = Literal["better", "worse", "no clear difference"]


@dataclass(frozen=True)
class Comparison:
    """One figure of the selected trial against the baseline's.

    Args:
        metric, unit: of both figures.
        value, baseline: the figures.
        low, high: 95 % interval of `value - baseline`, taking the two as independent; None where a
            measured figure has no standard error.
        verdict: whether the difference counts.
    """

    metric: str
    unit: str
    value: float
    baseline: float
    low: float | None
    high: float | None
    verdict: Verdict


@dataclass(frozen=True)
class Selection:
    """What was selected, and why.

    Args:
        number: the trial. record: as stored.
        sentence: why, for a person.
        limits: that were applied, resolved against the baseline.
        comparisons: with the baseline, one per objective; empty without a baseline.
        kept: how many trials keep all limits.
        rivals: the next best trials of the front, best first.
    """

    number: int
    record: Record
    sentence: str
    limits: tuple[Limit, ...]
    comparisons: tuple[Comparison, ...]
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
        where: limits in place of the study's own; empty: the study's.
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
    units = {name: facts["unit"] for name, facts in run.metrics.items()}
    baseline = _figures(run.baseline) if run.baseline else {}
    parsed = [parse_limit(text, units) for text in (where or run.constraints)]
    limits = tuple(limit.resolve(baseline) for limit in parsed)
    for limit in limits:
        if limit.open:
            raise StudyError(
                f"{limit.text!r} needs the baseline's {limit.metric}, which this run does not "
                "hold; write the number instead"
            )
    needed = dict.fromkeys([*names, *([prefer] if prefer else [])])
    kept = _keeping(run.records, limits, list(needed), prefer or names[0])
    losses = _losses(kept, names, run.metrics)
    order = _ranked(losses, _losses(kept, [prefer], run.metrics)[:, 0] if prefer else None)
    chosen = kept[order[0]]
    comparisons = _comparisons(chosen, run, list(needed))
    return Selection(
        number=chosen.number,
        record=chosen,
        sentence=_sentence(chosen, comparisons, limits, len(kept), prefer),
        limits=limits,
        comparisons=comparisons,
        kept=len(kept),
        rivals=tuple(kept[i].number for i in order[1 : 1 + MOST_RIVALS]),
    )


def recommend(knowledge: Knowledge) -> int:
    """The trial that `select` would choose now from a run's records, limits and objectives.

    Raises:
        StudyError: no trial has ended within the limits.
    """
    records = [r for r in knowledge.storage.records.values() if r.purpose == "search"]
    ended = [r for r in records if r.state == "final" and knowledge.losses(r) is not None]
    kept = [r for r in ended if not any(v > 0 for v in knowledge.violations(r).values())]
    if not kept:
        raise StudyError("no trial has ended within the limits; search on, or widen them")
    losses = np.array([knowledge.losses(r) for r in kept], dtype=np.float64)
    return kept[_ranked(losses, None)[0]].number


def _ranked(losses: NDArray[np.float64], preferred: NDArray[np.float64] | None) -> list[int]:
    """Rows of the front, best first: by the preferred loss, or the knee and what lies like it."""
    front = np.flatnonzero(non_dominated(losses))
    balance = scaled(losses[front]).sum(axis=1)
    if preferred is None:
        first = front[knee(losses[front])]
        order = [int(i) for i in front[np.argsort(balance, kind="stable")]]
        return [int(first), *(i for i in order if i != first)]
    # Beyond the front too: the metric that is preferred need not be an objective.
    rows = np.arange(len(losses))
    everywhere = scaled(losses).sum(axis=1)
    return [int(i) for i in rows[np.lexsort((everywhere, preferred))]]


def _keeping(
    records: Sequence[Record], limits: Sequence[Limit], names: Sequence[str], about: str
) -> list[Record]:
    ended = [r for r in records if r.state == "final" and r.purpose == "search"]
    whole = [r for r in ended if all(name in _figures(r) for name in names)]
    if not whole:
        raise StudyError(
            f"none of {len(ended)} finished trials has figures for {', '.join(names)}; "
            "search on, or ask for other metrics"
        )
    kept = [r for r in whole if all(limit.satisfied(_figures(r)) for limit in limits)]
    if kept:
        return kept
    nearest = min(whole, key=lambda record: _worst(record, limits))
    broken = [limit for limit in limits if not limit.satisfied(_figures(nearest))]
    says = "; ".join(f"{m.metric} is {_shown(nearest, m.metric)}" for m in broken)
    raise StudyError(
        f"no trial keeps {' and '.join(repr(limit.text) for limit in limits)}; the nearest is "
        f"trial {nearest.number}, where {says}; widen the limits or search on"
    )


def _worst(record: Record, limits: Sequence[Limit]) -> float:
    violations = [limit.violation(_figures(record)) for limit in limits]
    return max((math.inf if v is None else v for v in violations), default=0.0)


def _figures(record: Record) -> dict[str, float]:
    return {n: m.value for n, m in record.measurements.items() if m.value is not None}


def _losses(
    records: Sequence[Record], names: Sequence[str], metrics: Mapping[str, Mapping[str, str]]
) -> NDArray[np.float64]:
    signs = [-1.0 if metrics[name]["direction"] == "maximize" else 1.0 for name in names]
    rows = [[_figures(record)[name] for name in names] for record in records]
    return np.asarray(np.array(rows, dtype=np.float64) * np.array(signs))


def _comparisons(chosen: Record, run: Run, names: Sequence[str]) -> tuple[Comparison, ...]:
    if run.baseline is None:
        return ()
    found = []
    for name in names:
        mine, theirs = chosen.measurements.get(name), run.baseline.measurements.get(name)
        if mine is None or theirs is None or mine.value is None or theirs.value is None:
            continue
        gap, half = mine.value - theirs.value, _half(mine, theirs)
        low, high = (None, None) if half is None else (gap - half, gap + half)
        verdict = _verdict(gap, half or 0.0, run.metrics[name]["direction"] == "maximize")
        found.append(Comparison(name, mine.unit, mine.value, theirs.value, low, high, verdict))
    return tuple(found)


def _half(a: Measurement, b: Measurement) -> float | None:
    """Half the 95 % interval of a difference of independent figures; exact ones have none."""
    errors = [0.0 if m.source == "exact" else m.stderr for m in (a, b)]
    if any(error is None for error in errors):
        return None
    return Z95 * math.hypot(*(error or 0.0 for error in errors))


def _verdict(gap: float, half: float, more_is_better: bool) -> Verdict:
    if abs(gap) <= half or gap == 0.0:
        return "no clear difference"
    return "better" if (gap > 0) == more_is_better else "worse"


def _sentence(
    chosen: Record,
    comparisons: Sequence[Comparison],
    limits: Sequence[Limit],
    kept: int,
    prefer: str | None,
) -> str:
    rule = f"is best at {prefer}" if prefer else "gives the best balance of the objectives"
    among = f"of {kept} trial{'s' if kept != 1 else ''}"
    under = f" with {' and '.join(limit.text for limit in limits)}" if limits else ""
    start = f"Trial {chosen.number} {rule} {among}{under}"
    if not comparisons:
        return f"{start}."
    return f"{start}; against the baseline: {', '.join(map(_in_words, comparisons))}."


def _in_words(c: Comparison) -> str:
    value = amount(c.value, c.unit)
    if c.unit == "fraction":
        change = f"{100 * (c.value - c.baseline):+.1f} points"
        interval = "" if c.low is None else f" ({100 * c.low:+.1f} to {100 * (c.high or 0):+.1f})"
    else:
        base = abs(c.baseline) or 1.0
        change = f"{100 * (c.value - c.baseline) / base:+.0f} %"
        wide = c.low is not None and c.high is not None and c.high > c.low
        interval = f" ({100 * (c.low or 0) / base:+.0f} to {100 * (c.high or 0) / base:+.0f})"
        interval = interval if wide else ""
    verdict = "" if c.verdict == "better" else f", {c.verdict}"
    return f"{c.metric} {value} ({change}{interval}{verdict})".replace(") (", "; ")


def _shown(record: Record, metric: str) -> str:
    figure = record.measurements.get(metric)
    if figure is None or figure.value is None:
        return "missing"
    return amount(figure.value, figure.unit)


def amount(value: float, unit: str) -> str:
    """A figure as one reads it: four digits, bytes and seconds with a prefix.

    >>> amount(23_000_000, "byte"), amount(0.00391, "second"), amount(0.5831, "fraction")
    ('23 MB', '3.91 ms', '0.5831')
    """
    prefixes = {"byte": "B", "FLOP": "FLOP", "second": "s", "joule": "J"}
    if unit in ("fraction", "dimensionless"):
        return f"{value:.4g}"
    if unit not in prefixes or value == 0.0:
        return f"{value:.4g} {unit}"
    power = min(4, max(-3 if unit in ("second", "joule") else 0, math.floor(_thousands(value))))
    prefix = {-3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T"}[power]
    return f"{value / 1000.0**power:.4g} {prefix}{prefixes[unit]}"


def _thousands(value: float) -> float:
    return math.log10(abs(value)) / 3.0
