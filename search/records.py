"""Ask and Record: the engines' unit of work, and what comes back of it. Frozen, JSON both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from ..errors import FailureKind
from ..evaluators.measurement import Measurement
from ..evaluators.metric import StageCost
from ..spaces.configuration import Configuration

State = Literal["queued", "running", "paused", "final", "failed"]
Purpose = Literal["baseline", "search", "repeat", "confirm"]

TRANSIENT: frozenset[str] = frozenset({"timeout", "crashed"})
"""Failures that are asked once more; the others never again."""


@dataclass(frozen=True)
class Ask:
    """A piece of work for a worker.

    Args:
        number: the trial.
        configuration: what to make and judge.
        rung: which fidelity, counted from 0.
        seed: enters every step that draws.
        purpose: all but `search` run at full fidelity; `repeat` makes a trial again under a further
            seed, `confirm` judges on the test split.
        attempt: 0, or 1 when a transient failure is asked again.
    """

    number: int
    configuration: Configuration
    rung: int
    seed: int
    purpose: Purpose = "search"
    attempt: int = 0

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form; `from_json` is its inverse."""
        return {**vars(self), "configuration": self.configuration.to_json()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Ask:
        """An ask from what `to_json` wrote."""
        return Ask(**{**data, "configuration": Configuration.from_json(data["configuration"])})


@dataclass(frozen=True)
class Failure:
    """Why a trial has no figures.

    >>> Failure("crashed", "Traceback (most recent call last):\\n  ...\\nValueError: no").last_words
    'ValueError: no'
    """

    kind: FailureKind
    message: str

    @property
    def last_words(self) -> str:
        """The last line of the message: of a traceback, what was raised."""
        lines = self.message.strip().splitlines()
        return lines[-1].strip() if lines else "no message"


@dataclass(frozen=True)
class Rung:
    """What one fidelity said: the figures, and what they cost."""

    rung: int
    measurements: Mapping[str, Measurement]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        figures = {name: m.to_json() for name, m in self.measurements.items()}
        return {"rung": self.rung, "measurements": figures, "seconds": self.seconds}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Rung:
        """The inverse of `to_json`."""
        figures = {k: Measurement.from_json(m) for k, m in data["measurements"].items()}
        return Rung(data["rung"], figures, data["seconds"])


@dataclass(frozen=True)
class Record:
    """A trial as it is stored.

    Args:
        rungs: one entry per fidelity reached, ascending; the last holds the figures that count.
        stages: every stage of the trial's graph with its cost when made, cached ones marked; of a
            trial that failed those that were made all the same.
        seconds: wall time of this trial's own work, all rungs; waiting for others is left out.
        started, finished: unix time.
        files: digests of raw samples and per-item predictions in the run's `samples/`, by piece.
        seed: the seed of the ask.
    """

    number: int
    configuration: Configuration
    state: State
    seed: int = 0
    purpose: Purpose = "search"
    rungs: tuple[Rung, ...] = ()
    failure: Failure | None = None
    stages: tuple[StageCost, ...] = ()
    seconds: float = 0.0
    started: float | None = None
    finished: float | None = None
    attempts: int = 1
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def measurements(self) -> Mapping[str, Measurement]:
        """The figures of the highest fidelity reached; empty before the first."""
        return self.rungs[-1].measurements if self.rungs else {}

    def value(self, metric: str) -> float | None:
        """The figure of a metric, None where there is none."""
        figure = self.measurements.get(metric)
        return None if figure is None else figure.value

    def with_state(self, state: State) -> Record:
        """The same record in another state."""
        return replace(self, state=state)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form; `from_json` is its inverse."""
        return {
            "number": self.number,
            "configuration": self.configuration.to_json(),
            "state": self.state,
            "seed": self.seed,
            "purpose": self.purpose,
            "rungs": [rung.to_json() for rung in self.rungs],
            "failure": vars(self.failure) if self.failure else None,
            "stages": [vars(stage) for stage in self.stages],
            "seconds": self.seconds,
            "started": self.started,
            "finished": self.finished,
            "attempts": self.attempts,
            "files": dict(self.files),
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> Record:
        """A record from what `to_json` wrote."""
        failure = data["failure"]
        return Record(
            number=data["number"],
            configuration=Configuration.from_json(data["configuration"]),
            state=cast(State, data["state"]),
            seed=data["seed"],
            purpose=cast(Purpose, data["purpose"]),
            rungs=tuple(Rung.from_json(rung) for rung in data["rungs"]),
            failure=Failure(failure["kind"], failure["message"]) if failure else None,
            stages=tuple(StageCost(**stage) for stage in data["stages"]),
            seconds=data["seconds"],
            started=data["started"],
            finished=data["finished"],
            attempts=data["attempts"],
            files=data["files"],
        )
