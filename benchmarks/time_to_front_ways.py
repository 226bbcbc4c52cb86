"""The ways of `time_to_front.py` to search the same table: Optuna's TPE, and ours less one part.

Ours run through the driver. TPE runs as its users run it, in a loop of its own that asks the same
again and again: in the driver, which refuses repeats, it has nothing left to give after some
fifteen trials of a small space.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, TypeVar

import optuna
from optuna.trial import TrialState

from ..errors import StudyError
from ..search.driver import Done, Source, Wait
from ..search.engines.replay import Replay, VirtualClock
from ..search.front import losses_of
from ..search.records import Ask, Record
from ..search.samplers.fresh import plain
from ..search.samplers.problem import Memory
from ..search.storage import StudyStorage
from ..search.study import Study
from ..spaces.configuration import Configuration
from .joint_arms import Search
from .joint_table import Ground, Yardstick, table_seconds, unshared

T = TypeVar("T")
Kept = Literal["all", "baseline", "nothing"]
"""What is made once: all that trials share, the baseline's stages alone (its training, which is
also the teacher), or nothing."""

DRAWS: Final = 300
"""Trials of TPE, repeats among them, after which a search is over."""


@dataclass(frozen=True)
class Way:
    """One way to search.

    Args:
        sampler: a row of the table of samplers; `tpe` runs in a loop of its own.
        kept: see `Kept`. costed: the sampler knows what candidates take.
    """

    sampler: str
    kept: Kept
    costed: bool = False


NAIVE: Final = "naive TPE"
OURS: Final = "ours"

WAYS: Final[dict[str, Way]] = {
    NAIVE: Way("tpe", "nothing"),
    "TPE that keeps baseline and results": Way("tpe", "baseline"),
    "TPE with store": Way("tpe", "all"),
    OURS: Way("greybox", "all", costed=True),
    "ours without cost": Way("greybox", "all"),
    "ours with random draws": Way("random", "all"),
    "ours without store": Way("greybox", "nothing", costed=True),
}
"""By name: what others do, what the product does, and that without each of its parts."""


@dataclass
class Course:
    """What one search held when.

    Args:
        seconds: on the virtual clock when each trial ended. volumes: hypervolume held then.
        trainings: step, and seconds on the clock when its trial ended, of each long training paid.
        asking: seconds that this machine took to choose the trials.
    """

    seconds: list[float] = field(default_factory=list)
    volumes: list[float] = field(default_factory=list)
    trainings: list[tuple[str, float]] = field(default_factory=list)
    asking: float = 0.0

    def at(self, seconds: float) -> float:
        """The hypervolume held by then."""
        ended = zip(self.seconds, self.volumes, strict=True)
        return max((volume for at, volume in ended if at <= seconds), default=0.0)

    def until(self, volume: float) -> float | None:
        """Seconds until that much was held; None: never was."""
        ended = zip(self.seconds, self.volumes, strict=True)
        return next((at for at, held in ended if held >= volume), None)

    def after(self, trials: int) -> float:
        """The hypervolume held after so many trials, or at the end of a shorter search."""
        return self.volumes[:trials][-1]


@dataclass(frozen=True)
class Race:
    """What all searches have in common.

    Args:
        ground: what is searched. records: the table, the baseline first.
        goal: hypervolume that ends a search. least: trials before it may end.
    """

    ground: Ground
    records: Sequence[Record]
    goal: float
    least: int = 1

    def run(self, way: Way, seed: int, memories: dict[str, Memory]) -> Course:
        """One search over the whole space.

        Args:
            way: to search. seed: of the sampler.
            memories: shared between searches of one ground in one and the same way.

        Raises:
            StudyError: the table lacks what was asked.
        """
        if way.sampler == "tpe":
            return _looped(self, way, seed)
        return _driven(self, way, seed, memories)


class Notes:
    """A search's course while it goes on, and whether it is over.

    Args:
        race: that it runs in.
    """

    def __init__(self, race: Race) -> None:
        self._race, self._told = race, list[Record]()
        self._yardstick = Yardstick.of(race.records, race.ground.rows)
        self.course = Course()

    @property
    def over(self) -> bool:
        """Enough is held after enough trials."""
        held = self.course.volumes
        return len(held) >= self._race.least and held[-1] >= self._race.goal

    def add(self, record: Record, ended: float) -> None:
        """What came of one more trial, and when."""
        self._told.append(record)
        self.course.seconds.append(ended)
        self.course.volumes.append(self._yardstick.volume(self._told))
        self.course.trainings += [
            (stage.step, ended)
            for stage in record.stages
            if stage.training is not None and not stage.cached
        ]

    def timed(self, ask: Callable[[], T]) -> T:
        """What was asked; its time counts as asking."""
        begun = time.perf_counter()
        found = ask()
        self.course.asking += time.perf_counter() - begun
        return found


@dataclass(frozen=True)
class Watched:
    """A driver that ends where its race does, and keeps notes."""

    driver: Source
    notes: Notes

    def next(self) -> Ask | Wait | Done:
        """The driver's next ask."""
        return Done("the goal is held") if self.notes.over else self.notes.timed(self.driver.next)

    def prior(self, ask: Ask) -> Record | None:
        """As the driver has it."""
        return self.driver.prior(ask)

    def tell(self, record: Record) -> Record:
        """As the driver has it, with a note."""
        stored = self.driver.tell(record)
        self.notes.add(stored, stored.finished or 0.0)
        return stored

    def beat(self) -> None:
        """As the driver has it."""
        self.driver.beat()


