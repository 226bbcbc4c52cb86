"""What a study has seen so far, the same from records and from plain Optuna trials.

Losses are minimised here: the sign of a maximised objective flips on the way in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ...errors import BadRequest
from ..limits import Limit
from ..records import TRANSIENT, Record
from .pool import Draw, Suggest, draw, repeated

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sight:
    """One fidelity of one trial: `(m,)` losses with NaN where there is no figure; violations."""

    rung: int
    losses: Array
    violations: Mapping[str, float]


@dataclass(frozen=True)
class Observation:
    """One trial.

    Args:
        drawn: its configuration and parameters (none for a baseline from outside the space).
        state: `seen` ended with figures, `waiting` is under way, `paused` at a lower rung.
        sights: one per rung reached, ascending.
        failure: how sure it is to fail again, in [0, 1]; 0 for what did not fail.
        baseline: from outside the space: no parent, no part of the initial design.
    """

    number: int
    drawn: Draw
    state: Literal["seen", "waiting", "paused", "failed"]
    sights: tuple[Sight, ...] = ()
    failure: float = 0.0
    baseline: bool = False


def signs_of(study: Study) -> Array:
    """1 for a minimised objective, -1 for a maximised one: `(m,)`."""
    return np.array([-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in study.directions])


class TrialReader:
    """Reads plain Optuna trials; every trial is replayed through `suggest` once.

    Args:
        suggest: as in `Problem`.
    """

    def __init__(self, suggest: Suggest) -> None:
        self._suggest = suggest
        self._drawn: dict[int, tuple[dict[str, Any], Draw]] = {}

    def read(self, study: Study, but: int) -> list[Observation]:
        """All trials but one, in the order of their numbers."""
        signs = signs_of(study)
        trials = [t for t in study.get_trials(deepcopy=False) if t.number != but]
        seen = [self._observe(trial, signs) for trial in trials]
        return [observation for observation in seen if observation is not None]

    def _observe(self, trial: FrozenTrial, signs: Array) -> Observation | None:
        drawn = self.drawn(trial)
        if drawn is None:
            return None
        if trial.state == TrialState.COMPLETE:
            # Optuna stores infinity as a value; no surrogate can learn from it.
            losses = signs * np.array(trial.values, dtype=np.float64)
            losses = np.where(np.isfinite(losses), losses, np.nan)
            sight = Sight(0, losses, dict(trial.constraints))
            return Observation(trial.number, drawn, "seen", (sight,))
        # Pruned: no figure at full fidelity, and no reason to go there again.
        if trial.state in (TrialState.FAIL, TrialState.PRUNED):
            return Observation(trial.number, drawn, "failed", failure=0.5)
        if trial.state == TrialState.RUNNING:
            return Observation(trial.number, drawn, "waiting")
        return None

    def drawn(self, trial: FrozenTrial) -> Draw | None:
        """What a trial stands for, None while it has not asked for all its parameters."""
        params, made = self._drawn.get(trial.number, (None, None))
        if made is None or params != trial.params:  # or it is a trial of another study
            try:
                made = draw(self._suggest, repeated(trial.params))
            except KeyError:
                return None
            self._drawn[trial.number] = trial.params, made
        return made


def read_records(
    records: Sequence[Record],
    trials: Mapping[int, FrozenTrial],
    objectives: Sequence[str],
    limits: Sequence[Limit],
    signs: Array,
) -> list[Observation]:
    """Observations from records; parameters come from the Optuna trial of the same number.

    Raises:
        BadRequest: as many metric names as the study has directions are needed.
    """
    if len(objectives) != len(signs):
        raise BadRequest(
            f"records need one metric name per objective: {len(signs)} directions, "
            f"{len(objectives)} names; fill in Problem.objectives"
        )
    asked = [record for record in records if record.purpose != "confirm"]
    return [
        _from_record(record, trials.get(record.number), objectives, limits, signs)
        for record in sorted(asked, key=lambda record: record.number)
    ]


def _from_record(
    record: Record,
    trial: FrozenTrial | None,
    objectives: Sequence[str],
    limits: Sequence[Limit],
    signs: Array,
) -> Observation:
    params = dict(trial.params) if trial else {}
    distributions = dict(trial.distributions) if trial else {}
    drawn = Draw(params, distributions, record.configuration, record.configuration)
    sights = tuple(_sight(rung, objectives, limits, signs) for rung in record.rungs)
    base = Observation(record.number, drawn, "waiting", sights)
    base = replace(base, baseline=record.purpose == "baseline")
    if record.state == "final":
        return replace(base, state="seen")
    if record.state == "paused":
        return replace(base, state="paused")
    if record.state != "failed":
        return base
    transient = record.failure is not None and record.failure.kind in TRANSIENT
    return replace(base, state="failed", failure=0.25 if transient else 1.0)


def _sight(rung: Any, objectives: Sequence[str], limits: Sequence[Limit], signs: Array) -> Sight:
    values = {n: m.value for n, m in rung.measurements.items() if m.value is not None}
    losses = signs * np.array([values.get(name, np.nan) for name in objectives])
    violations = {
        limit.text or f"{limit.metric} {limit.operator} {limit.bound}": violation
        for limit in limits
        if not limit.open and (violation := limit.violation(values)) is not None
    }
    return Sight(rung.rung, losses, violations)


def caps_of(
    limits: Sequence[Limit], objectives: Sequence[str], signs: Array
) -> tuple[Array, list[Limit]]:
    """Limits that cap an objective as `(m,)` losses (infinite: none), and the limits left over.

    A cap moves the reference point, which needs no model of its own; every other limit does.
    """
    caps, left = np.full(len(signs), np.inf), list[Limit]()
    for limit in limits:
        place = objectives.index(limit.metric) if limit.metric in objectives else None
        if place is None or limit.upper != (signs[place] > 0):
            left.append(limit)
        elif not limit.open:
            caps[place] = min(caps[place], signs[place] * limit.bound)
    return caps, left
