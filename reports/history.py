"""How a search went: hypervolume as it grew, what failed, what was shared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ..search.front import all_trials, front_of, sign
from ..search.pareto import Array, hypervolume
from ..search.run import Run

MOST_STEPS: Final = 200
"""Points of the curve: the exact hypervolume of every prefix would take minutes on long runs."""


@dataclass(frozen=True)
class Growth:
    """Hypervolume after so many judged trials.

    Args:
        trials: `(k,)` how many trials had been judged, in the order in which they ended.
        seconds: `(k,)` wall time since the first trial began; empty where times were not stored.
        share: `(k,)` of the box between the best figure that any trial reached in each objective
            and the reference point, in [0, 1].
        reason: why the curve is empty, None where it is not.
    """

    trials: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()
    share: tuple[float, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class Sharing:
    """What trials had in common.

    Args:
        made, found: stages that were made, and those that a trial found made.
        spent_seconds: what the made ones took.
        saved_seconds: what the found ones had taken when they were made.
    """

    made: int
    found: int
    spent_seconds: float
    saved_seconds: float


def growth(run: Run) -> Growth:
    """The hypervolume of the study's objectives as trials ended."""
    if run.reference is None:
        return Growth(reason="the reference point is fixed when the initial design ends")
    front = front_of(run)
    if not front.judged:
        return Growth(reason="no trial could be judged")
    order = np.argsort([record.finished or 0.0 for record in front.judged], kind="stable")
    records = [front.judged[i] for i in order]
    losses = _in_box(front.losses[order], _reference(run, front.objectives))
    starts = [record.started for record in all_trials(run) if record.started is not None]
    timed = bool(starts) and all(record.finished is not None for record in records)
    steps = np.unique(np.linspace(1, len(records), min(MOST_STEPS, len(records)), dtype=int))
    ones = np.ones(losses.shape[1])
    return Growth(
        trials=tuple(int(n) for n in steps),
        seconds=tuple((records[n - 1].finished or 0.0) - min(starts) for n in steps)
        if timed
        else (),
        share=tuple(hypervolume(losses[:n], ones) for n in steps),
    )


def sharing(run: Run) -> Sharing:
    """Stages made and found, over all trials and confirmations."""
    again = (*run.confirmations.values(), *run.near_ties.values())
    repeats = [record for records in again for record in records]
    stages = [stage for record in (*all_trials(run), *repeats) for stage in record.stages]
    made = [stage.seconds for stage in stages if not stage.cached]
    found = [stage.seconds for stage in stages if stage.cached]
    return Sharing(len(made), len(found), sum(made), sum(found))


def failures(run: Run) -> dict[str, list[tuple[int, str]]]:
    """Failed trials by kind: their numbers and what was said."""
    found: dict[str, list[tuple[int, str]]] = {}
    for record in all_trials(run):
        if record.state == "failed" and record.failure is not None:
            said = record.failure.message.strip().splitlines()
            row = (record.number, said[-1] if said else "")
            found.setdefault(record.failure.kind, []).append(row)
    return found


def _reference(run: Run, objectives: tuple[str, ...]) -> Array:
    point = run.reference or {}
    return np.array([point[name] * sign(run, name) for name in objectives])


def _in_box(losses: Array, reference: Array) -> Array:
    """Losses with the best of each objective at 0 and the reference at 1."""
    best = losses.min(axis=0)
    span = reference - best
    # an objective in which nothing is inside the reference leaves the box without volume
    return np.where(span > 0, (losses - best) / np.where(span > 0, span, 1.0), 1.0)
