"""One trial's figures against the baseline's: the difference, its interval, and whether it counts.

Paired by item where both trials' answers are stored; otherwise the two are taken as independent,
which is too careful: a difference that counts here counts there too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from ..evaluators.catalogue import metrics
from ..evaluators.measurement import Measurement
from ..evaluators.metric import Predictions
from ..evaluators.quality.paired import Difference, paired_difference
from ..evaluators.quality.predictions import load_predictions
from .front import values
from .limits import Limit
from .pooled import seeds_of, seeds_stderr
from .records import Record
from .run import ObjectiveRow, Run, sign_of

Z95: Final = 1.959964
"""Standard errors on either side of a value that hold 95 % of a normal distribution."""

Verdict = Literal["better", "worse", "same"]


@dataclass(frozen=True)
class Gap:
    """A figure against another of the same metric.

    Args:
        metric: its name.
        mine, theirs: the two figures' values.
        low, high: 95 % interval of `mine - theirs`; both the difference itself for exact figures;
            None where a measured or modelled figure has no standard error.
        verdict: `same` where the interval holds 0.
        paired: the difference was taken item by item.
        confirmed: both figures are of the test split.
    """

    metric: str
    mine: float
    theirs: float
    low: float | None
    high: float | None
    verdict: Verdict
    paired: bool = False
    confirmed: bool = False

    @property
    def half(self) -> float:
        """Half the interval's width; 0 where there is none."""
        return 0.0 if self.low is None or self.high is None else (self.high - self.low) / 2


def gaps(run: Run, record: Record, baseline: Record) -> list[Gap]:
    """A trial's objectives against the baseline's, in the study's order; absent ones left out."""
    found = (gap(run, row.name, record, baseline) for row in run.objectives)
    return [one for one in found if one is not None]


def gap(run: Run, metric: str, record: Record, baseline: Record) -> Gap | None:
    """One figure of a trial against the baseline's; None where either has none."""
    mine, theirs = record.measurements.get(metric), baseline.measurements.get(metric)
    if mine is None or theirs is None or mine.value is None or theirs.value is None:
        return None
    difference = by_item(run, metric, record, baseline)
    low, high = _over_seeds(difference, mine) if difference else _unpaired(mine, theirs)
    apart = mine.value - theirs.value
    verdict = _verdict(
        apart if low is None else low,
        apart if high is None else high,
        more_is_better=run.metrics[metric]["direction"] == "maximize",
    )
    return Gap(metric, mine.value, theirs.value, low, high, verdict, difference is not None)


def by_item(run: Run, metric: str, a: Record, b: Record) -> Difference | None:
    """`a - b` over the items that both answered; None where answers or per-item values are absent.

    Where a's figure is a mean over seeds, so are its values of the items.

    Raises:
        BadRequest: the stored answers are of different items.
        StorageFailed: stored answers cannot be read.
    """
    row, counts = metrics().get(metric), [record.measurements[metric].n for record in (a, b)]
    if row is None or row.per_item is None or counts[0] != counts[1]:
        return None
    several = seeds_of(a.measurements[metric]) > 1
    repeated = [
        r for r in run.near_ties.get(a.number, ()) if several and r.value(metric) is not None
    ]
    mine = [given for r in (a, *repeated) if (given := answers(run, r)) is not None]
    theirs = answers(run, b)
    if theirs is None or len(mine) <= len(repeated):
        return None
    return paired_difference(mine[0], theirs, row, mine[1:])


def answers(run: Run, record: Record) -> Predictions | None:
    """What a trial answered, item by item; None where that was not stored.

    Raises:
        StorageFailed: stored answers cannot be read.
    """
    path = run.folder / "samples" / f"{record.files.get('predictions')}.npz"
    return load_predictions(path.parent, path.stem) if path.is_file() else None


def confirmed_gaps(run: Run, number: int) -> dict[str, tuple[Gap, Difference | None]]:
    """What confirmation said of a trial against the baseline, by metric: quality first.

    Quality is of the test split, item by item, with the difference over items; objectives of speed
    and energy were measured again, without one. Both made under the same seed: the first that both
    were confirmed under. Empty where either was not confirmed, or for the baseline itself.
    """
    if run.baseline is None or number == run.baseline.number:
        return {}
    theirs = {r.seed: r for r in repeats(run, run.baseline.number)}
    mine = next((r for r in repeats(run, number) if r.seed in theirs), None)
    if mine is None:
        return {}
    other = theirs[mine.seed]
    found: dict[str, tuple[Gap, Difference | None]] = {}
    for name in [*(row.name for row in quality(run)), *taken_again(run, mine)]:
        one = gap(run, name, mine, other)
        difference = by_item(run, name, mine, other) if one else None
        if one is not None and (difference or mine.measurements[name].over == "repeats"):
            found[name] = (replace(one, confirmed=True), difference)
    return found


