"""A trial of several seeds as one: the mean of each figure, with the spread over seeds.

Repeats answer the same validation items as the trial did, so a mean over seeds keeps the items'
error, and has that of its few seeds on top. A figure that no seed changes stays as it is: a speed
rests on one session that the repeats share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Final

from ..evaluators.measurement import Measurement
from .records import Record

POOLED: Final = frozenset({"seeds", "lowest", "highest", "seeds_stderr"})
"""Conditions that a mean over seeds has on top of its trial's own."""


def pooled(record: Record, repeats: Sequence[Record]) -> Record:
    """A trial whose last figures are means over its own seed and those of its repeats.

    Args:
        record: the trial. repeats: of it, judged as it was; those that failed are left out.

    Returns:
        The trial itself where no repeat ended well. Pooled figures say in their conditions `seeds`,
        the `lowest` and `highest` of them, and `seeds_stderr`, the seeds' part of the error.
    """
    ended = [repeat for repeat in repeats if repeat.state == "final"]
    if not ended or record.state != "final":
        return record
    last = record.rungs[-1]
    figures = {
        name: _pooled(figure, [repeat.measurements.get(name) for repeat in ended])
        for name, figure in last.measurements.items()
    }
    return replace(record, rungs=(*record.rungs[:-1], replace(last, measurements=figures)))


def seeds_of(figure: Measurement) -> int:
    """Under how many seeds a figure was taken; 1 for one that is not pooled."""
    return int(dict(figure.conditions).get("seeds", 1))


def seeds_stderr(figure: Measurement) -> float:
    """The seeds' part of a figure's standard error; 0 for one that is not pooled."""
    return float(dict(figure.conditions).get("seeds_stderr", 0.0))


def seed_range(figure: Measurement) -> tuple[float, float] | None:
    """The lowest and the highest over the seeds, None for a figure that is not pooled."""
    told = dict(figure.conditions)
    return (told["lowest"], told["highest"]) if "seeds" in told else None


def _pooled(figure: Measurement, again: Sequence[Measurement | None]) -> Measurement:
    taken = [figure, *(one for one in again if one is not None)]
    known = [one.value for one in taken if one.value is not None]
    if figure.value is None or len(known) < 2:
        return figure
    if figure.over != "items" and len(set(known)) == 1:
        return figure
    spread = stdev(known) / math.sqrt(len(known))
    errors = [one.stderr for one in taken if one.stderr is not None]
    stderr = math.hypot(fmean(errors), spread) if errors else spread or None
    told = {
        **dict(figure.conditions),
        "seeds": len(known),
        "lowest": min(known),
        "highest": max(known),
        "seeds_stderr": spread,
    }
    return replace(
        figure, value=fmean(known), stderr=stderr, conditions=tuple(sorted(told.items()))
    )
