"""One trial's figures against the baseline's: the difference, its interval, and whether it counts.

Paired by item where both trials' answers are stored; otherwise the two are taken as independent,
which is too careful: a difference that counts here counts there too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ..evaluators.catalogue import metrics
from ..evaluators.measurement import Measurement
from ..evaluators.quality.paired import paired_difference
from ..evaluators.quality.predictions import load_predictions
from ..search.records import Record
from ..search.run import Run

Z95: Final = 1.959964
"""Standard errors on either side of a value that hold 95 % of a normal distribution."""

Verdict = Literal["better", "worse", "same"]


@dataclass(frozen=True)
class Gap:
    """A figure against another of the same metric.

    Args:
        metric: its name.
        mine, theirs: the two figures' values.
        low, high: 95 % interval of `mine - theirs`; both the difference itself for exact figures.
        verdict: `same` where the interval holds 0.
        paired: the difference was taken item by item.
    """

    metric: str
    mine: float
    theirs: float
    low: float
    high: float
    verdict: Verdict
    paired: bool = False

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2


def gaps(run: Run, record: Record, baseline: Record) -> list[Gap]:
    """A trial's objectives against the baseline's, in the study's order; absent ones left out."""
    found = []
    for row in run.objectives:
        mine, theirs = record.measurements.get(row.name), baseline.measurements.get(row.name)
        if mine is None or theirs is None or mine.value is None or theirs.value is None:
            continue
        low, high, paired = _interval(run, row.name, (record, mine), (baseline, theirs))
        verdict = _verdict(low, high, more_is_better=row.direction == "maximize")
        found.append(Gap(row.name, mine.value, theirs.value, low, high, verdict, paired))
    return found


def _interval(
    run: Run, metric: str, a: tuple[Record, Measurement], b: tuple[Record, Measurement]
) -> tuple[float, float, bool]:
    row, files = metrics().get(metric), [_answers(run, record) for record, _ in (a, b)]
    if row is not None and row.per_item is not None and files[0] and files[1] and a[1].n == b[1].n:
        mine, theirs = (load_predictions(file.parent, file.stem) for file in files if file)
        difference = paired_difference(mine, theirs, row)
        return difference.low, difference.high, True
    gap = (a[1].value or 0.0) - (b[1].value or 0.0)
    half = Z95 * math.hypot(a[1].stderr or 0.0, b[1].stderr or 0.0)
    return gap - half, gap + half, False


def _answers(run: Run, record: Record) -> Path | None:
    path = run.folder / "samples" / f"{record.files.get('predictions')}.npz"
    return path if path.is_file() else None


def _verdict(low: float, high: float, *, more_is_better: bool) -> Verdict:
    if low <= 0 <= high:
        return "same"
    return "better" if (low > 0) == more_is_better else "worse"
