"""From a study and its material to what drivers and samplers know: small pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Final, NamedTuple

import numpy as np

from ..evaluators.catalogue import metrics
from ..evaluators.devices.here import processor
from ..evaluators.devices.table import DEFAULT_REGION, device_row, grid, pue
from ..evaluators.host import HostLock
from ..evaluators.metric import StageCost
from ..spaces.configuration import Configuration
from ..spaces.device import CPU
from ..spaces.lower import Graph, Subject, lower, trainings, walk
from ..spaces.paper import Paper, Workload
from ..spaces.recent import Recent
from ..spaces.space import Space
from ..spaces.steps import Key
from .budget import Budget, Tariff, trainings_used
from .driver import Rules
from .fidelity import promotions
from .foresight import fits, known_on_paper, on_paper
from .front import errors_of, losses_of
from .jobs import Jobs
from .limits import Limit
from .pareto import reference_point
from .records import Record
from .run import ObjectiveRow
from .samplers import sampler
from .samplers.prior import Lesson
from .samplers.problem import Memory, Problem
from .stages import StageStore, cache_root
from .storage import StudyStorage
from .study import Study
from .study_checks import enqueued
from .subject import Material
from .trial import needs_speed
from .workshop import stage_costs

PATIENCE_SECONDS: Final = 60.0
"""Longest wait of a driver for a measurement: nobody but the driver ends one that hangs."""


LOOKS: Final = 32_768
"""Configurations of which a look is remembered, with some kilobytes each."""


class Look(NamedTuple):
    """What one configuration is on paper; a paper and trainings only where it is legal.

    Args:
        trains: gradients flow somewhere in it.
    """

    paper: Paper | None
    objections: tuple[str, ...]
    trainings: tuple[str, ...]
    trains: bool


@dataclass(frozen=True)
class Lookup:
    """What is known of configurations on paper, looked up once each.

    Args:
        subject: what they are lowered against.
    """

    subject: Subject
    _looks: Recent[Look] = field(default_factory=lambda: Recent(LOOKS))

    def paper(self, configuration: Configuration) -> Paper | None:
        """The candidate on paper, None where it is illegal."""
        return self._look(configuration).paper

    def objections(self, configuration: Configuration) -> tuple[str, ...]:
        """Why it is illegal; empty: it is legal."""
        return self._look(configuration).objections

    def graph(self, configuration: Configuration) -> Graph:
        """The graph at full fidelity; only of legal configurations."""
        return lower(configuration, self.subject)

    def trainings(self, configuration: Configuration) -> Sequence[str]:
        """Names of the long trainings that it rests on; none where it is illegal."""
        return self._look(configuration).trainings

    def trains(self, configuration: Configuration) -> bool:
        """Gradients flow somewhere in it."""
        return self._look(configuration).trains

    def _look(self, configuration: Configuration) -> Look:
        return self._looks.get(configuration.digest, partial(self._walked, configuration))

    def _walked(self, configuration: Configuration) -> Look:
        path = walk(configuration, self.subject)
        trains = any(move.trains for move in path.moves)
        if path.objections:
            return Look(None, path.objections, (), trains)
        return Look(path.paper, (), trainings(path, self.subject), trains)


@dataclass(frozen=True)
class Knowledge:
    """Everything that a study's driver and sampler are told.

    Args:
        study, material: as loaded. space: what may be tried.
        storage: the run's records, read only.
        judged: a function of the user's gives the figures, so that paper tells none of them.
        lessons: earlier runs, as far as they teach.
    """

    study: Study
    material: Material
    space: Space
    storage: StudyStorage
    judged: bool = False
    lessons: tuple[Lesson, ...] = ()

    @cached_property
    def lookup(self) -> Lookup:
        """Configurations on paper."""
        return Lookup(self.material.subject)

    @cached_property
    def workload(self) -> Workload:
        """The use for which speed is judged."""
        return self.study.workload.spec()

    @cached_property
    def _jobs(self) -> Jobs:
        study = self.study
        last, always = len(study.fidelity.rungs) - 1, needs_speed(study)
        return Jobs(
            subject=self.material.subject,
            tokens=study.task.max_length,
            first_rung=self.first_rung,
            timed=lambda rung: always or rung == last,
        )

    @cached_property
    def memory(self) -> Memory:
        """What the samplers of this process have worked out; each ask has a sampler of its own."""
        return Memory()

    def rules(self) -> Rules:
        """What the driver is told."""
        study, subject = self.study, self.material.subject
        row = sampler(study.sampler)
        return Rules(
            suggest=self.space.suggest,
            make_sampler=lambda seed: row.make(self.problem(), seed),
            refuse=self.refusals,
            budget=study.budget.spec(),
            tariff=tariff(study),
            seed=study.seed,
            baseline=subject.baseline,
            needs_baseline=any(limit.open for limit in study.limits()),
            initial=initial_trials(self.space),
            enqueue=enqueued(study.enqueue, self.space),
            parameters=self.space.parameters,
            rungs=len(subject.rungs),
            first_rung=self.first_rung,
            promote=self.promote,
            finish=partial(self.promote, everyone=True),
            trainings=self.lookup.trainings,
            violations=self.violations,
            reference=self.reference,
            made=self.made,
            turn=self._turn,
        )

    def problem(self, budget: Budget | None = None) -> Problem:
        """What the sampler is told.

        Args:
            budget: that the search has, None: the study's. Where it bounds trials and no time,
                seconds do not count.
        """
        rows = self.study.objective_rows()
        budget = budget or self.study.budget.spec()
        each = budget.seconds_a_trial(self.study.engine.workers)
        return Problem(
            suggest=self.space.suggest,
            seed=self.study.seed,
            paper=self.lookup.paper,
            objectives=tuple(row.name for row in rows),
            known=self._known(rows),
            fits=self._fits(),
            limits=self.limits,
            admits=self._admits() if self.study.budget.trainings is not None else None,
            history=lambda: list(self.storage.records.values()),
            job=None if self.judged or each is None else self._jobs,
            trial_seconds=each or 0.0,
            rungs=self.study.fidelity.rungs,
            reference=self._reference_values,
            memory=self.memory,
            lessons=self.lessons,
        )

    def limits(self) -> list[Limit]:
        """The study's limits, resolved as far as the baseline is known."""
        figures = self._baseline_figures()
        return [limit.resolve(figures) for limit in self.study.limits()]

    def refusals(self, configuration: Configuration) -> list[str]:
        """Why a configuration may not become a trial, budget apart."""
        objections = list(self.lookup.objections(configuration))
        paper = self.lookup.paper(configuration)
        if paper is not None and not self._fits()(paper):
            objections.append("beyond a limit that is known on paper")
        return objections

    def first_rung(self, configuration: Configuration) -> int:
        """Where a configuration starts: the last rung where a lower one would save no training."""
        fidelity = self.study.fidelity
        screened = fidelity.of == "items" or self.lookup.trains(configuration)
        return 0 if screened else len(fidelity.rungs) - 1

    def promote(self, records: Sequence[Record], everyone: bool = False) -> list[int]:
        """Numbers of the paused trials that go on, best first.

        Args:
            records: every trial. everyone: all go on in the end, not the study's share alone.

        Of the limits count those that further training cannot mend: all, where rungs are of items
        alone.
        """
        table, fidelity = metrics(), self.study.fidelity
        fixed = {name for name, row in table.items() if row.needs != "trained"}
        limits = [limit for limit in self.limits() if not limit.open]
        if fidelity.of != "items":
            limits = [limit for limit in limits if limit.metric in fixed]

        def excess(record: Record) -> float:
            return sum(max(0.0, found) for found in _violations(record, limits).values())

        share = 1.0 if everyone else fidelity.promote
        return promotions(records, self.losses, fidelity.rungs, share, excess, self.errors)

    def violations(self, record: Record) -> Mapping[str, float]:
        """By limit, above 0 where a record breaks it; a limit without a figure counts as broken."""
        return _violations(record, self.limits())

    def losses(self, record: Record) -> list[float] | None:
        """Objective figures, lower is better; None where one is missing."""
        return losses_of(record, self.study.objective_rows())

    def made(self, record: Record, rung: int) -> tuple[StageCost, ...]:
        """Stages of a trial that failed at a rung, as far as the store knows them.

        Asked of the store, as a worker that was killed tells nothing. What was made since the trial
        began, and by no other trial as far as records tell, was made by it.
        """
        if self.judged or self.lookup.objections(record.configuration):
            return ()
        store, others = StageStore(cache_root()), self.storage.records.values()
        elsewhere = {
            stage.key for other in others if other.number != record.number for stage in other.stages
        }

        def made_here(key: Key) -> bool:
            since = record.started
            return key not in elsewhere and since is not None and store.made_since(key, since)

        graph = lower(record.configuration, self.material.subject, rung)
        return stage_costs(graph, store.cost, made_here)

    def errors(self, record: Record) -> list[float]:
        """Standard errors of the objective figures, 0 where there is none."""
        return errors_of(record, self.study.objective_rows())

    def reference(self, first: Sequence[Record]) -> Mapping[str, float] | None:
        """The hypervolume's reference point, in the objectives' own directions."""
        rows = self.study.objective_rows()
        known = [(record, self.losses(record)) for record in first]
        baseline = [loss for record, loss in known if record.purpose == "baseline" and loss]
        initial = [loss for record, loss in known if record.purpose == "search" and loss]
        if not baseline and not initial:
            return None
        caps = np.array([self._cap(row) for row in rows])
        start = np.array(baseline[0]) if baseline else None
        point = reference_point(start, np.array(initial).reshape(-1, len(rows)), caps)
        return {row.name: row.sign * value for row, value in zip(rows, point, strict=True)}

    def reference_losses(self) -> Sequence[float] | None:
        """The reference point as losses, None while it is not frozen."""
        point = self._reference_values()
        rows = self.study.objective_rows()
        return point and [row.sign * value for row, value in zip(rows, point, strict=True)]

    def _turn(self) -> AbstractContextManager[object]:
        if self.judged:
            return nullcontext()
        return HostLock(cache_root() / "host").training(PATIENCE_SECONDS)

    def _reference_values(self) -> Sequence[float] | None:
        point = self.storage.notes.get("reference")
        return None if point is None else [point[row.name] for row in self.study.objective_rows()]

    def _cap(self, row: ObjectiveRow) -> float:
        bounds = [
            row.sign * limit.bound
            for limit in self.limits()
            if limit.metric == row.name and not limit.open and limit.upper == (row.sign > 0)
        ]
        return min(bounds) if bounds else float("nan")

    def _baseline_figures(self) -> dict[str, float]:
        first = self.storage.records.get(0)
        if first is None or first.purpose != "baseline" or first.state != "final":
            return {}
        return {name: m.value for name, m in first.measurements.items() if m.value is not None}

    def _known(self, rows: Sequence[ObjectiveRow]) -> dict[int, Callable[[Paper], float]]:
        table = {} if self.judged else metrics()
        exact = {i: table[row.name] for i, row in enumerate(rows) if row.name in table}
        return {i: on_paper(m, self.workload) for i, m in exact.items() if known_on_paper(m)}

    def _fits(self) -> Callable[[Paper], bool]:
        return fits(() if self.judged else self.limits(), self.workload)

    def _admits(self) -> Callable[[Configuration], bool]:
        limit = self.study.budget.trainings or 0
        made = trainings_used(self.storage.records.values(), self.lookup.trainings)
        return lambda c: len(made | set(self.lookup.trainings(c))) <= max(limit, len(made))


