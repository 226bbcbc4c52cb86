"""The front of a run on any metrics that were stored, computed here and nowhere else.

The baseline takes part: a trial that it beats on every count is no choice for anybody. Failed and
paused trials never do, nor trials without a figure on an objective, nor a modelled figure among
measured ones; a trial beyond one of the run's limits is judged apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..errors import UnknownName
from .limits import Limit, parse_limit
from .pareto import Array, Mask, front_probability, knee, non_dominated, redrawn
from .pooled import pooled
from .records import Record
from .run import ObjectiveRow, Run, sign_of

REDRAWS: Final = 200_000
"""Rows redrawn for the probabilities, in all: 1,000 redraws of 200 trials take a second."""


@dataclass(frozen=True)
class Front:
    """Who is judged on some objectives, and who is beaten by nobody.

    Args:
        objectives: names of metrics.
        judged: trials with a figure on each objective, within the limits, by number.
        losses: `(n, m)` of the judged, lower is better.
        stderrs: `(n, m)`, 0 where a figure has none.
        shared: `(n, m)`, the first row that rests on the same measurement: siblings share a timing.
        excluded: how many trials are not judged, by reason.
    """

    objectives: tuple[str, ...]
    judged: tuple[Record, ...]
    losses: Array
    stderrs: Array
    shared: NDArray[np.int64]
    excluded: Mapping[str, int]

    @cached_property
    def on(self) -> Mask:
        """`(n,)`: nobody beats it on every objective."""
        return non_dominated(self.losses)

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """The front, by number."""
        return tuple(r for r, on in zip(self.judged, self.on, strict=True) if on)

    @cached_property
    def knee(self) -> int | None:
        """Number of the trial at the knee, None where the front has fewer than three trials.

        The baseline is no choice to be made, so it cannot be the knee.
        """
        tried = np.array([record.purpose != "baseline" for record in self.judged], dtype=bool)
        rows = np.flatnonzero(self.on & tried)
        return self.judged[rows[knee(self.losses[rows])]].number if len(rows) > 2 else None

    @cached_property
    def probability(self) -> Mapping[int, float]:
        """How likely each judged trial is on the front, given the figures' errors, by number.

        Errors over items are taken as independent, though all trials answer the same ones.
        """
        if not self.judged:
            return {}
        shares = front_probability(
            self.losses, self.stderrs, np.random.default_rng(0), self._draws, self.shared
        )
        return {r.number: float(p) for r, p in zip(self.judged, shares, strict=True)}

    def redrawn(self) -> Iterator[Array]:
        """The losses as they might have been, `(n, m)` each, given the figures' errors."""
        rng = np.random.default_rng(0)
        return redrawn(self.losses, self.stderrs, rng, self._draws, self.shared)

    @property
    def _draws(self) -> int:
        return min(1000, max(100, REDRAWS // max(1, len(self.judged))))


def front_of(
    run: Run, objectives: Sequence[str] | None = None, within: Sequence[Limit] | None = None
) -> Front:
    """The front on some metrics.

    Args:
        run: as read.
        objectives: None for the study's own.
        within: limits in place of the run's own, None for these.

    Raises:
        UnknownName: a metric that this run did not store.
    """
    known = stored_metrics(run)
    for name in objectives or ():
        if name not in known:
            raise UnknownName("metric of this run", name, known)
    names = tuple(objectives or (row.name for row in run.objectives))
    broken = limits_broken(run, within)
    return judge(pooled_trials(run), {name: sign(run, name) for name in names}, broken)


def judge(
    records: Sequence[Record], signs: Mapping[str, float], broken: Mapping[int, Sequence[str]]
) -> Front:
    """The front among some records.

    Args:
        records: the baseline's among them, if it is to take part.
        signs: what makes a figure of each objective a loss: 1, or -1 where more is better.
        broken: limits that a record does not keep, by its number.
    """
    names = tuple(signs)
    reasons = {r.number: _why_not(r, names, broken[r.number]) for r in records}
    reasons |= _modelled([r for r in records if reasons[r.number] is None], names)
    judged = tuple(r for r in records if reasons[r.number] is None)
    rows = [[r.measurements[name] for name in names] for r in judged]
    losses = [
        [(m.value or 0.0) * s for m, s in zip(row, signs.values(), strict=True)] for row in rows
    ]
    errors = [[m.stderr or 0.0 for m in row] for row in rows]
    shape = (len(judged), len(names))
    return Front(
        objectives=names,
        judged=judged,
        losses=np.array(losses, dtype=np.float64).reshape(shape),
        stderrs=np.array(errors, dtype=np.float64).reshape(shape),
        shared=_first_rows([[_origin(r, name) for name in names] for r in judged]).reshape(shape),
        excluded=dict(Counter(reason for reason in reasons.values() if reason)),
    )


def all_trials(run: Run) -> tuple[Record, ...]:
    """Baseline first, then every search trial, as the search made them: under one seed each."""
    return (*((run.baseline,) if run.baseline else ()), *run.records)


def pooled_trials(run: Run) -> tuple[Record, ...]:
    """As `all_trials`, those that were made under several seeds by their means; see `pooled`."""
    return tuple(pooled(record, run.near_ties.get(record.number, ())) for record in all_trials(run))


def stored_metrics(run: Run) -> tuple[str, ...]:
    """Metrics for which at least one trial has a figure, in the catalogue's order."""
    found = {
        name for r in all_trials(run) for name, m in r.measurements.items() if m.value is not None
    }
    return tuple(name for name in run.metrics if name in found)


def sign(run: Run, metric: str) -> float:
    """What makes a figure of this metric a loss; see `sign_of`."""
    return sign_of(run.metrics[metric]["direction"])


def losses_of(record: Record, rows: Sequence[ObjectiveRow]) -> list[float] | None:
    """A record's objective figures, lower is better; None where one is missing."""
    losses = []
    for row in rows:
        value = record.value(row.name)
        if value is None:
            return None
        losses.append(row.sign * value)
    return losses


def errors_of(record: Record, rows: Sequence[ObjectiveRow]) -> list[float]:
    """Standard errors of a record's objective figures, 0 where there is none."""
    figures = [record.measurements.get(row.name) for row in rows]
    return [0.0 if figure is None else figure.stderr or 0.0 for figure in figures]


def limits(run: Run) -> tuple[Limit, ...]:
    """The run's limits, filled in with the baseline's figures where these are known."""
    figures = values(run.baseline) if run.baseline else {}
    return tuple(limit.resolve(figures) for limit in written_limits(run))


def written_limits(run: Run) -> tuple[Limit, ...]:
    """The run's limits as its study wrote them: open where they lean on the baseline."""
    units = {name: row["unit"] for name, row in run.metrics.items()}
    return tuple(parse_limit(text, units) for text in run.constraints)


def limits_broken(run: Run, within: Sequence[Limit] | None = None) -> dict[int, tuple[str, ...]]:
    """Limits that each trial does not keep, by number, as they were written.

    Args:
        run: as read.
        within: limits in place of the run's own, None for these.
    """
    known = limits(run) if within is None else within
    return {
        r.number: tuple(limit.text for limit in known if not limit.satisfied(values(r)))
        for r in pooled_trials(run)
    }


def values(record: Record) -> dict[str, float]:
    """Every figure that a record has."""
    return {n: m.value for n, m in record.measurements.items() if m.value is not None}


def _why_not(record: Record, names: Sequence[str], broken: Sequence[str]) -> str | None:
    if record.state != "final":
        return record.state
    absent = [name for name in names if record.value(name) is None]
    if absent:
        return f"no {absent[0]}"
    return f"not {broken[0]}" if broken else None


def _origin(record: Record, metric: str) -> str:
    """What a figure was read from: the samples of a timing session, or the trial's own answers."""
    timed = record.measurements[metric].over == "repeats"
    return record.files.get("timings", "") if timed else f"trial {record.number}"


def _first_rows(origins: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """For each row and column, the first row whose figure there has the same origin."""
    first: dict[tuple[int, str], int] = {}
    rows = [
        [first.setdefault((column, origin or f"row {i}"), i) for column, origin in enumerate(row)]
        for i, row in enumerate(origins)
    ]
    return np.array(rows, dtype=np.int64)


def _modelled(records: Sequence[Record], names: Sequence[str]) -> dict[int, str]:
    """Why not, for records with a modelled figure where others have a measured one.

    A model's assumptions are no measurement: ranked beside each other, the milder of the two wins.
    """
    found = {}
    for name in names:
        sources = {r.number: r.measurements[name].source for r in records}
        if "measured" in sources.values():
            reason = f"{name} modelled, not measured"
            found.update({n: reason for n, source in sources.items() if source == "modelled"})
    return found
