"""Problem: what a sampler may know about a study. Plain data and pure functions."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ...spaces.configuration import Configuration
from ...spaces.paper import Paper
from ..limits import Limit
from ..records import Record
from .cost import JobOf

if TYPE_CHECKING:
    import numpy as np

    from .prior import Lesson

T = TypeVar("T")

_UNKNOWN: Final[Any] = object()


@dataclass
class Memory:
    """Answers of pure functions, by what was asked. Losing it costs time, nothing else."""

    answers: dict[Hashable, Any] = field(default_factory=dict)
    most: int = 60_000

    def recall(self, name: Hashable, answer: Callable[[], T]) -> T:
        """The answer of that name, found or worked out."""
        # Threads share a sampler: another one may forget everything at any moment.
        found: T = self.answers.get(name, _UNKNOWN)
        if found is _UNKNOWN:
            found = answer()
            if len(self.answers) >= self.most:
                self.answers.clear()
            self.answers[name] = found
        return found


@dataclass(frozen=True)
class Problem:
    """What a sampler may know. Only `suggest` is needed; the rest makes the search better.

    Args:
        suggest: makes a configuration by calling `suggest_int`, `suggest_float` and
            `suggest_categorical` of a trial; a pure function of their answers. Without a `paper`
            it may return anything.
        seed: of the part of the pool that stays for many asks, where each ask has a sampler and a
            seed of its own; None: the sampler's.
        paper: the candidate on paper, None where it is illegal. Without it the surrogate sees the
            parameters themselves.
        objectives: metric names in the order of the study's directions; needed with `history`.
        known: objectives that the paper tells exactly, by index, in the metric's own direction.
        fits: whether a candidate keeps every limit that is exactly known on paper.
        limits: limits on measured metrics, resolved as far as the baseline is known.
        features: numbers that describe a candidate, in place of `paper_features`.
        admits: whether the budget still allows this configuration to be asked.
        history: the study's records. Without it the study's own trials are read, and there are no
            rungs.
        job: what a configuration takes, piece by piece. With it and a history candidates are judged
            by what they bring per second, without it by what they bring.
        trial_seconds: what a trial takes of a budget beside its own seconds: those that there are
            for one trial, 0 where trials are not bounded.
        rungs: shares of full fidelity, ascending, the last 1.
        memory: what was looked up before. Handed from sampler to sampler of one study it saves
            seconds and changes no answer; `suggest`, `paper`, `known`, `features`, `job`,
            `lessons` and `structured` must be the same. None: each sampler remembers for itself.
        reference: the frozen reference point in the objectives' own directions, None while it is
            not frozen; without it the sampler takes it from its initial design.
        lessons: earlier studies as far as they teach; they need `paper` and no `features`.
        structured: most of what is drawn anew lets parameters that repeat over layers share one
            mixture; False: each by itself, as the benchmarks do to see what that is worth.
    """

    suggest: Callable[[Any], Any]
    seed: int | None = None
    paper: Callable[[Configuration], Paper | None] | None = None
    objectives: tuple[str, ...] = ()
    known: Mapping[int, Callable[[Paper], float]] = field(default_factory=dict)
    fits: Callable[[Paper], bool] | None = None
    limits: Callable[[], Sequence[Limit]] | None = None
    features: Callable[[Configuration, Paper], np.ndarray] | None = None
    admits: Callable[[Configuration], bool] | None = None
    history: Callable[[], Sequence[Record]] | None = None
    job: JobOf | None = None
    trial_seconds: float = 0.0
    rungs: tuple[float, ...] = (1.0,)
    reference: Callable[[], Sequence[float] | None] | None = None
    memory: Memory | None = None
    lessons: tuple[Lesson, ...] = ()
    structured: bool = True

    @property
    def weighs(self) -> bool:
        """Candidates are judged by what they bring per second."""
        return self.job is not None and self.history is not None
