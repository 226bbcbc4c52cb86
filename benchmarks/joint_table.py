"""The table of `joint.py`: every configuration of a study with short lists, made and judged once.

Its records answer replays of any search of that study. What siblings share is paid for once there
too: stages by their keys, and timing sessions by the file of samples that siblings have in common.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import StudyError, WorkFailed
from ..evaluators.environment import environment
from ..evaluators.metric import StageCost
from ..search.budget import Budget
from ..search.driver import Done, Driver, Source
from ..search.engines.local import run_processes
from ..search.engines.slot import Limits
from ..search.events import log_to
from ..search.front import losses_of
from ..search.pareto import hypervolume
from ..search.records import Record
from ..search.rules import Knowledge
from ..search.run import Header, ObjectiveRow, read_run, write_json
from ..search.session import header_of
from ..search.storage import StudyStorage
from ..search.study import Study
from ..search.subject import Material
from ..search.trial import TrialWork
from ..spaces.configuration import Choice, Configuration
from ..spaces.lower import lower, plain, walk
from ..spaces.space import SlotSpace, Space

Array = NDArray[np.float64]
Engine = Callable[[Source], Done]
"""Works for a source until it is done: worker processes, or a replay."""

MARGIN: Final = 0.1
"""The reference point lies a tenth beyond the baseline in every objective."""

USUAL: Final = 0.95
"""Quantile of judging seconds at which single ones are cut: beyond it a process was starting, or
waiting for a training that another one made."""


@dataclass(frozen=True)
class Ground:
    """What is searched, and what samplers are told of it.

    Args:
        study, material: as loaded.
        costed: samplers know what candidates take.
        stored: they reckon that what trials share is made once; else each makes its own.
    """

    study: Study
    material: Material
    costed: bool = True
    stored: bool = True

    @property
    def space(self) -> Space:
        """Everything that the study may try."""
        return Space.of(self.study.space, self.material.subject.paper)

    @property
    def rows(self) -> tuple[ObjectiveRow, ...]:
        """The objectives."""
        return self.study.objective_rows()

    def header(self) -> Header:
        """What a run's storage is told about it."""
        return header_of(self.study)

    def workers(self, folder: Path, count: int) -> Engine:
        """Real work in processes, for a run folder that holds its study."""
        trial = self.study.trial
        limits = Limits(trial.timeout_seconds, trial.memory_bytes, self.study.workload.threads)
        log = log_to(folder / "log.jsonl")
        return lambda source: run_processes(source, TrialWork(folder), count, limits, log)

    def open(self, folder: Path) -> StudyStorage:
        """A run folder whose workers find their study there."""
        storage = StudyStorage.open(folder, self.header())
        (folder / "study.yaml").write_text(self.study.dump_yaml(), encoding="utf-8")
        write_json(folder / "environment.json", environment())
        return storage


@dataclass(frozen=True)
class Yardstick:
    """Hypervolume in units of the baseline, below a reference point a tenth beyond it.

    Args:
        rows: the objectives. baseline: `(m,)` losses.
    """

    rows: tuple[ObjectiveRow, ...]
    baseline: Array

    @staticmethod
    def of(records: Sequence[Record], rows: tuple[ObjectiveRow, ...]) -> Yardstick:
        """The yardstick of the records' baseline.

        Raises:
            WorkFailed: the baseline has no figures.
        """
        losses = [losses_of(r, rows) for r in records if r.purpose == "baseline"]
        if not losses or losses[0] is None:
            raise WorkFailed("the baseline has no figures, so nothing can be compared with it")
        return Yardstick(rows, np.array(losses[0]))

    @property
    def reference(self) -> dict[str, float]:
        """The reference point, in the objectives' own directions."""
        point = self.baseline + MARGIN * np.abs(self.baseline)
        return {
            row.name: float(row.sign * value) for row, value in zip(self.rows, point, strict=True)
        }

    def volume(self, records: Sequence[Record]) -> float:
        """Hypervolume of the records that have every figure."""
        known = [losses_of(record, self.rows) for record in records if record.state == "final"]
        losses = np.array([row for row in known if row]).reshape(-1, len(self.rows))
        unit = np.abs(self.baseline)
        return hypervolume(losses / unit, self.baseline / unit + MARGIN)


def every_configuration(
    ground: Ground, wanted: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Configuration]:
    """All legal configurations but the baseline; one of each training first, the rest shuffled.

    So a table that was broken off is a fair sample, and no worker waits long for another's
    training.

    Args:
        ground: what they lie in.
        wanted: a space as a study file writes it; None: the study's own.

    Raises:
        StudyError: a knob is a range, not a short list.
    """
    subject = ground.material.subject
    space = ground.space if wanted is None else Space.of(wanted, subject.paper)
    slots = [list(_choices(part)) for part in space.slots]
    found = {
        configuration.digest: configuration
        for choices in itertools.product(*slots)
        for configuration in [plain(Configuration.of(**dict(choices)))]
    }
    found.pop(subject.baseline.digest, None)
    legal = [c for _, c in sorted(found.items()) if not walk(c, subject).objections]
    under_way = lower(subject.baseline, subject).trainings
    first = {under_way: subject.baseline}
    for configuration in sorted(legal, key=lambda c: len(c.choices)):
        first.setdefault(lower(configuration, subject).trainings, configuration)
    del first[under_way]
    order = np.random.default_rng(0).permutation(len(legal))
    led = {configuration.digest: configuration for configuration in first.values()}
    return list({**led, **{legal[i].digest: legal[i] for i in order}}.values())