def _driven(race: Race, way: Way, seed: int, memories: dict[str, Memory]) -> Course:
    """Through the driver."""
    study = Study.from_dict({**race.ground.study.to_json(), "sampler": way.sampler})
    stored = way.kept == "all"
    ground = replace(race.ground, study=study, costed=way.costed, stored=stored)
    apart = unshared(race.records)
    clock, notes = VirtualClock(), Notes(race)
    replay = Replay(race.records if stored else apart, clock)
    # Never used up: all records, each with all of its stages.
    minutes = table_seconds(apart) / 60.0
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(StudyStorage.open(Path(folder), ground.header(), clock=clock)) as storage,
    ):
        search = Search(
            ground,
            storage,
            lambda source: replay.run(Watched(source, notes)),
            seed,
            minutes,
            memories,
        )
        search.over(study.space, minutes)
    if replay.missing:
        raise StudyError(
            f"the table lacks {len(replay.missing)} configurations that were asked; complete it: "
            "python -m paretune.benchmarks.joint record"
        )
    return notes.course


def _looped(race: Race, way: Way, seed: int) -> Course:
    """Optuna's sampler in a plain loop, after the baseline; what is illegal fails at no cost."""
    rows = race.ground.rows
    known = {record.configuration.digest: record for record in race.records}
    notes, answer = Notes(race), _answers(race.records, way.kept)
    first = answer(race.records[0])
    now = first.seconds
    notes.add(first, now)
    study = optuna.create_study(
        directions=["minimize"] * len(rows), sampler=plain(way.sampler, seed)
    )
    while len(notes.course.volumes) < DRAWS and not notes.over:
        trial, configuration = notes.timed(lambda: _drawn(study, race.ground))
        there = known.get(configuration.digest)
        losses = None if there is None else losses_of(there, rows)
        study.tell(trial, losses, state=TrialState.FAIL if losses is None else None)
        record = Record(trial.number + 1, configuration, "failed")
        if there is not None:
            record = answer(there)
        now += record.seconds
        notes.add(record, now)
    return notes.course


def _drawn(study: optuna.Study, ground: Ground) -> tuple[optuna.Trial, Configuration]:
    trial = study.ask()
    return trial, ground.space.suggest(trial)


def _answers(records: Sequence[Record], kept: Kept) -> Callable[[Record], Record]:
    """What a trial comes to and takes; repeats take nothing but where nothing is kept."""
    clock = VirtualClock()
    replay = Replay(records, clock)
    seen: set[str] = set()

    def answered(table: Replay, then: Record) -> Record:
        return replace(
            table.answer(Ask(0, then.configuration, 0, then.seed), None), state=then.state
        )

    def answer(then: Record) -> Record:
        digest = then.configuration.digest
        if kept == "all":
            table = replay
        else:
            table = Replay(records, clock)
            if kept == "baseline" and seen:
                answered(table, records[0])
        record = answered(table, then)
        if digest in seen and kept != "nothing":
            record = replace(record, seconds=0.0, stages=())
        seen.add(digest)
        return record

    return answer