def taken_again(run: Run, repeat: Record) -> list[str]:
    """Objectives that a confirmation measured again: those that are means over repeats."""
    known = repeat.measurements
    return [r.name for r in run.objectives if r.name in known and known[r.name].over == "repeats"]


def own_repeat(run: Run, number: int) -> Record | None:
    """The confirmation of the very model that the search judged: under the trial's own seed."""
    trials = (*((run.baseline,) if run.baseline else ()), *run.records)
    seed = next((trial.seed for trial in trials if trial.number == number), None)
    return next((repeat for repeat in repeats(run, number) if repeat.seed == seed), None)


def broken_when_confirmed(run: Run, number: int, limits: Sequence[Limit]) -> tuple[str, ...]:
    """Limits that a trial kept in the search and does not keep as it was confirmed, as written.

    Those that lean on the baseline are filled in with the baseline's confirmed figures.

    Args:
        limits: as parsed, open where they lean on the baseline.
    """
    mine = own_repeat(run, number)
    other = None if run.baseline is None else own_repeat(run, run.baseline.number)
    if mine is None:
        return ()
    figures, theirs = values(mine), values(other) if other else {}
    known = [limit.resolve(theirs) for limit in limits if limit.metric in figures]
    return tuple(x.text for x in known if not x.open and not x.satisfied(figures))


def contradicted(run: Run, record: Record) -> tuple[str, ...]:
    """Metrics in which the test split turns a trial's standing against the baseline for the worse.

    There it is worse than the baseline beyond the error, which the search's figures did not say; or
    it is no better at all, where they said better.

    Args:
        record: with the figures that the front is judged by.
    """
    found = []
    for name, (tested, by_item) in confirmed_gaps(run, record.number).items():
        searched = gap(run, name, record, run.baseline) if by_item and run.baseline else None
        if searched is None or searched.verdict == "worse":
            continue
        ahead = (tested.mine - tested.theirs) * -sign_of(run.metrics[name]["direction"]) > 0
        if tested.verdict == "worse" or (searched.verdict == "better" and not ahead):
            found.append(name)
    return tuple(found)


def repeats(run: Run, number: int) -> list[Record]:
    """A trial's confirmations that ended well, by seed."""
    ended = [r for r in run.confirmations.get(number, ()) if r.state == "final"]
    return sorted(ended, key=lambda record: record.seed)


def quality(run: Run) -> list[ObjectiveRow]:
    """The run's metrics of quality, objectives first."""
    first = [row.name for row in run.objectives]
    names = [n for n, row in run.metrics.items() if row.get("resource") == "quality"]
    names.sort(key=lambda name: first.index(name) if name in first else len(first))
    return [ObjectiveRow(n, run.metrics[n]["unit"], run.metrics[n]["direction"]) for n in names]


def _over_seeds(difference: Difference, mine: Measurement) -> tuple[float, float]:
    """The interval over items, with the error that the mean over few seeds has on top."""
    if not seeds_stderr(mine):
        return difference.low, difference.high
    half = math.hypot((difference.high - difference.low) / 2, Z95 * seeds_stderr(mine))
    middle = (difference.low + difference.high) / 2
    return middle - half, middle + half


def _unpaired(a: Measurement, b: Measurement) -> tuple[float | None, float | None]:
    """The interval of a difference of independent figures; exact ones have no error."""
    errors = [0.0 if m.source == "exact" else m.stderr for m in (a, b)]
    known = [error for error in errors if error is not None]
    if len(known) < len(errors):
        return None, None
    apart, half = (a.value or 0.0) - (b.value or 0.0), Z95 * math.hypot(*known)
    return apart - half, apart + half


def _verdict(low: float, high: float, *, more_is_better: bool) -> Verdict:
    if low <= 0 <= high:
        return "same"
    return "better" if (low > 0) == more_is_better else "worse"