def record(
    ground: Ground, folder: Path, wanted: Sequence[Configuration], minutes: float | None
) -> Done:
    """Makes and judges configurations that the folder does not hold yet, as an ordinary run.

    Args:
        ground: what they lie in. folder: of the table; it may be resumed.
        wanted: in this order. minutes: of this call; None: until all are there.
    """
    with closing(ground.open(folder)) as storage:
        held = {record.configuration.digest for record in storage.records.values()}
        new = tuple(c for c in wanted if c.digest not in held)
        trials = max(len(storage.records), 1) + len(new)
        until = None if minutes is None else storage.spent_seconds() / 60.0 + minutes
        rules = Knowledge(ground.study, ground.material, ground.space, storage).rules()
        rules = replace(
            rules, enqueue=new, make_sampler=_sampler, budget=Budget(trials=trials, minutes=until)
        )
        return ground.workers(folder, ground.study.engine.workers)(Driver(storage, rules))


def read_table(folder: Path) -> list[Record]:
    """The records of a table, the baseline first, with timing sessions among their stages."""
    run = read_run(folder)
    records = [*([run.baseline] if run.baseline else []), *run.records]
    ended = [record for record in records if record.state in ("final", "failed")]
    return shared_costs(ended, timing_seconds(folder / "log.jsonl"))


def timing_seconds(log: Path) -> dict[int, float]:
    """Seconds from the start of a trial's timing session to its end, by trial; from a run's log."""
    begun: dict[int, float] = {}
    seconds: dict[int, float] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        event: Mapping[str, Any] = json.loads(line)
        number = event.get("number", 0)
        if event["kind"] == "step" and event["text"] == "measure speed":
            begun[number] = event["at"]
        elif event["kind"] == "told" and number in begun:
            seconds[number] = event["at"] - begun.pop(number)
    return seconds


def shared_costs(records: Sequence[Record], sessions: Mapping[int, float]) -> list[Record]:
    """Records whose costs can be shared out anew by `Replay`.

    A timing session becomes a stage of all records that its samples answered. What is left of a
    record's seconds, its own judging, is cut at a usual value but for the baseline, which every
    search begins with.

    Args:
        records: of one run. sessions: seconds of each trial's own timing session, by number.
    """
    paid = {
        r.files["timings"]: sessions[r.number]
        for r in records
        if r.number in sessions and "timings" in r.files
    }
    told = [_with_session(record, sessions, paid) for record in records]
    usual = [_judging(record) for record in told if record.purpose == "search"]
    most = float(np.quantile(usual, USUAL)) if usual else 0.0
    return [
        record
        if record.purpose == "baseline"
        else replace(record, seconds=record.seconds - max(_judging(record) - most, 0.0))
        for record in told
    ]


def unshared(records: Sequence[Record], kept: frozenset[str] = frozenset()) -> list[Record]:
    """The same records where each pays for all of its own stages, timing session included.

    Args:
        records: a table. kept: keys of stages that are shared all the same.
    """
    return [
        replace(
            record,
            stages=tuple(
                stage
                if stage.key in kept
                else replace(stage, key=own(record.configuration, stage.key))
                for stage in record.stages
            ),
        )
        for record in records
    ]


def own(configuration: Configuration, name: object) -> str:
    """The name of what would be shared, where a configuration has it for itself."""
    return f"{configuration.digest}/{name}"


def table_seconds(records: Sequence[Record]) -> float:
    """Seconds of work in a table: every stage once, and every record's own judging."""
    stages = {stage.key: stage.seconds for record in records for stage in record.stages}
    return sum(stages.values()) + sum(_judging(record) for record in records)


def _judging(record: Record) -> float:
    paid = sum(stage.seconds for stage in record.stages if not stage.cached)
    return max(record.seconds - paid, 0.0)


def _with_session(
    record: Record, sessions: Mapping[int, float], paid: Mapping[str, float]
) -> Record:
    samples = record.files.get("timings", "")
    if samples not in paid:
        return record
    own = record.number in sessions
    session = StageCost(f"timing-{samples}", "measure speed", paid[samples], False, not own, None)
    return replace(record, stages=(*record.stages, session))


def _choices(part: SlotSpace) -> Iterator[tuple[str, Choice]]:
    for method, knobs in part.methods.items():
        lists = []
        for knob in knobs:
            if not hasattr(knob, "values"):
                raise StudyError(
                    f"{part.slot}.{method}.{knob.name} is a range; a table needs "
                    "{values: [...]} for every knob"
                )
            lists.append(knob.values)
        for values in itertools.product(*lists):
            settings = dict(zip((knob.name for knob in knobs), values, strict=True))
            yield part.slot, Choice.of(method, **settings)


def _sampler(seed: int) -> Any:
    """Never has a choice: everything that is wanted is enqueued."""
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)
