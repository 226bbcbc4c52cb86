"""A trial: one configuration made and judged, in a worker process.

`TrialWork` is what engines hand to their workers. It is small and picklable; what it needs (data,
subject, store) is loaded once per process and kept.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from ..evaluators.catalogue import metrics
from ..evaluators.compute.latency import TAIL_REPEATS
from ..evaluators.compute.timing import Patience
from ..evaluators.host import HostLock
from ..evaluators.measurement import Measurement
from ..evaluators.metric import Evidence, StageCost
from ..evaluators.waits import WAITS
from ..spaces.lower import Graph, lower
from .events import Report
from .evidence import Gatherer
from .records import Ask, Record, Rung
from .run import run_id
from .stages import StageStore, cache_root
from .study import Study, load_study
from .subject import Material, load_material
from .workshop import Workshop

TIMING_SECONDS: Final = 5.0
"""Most seconds that one timing session keeps the host to itself; a tail may take longer."""


@dataclass(frozen=True)
class TrialWork:
    """The work of one study, as a callable that a worker process can be sent.

    Args:
        run: the run's folder; its `study.yaml` is read by the worker.
    """

    run: Path

    def __call__(self, ask: Ask, prior: Record | None, report: Report) -> Record:
        """Makes and judges one configuration.

        Args:
            ask: what to do.
            prior: the trial's record so far, when it goes on from a lower rung.
            report: told `(what, done, total)` now and then.

        Raises:
            StepFailed: a step failed, with its kind.
        """
        started, spent = time.time(), WAITS.stopwatch()
        record = prior or Record(ask.number, ask.configuration, "running", ask.seed, ask.purpose)
        record = replace(record, started=record.started or started)
        laboratory = Laboratory.of(self.run)
        with laboratory.store.reading():
            done = laboratory.judge(ask, record, report)
        return replace(done, finished=time.time(), seconds=done.seconds + spent())


@dataclass(frozen=True)
class Laboratory:
    """What the trials of one study need, loaded once per process.

    Args:
        study: as resolved. material: model and data. store: shared stages.
        samples: where raw samples and answers are kept.
        run: the run's name, by which its timing sessions are found again.
    """

    study: Study
    material: Material
    store: StageStore
    samples: Path
    run: str

    @staticmethod
    def of(run: Path) -> Laboratory:
        """The laboratory of a run folder; loaded at the first call in a process."""
        return _laboratory(run.resolve())

    @property
    def host(self) -> HostLock:
        """What lets measurements have the machine alone."""
        return HostLock(self.store.root / "host")

    def judge(self, ask: Ask, record: Record, report: Report) -> Record:
        """Makes the ask's graph and takes every figure that its purpose calls for.

        `search` judges on the rung's share of the validation items, and below the last rung takes
        speed only where the study asks for it; `baseline` and `repeat` on all of them; `confirm` on
        the test split, with peak memory.
        """
        spent = WAITS.stopwatch()
        rungs = self.study.fidelity.rungs
        rung = ask.rung if ask.purpose == "search" else len(rungs) - 1
        graph, artifact, shop = self.make(ask, rung, report)
        gatherer = self.gatherer(report)
        split, share = ("test", 1.0) if ask.purpose == "confirm" else ("validation", rungs[rung])
        stages = _paid(record.stages, shop.costs())
        anew = ask.seed if ask.purpose == "confirm" else None
        timed = rung == len(rungs) - 1 or needs_speed(self.study)
        evidence, files = gatherer.gather(
            graph, artifact, stages, split, share, anew=anew, timed=timed
        )
        if ask.purpose == "confirm":
            evidence = replace(evidence, peak=gatherer.peak(artifact))
        reached = Rung(rung, figures(evidence, split), spent())
        return replace(
            record,
            state="final" if rung == len(rungs) - 1 else "paused",
            rungs=(*record.rungs, reached),
            stages=tuple({stage.key: stage for stage in (*record.stages, *stages)}.values()),
            files={**record.files, **files},
        )

    def make(self, ask: Ask, rung: int, report: Report) -> tuple[Graph, Path, Workshop]:
        """The ask's graph, its artifact's folder, and the workshop that made it."""
        subject = replace(self.material.subject, seed=ask.seed, teacher_seed=self.study.seed)
        graph = lower(ask.configuration, subject, rung)
        with self.host.training() as turns:
            workload = self.study.workload.spec()
            if self.store.find(graph.last.key) is None:
                _compute_with(workload.threads)
            shop = Workshop(
                graph,
                self.store,
                self.material.task,
                subject.seed,
                device=workload.torch_device,
                turn=turns.turn,
                report=report,
            )
            return graph, shop.artifact(), shop

    def gatherer(self, report: Report) -> Gatherer:
        """What gathers evidence for this study."""
        return Gatherer(
            task=self.material.task,
            workload=self.study.workload.spec(),
            settings=self.study.settings.given(),
            environment=self.material.subject.environment,
            store=self.store,
            host=self.host,
            samples=self.samples,
            report=report,
            patience=patience(self.study),
            run=self.run,
        )


def needs_speed(study: Study) -> bool:
    """Whether an objective or a limit is computed from a timing session."""
    table = metrics()
    asked = [table[name].pieces for name in study.asked() if name in table]
    return any(pieces & {"timings", "power"} for pieces in asked)


def patience(study: Study) -> Patience:
    """How long a timing session of the study may take.

    Slow answers would otherwise spend the budget before there are repeats enough for a tail.
    """
    usual = Patience(budget_s=TIMING_SECONDS)
    return replace(usual, least=TAIL_REPEATS) if "latency_p95" in study.asked() else usual


def _paid(before: tuple[StageCost, ...], now: tuple[StageCost, ...]) -> tuple[StageCost, ...]:
    """Stages now, not `cached` where a lower rung of the same trial made them."""
    made = {stage.key for stage in before if not stage.cached}
    return tuple(replace(s, cached=s.cached and s.key not in made) for s in now)


def _compute_with(threads: int) -> None:
    # keys name the study's threads, so whoever makes a stage must use as many, an export too
    import torch

    torch.set_num_threads(threads)


def figures(evidence: Evidence, split: str) -> dict[str, Measurement]:
    """Every metric of the catalogue on one candidate; quality says on which split."""
    taken = {}
    for name, metric in metrics().items():
        figure = metric.evaluate(evidence)
        if metric.resource == "quality" and figure.value is not None:
            pairs = tuple(sorted({**dict(figure.conditions), "split": split}.items()))
            figure = replace(figure, conditions=pairs)
        taken[name] = figure
    return taken


@lru_cache(maxsize=1)
def _laboratory(run: Path) -> Laboratory:
    study = load_study(run / "study.yaml")
    store = StageStore(cache_root())
    with HostLock(store.root / "host").training():  # it imports torch and encodes the data
        material = load_material(study, store.root / "data")
    return Laboratory(study, material, store, run / "samples", run_id(run))