def tariff(study: Study) -> Tariff:
    """What an hour of one worker draws, emits and costs, from the tables and the study."""
    settings = study.settings
    region = grid(settings.region or DEFAULT_REGION)
    # what a GPU draws no table tells, and the processor's row is not it
    on_cpu = study.workload.spec().torch_device == CPU
    row = device_row(settings.device or processor()) if on_cpu else None
    threads = study.workload.threads
    return Tariff(
        watts=None if row is None else row.watts(1.0) * threads,
        pue=settings.pue or pue(),
        kg_per_kwh=region.gco2e_per_kwh / 1000.0,
        price_per_hour=None if row is None else row.usd_per_hour * threads,
        price_per_kwh=settings.usd_per_kwh,
        sources="; ".join(
            [f"{region.name}: {region.source}, {region.year}"]
            + ([] if row is None else [f"{row.name}: {row.power_source}; {row.price_source}"])
        ),
        instance_per_hour=settings.usd_per_hour,
    )


def initial_trials(space: Space) -> int:
    """Trials of the initial design: 8, fewer in a space of few parameters.

    As many as the grey-box sampler takes for it, so that the reference point is frozen when the
    sampler begins to look at it.
    """
    from .samplers.greybox import initial_size

    names: set[str] = set()
    for turn in range(max((len(part.methods) for part in space.slots), default=0)):
        space.suggest(_Naming(names, turn))
    return initial_size(len(names))


@dataclass(frozen=True)
class _Naming:
    """Notes the names that a space asks for; in each turn another method of every slot answers."""

    names: set[str]
    turn: int

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.names.add(name)
        return choices[self.turn % len(choices)]

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        self.names.add(name)
        return low

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.names.add(name)
        return low


def _violations(record: Record, limits: Iterable[Limit]) -> dict[str, float]:
    figures = {name: m.value for name, m in record.measurements.items() if m.value is not None}
    found = {}
    for limit in limits:
        violation = limit.violation(figures)
        found[limit.text] = 1.0 if violation is None else violation
    return found
