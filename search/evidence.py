"""Evidence of one deployed candidate: its answers, its speed, its energy, its peak memory.

Answers are shared by artifact and items; speed and energy by what does not depend on weights (the
paper's structure, the runtime, the workload), so that siblings are timed once. They belong to one
run: another run's session was another day's machine.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..evaluators.compute.timing import (
    Patience,
    answering,
    load_timings,
    save_timings,
    timing_session,
)
from ..evaluators.devices.here import device_name
from ..evaluators.energy.meter import Meter
from ..evaluators.energy.meters import find_meter
from ..evaluators.energy.session import measure_power
from ..evaluators.host import HostLock
from ..evaluators.memory.peak import peak_memory
from ..evaluators.metric import Evidence, Power, Predictions, StageCost, Timings
from ..evaluators.quality.predictions import load_predictions, predict, save_predictions
from ..evaluators.waits import WAITS
from ..spaces.configuration import digest
from ..spaces.lower import Graph
from ..spaces.paper import Workload
from ..spaces.runtimes import open_artifact
from ..spaces.steps import Key, Runner
from ..spaces.task import Batch, Task
from .stages import StageCostFacts, StageStore
from .subject import items_digest

TIMING, ASKING = 4, 3
"""Versions of how speed and energy are taken, and answers: another way's are not shared."""


@dataclass(frozen=True)
class Gatherer:
    """Gathers evidence of artifacts for one study.

    Args:
        task: whose items are asked.
        workload: for which speed is measured.
        settings: what the study says about the surroundings (region, prices).
        environment: library versions and threads: part of every key.
        store: where evidence is shared.
        host: lets measurements have the machine alone.
        samples: the run's folder of raw samples.
        report: told `(what, done, total)`.
        patience: limits of a timing session.
        run: the run's name, whose sessions are nobody else's.
    """

    task: Task
    workload: Workload
    settings: Mapping[str, Any]
    environment: tuple[tuple[str, str], ...]
    store: StageStore
    host: HostLock
    samples: Path
    report: Callable[[str, int, int], None]
    patience: Patience
    run: str

    def gather(
        self,
        graph: Graph,
        artifact: Path,
        stages: tuple[StageCost, ...],
        split: str,
        share: float,
        *,
        anew: int | None = None,
        timed: bool = True,
    ) -> tuple[Evidence, dict[str, str]]:
        """Everything but peak memory.

        Args:
            graph: what was made. artifact: its folder. stages: what that cost.
            split: whose items are asked. share: of them, in (0, 1].
            anew: the seed of a confirmation, which times for itself: a lucky timing is not
                confirmed by reading it again. None: siblings share a timing.
            timed: take speed and energy too.

        Returns:
            The evidence, and the names of raw files in `samples` by piece.
        """
        predictions = self._predictions(graph, artifact, split, share)
        files = {"predictions": save_predictions(self.samples, predictions)}
        timings: Timings | None = None
        power: Power | None = None
        if timed:
            timings, power, files["timings"] = self._speed(graph, artifact, anew)
        evidence = Evidence(
            paper=graph.paper,
            workload=self.workload,
            files=self._sizes(artifact),
            timings=timings,
            power=power,
            predictions=predictions,
            stages=stages,
            settings={**self.settings, "item_tokens": self.task.max_length},
            training_papers=tuple(node.before for node in graph.trained),
            teacher_papers=tuple(node.before for node in graph.taught),
        )
        return evidence, files

    def peak(self, artifact: Path) -> Any:
        """Highest memory of a fresh process that answers the workload once."""
        with self.host.training():
            return peak_memory(artifact, workload_batch(self.task, self.workload), self.workload)

    def _predictions(self, graph: Graph, artifact: Path, split: str, share: float) -> Predictions:
        items = self.task.splits[split]
        # Asked as the workload asks: a runtime that rounds activations over the whole batch answers
        # otherwise in other company.
        together = self.workload.batch
        key = digest(["predict", ASKING, graph.last.key, items_digest(items), share, together])

        def write(folder: Path) -> StageCostFacts:
            spent = WAITS.stopwatch()
            with self.host.training() as turns:

                def told(done: int, total: int) -> None:
                    turns.turn()
                    self.report(f"judge on {split}", done, total)

                runner = self._opened(artifact)
                answers = predict(
                    runner,
                    items,
                    task_kind=self.task.kind,
                    batch=together,
                    share=share,
                    report=told,
                )
                runner.close()
            save_predictions(folder, answers)
            return StageCostFacts(spent())

        folder, _, _ = self.store.make(key, "predict", write)
        return load_predictions(folder, next(folder.glob("*.npz")).stem)

    def _speed(self, graph: Graph, artifact: Path, anew: int | None) -> tuple[Timings, Power, str]:
        meter = find_meter(self.workload, device=self.settings.get("device"))
        key = self._speed_key(graph, meter, anew)

        def write(folder: Path) -> StageCostFacts:
            spent = WAITS.stopwatch()
            batch = workload_batch(self.task, self.workload)
            with self.host.training():  # opening or the first answer compiles the graph
                runner = self._opened(artifact)
                answering(runner, batch, self.workload)()
            self.report("measure speed", 0, 0)
            with self.host.measuring():
                timings = timing_session(runner, batch, self.workload, self.patience)
                power = measure_power(meter, answering(runner, batch, self.workload))
            runner.close()
            save_timings(folder / "timings", timings)
            (folder / "power.json").write_text(json.dumps(asdict(power)))
            return StageCostFacts(spent())

        folder, _, _ = self.store.make(key, "speed", write)
        raw = next((folder / "timings").glob("*.json"))
        self.samples.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(raw, self.samples / raw.name)
        return load_timings(raw.parent, raw.stem), _power(folder / "power.json"), raw.stem

    def _sizes(self, artifact: Path) -> dict[str, int]:
        with self.host.training():
            runner = self._opened(artifact)
            try:
                return {str(p.relative_to(artifact)): p.stat().st_size for p in runner.files()}
            finally:
                runner.close()

    def _opened(self, artifact: Path) -> Runner:
        workload = self.workload
        return open_artifact(artifact, threads=workload.threads, device=workload.torch_device)

    def _speed_key(self, graph: Graph, meter: Meter, anew: int | None) -> Key:
        step, paper = graph.last.step, graph.paper
        deployed = [step.name, step.version, dict(step.settings), paper.runtime]
        how = [TIMING, asdict(self.workload), asdict(self.patience), self.environment]
        there = device_name(self.workload.device)
        read = [there, meter.name, meter.source, meter.assumptions()]
        return digest(["speed", paper.profile.to_json(), deployed, how, *read, self.run, anew])


def workload_batch(task: Task, workload: Workload) -> Batch:
    """`workload.batch` texts of exactly `workload.prompt_tokens` real tokens, without padding."""
    items = task.splits["validation"]
    real = items.input_ids[items.attention_mask.astype(bool)]
    shape = (workload.batch, workload.prompt_tokens)
    ids = np.resize(real, shape).astype(np.int64)
    labels = np.zeros(workload.batch, np.int64) if task.kind == "classification" else ids
    return Batch(ids, np.ones(shape, np.int64), labels, np.arange(workload.batch))


def _power(path: Path) -> Power:
    data = json.loads(path.read_text())
    pairs = tuple((str(k), cast("str | int | float", v)) for k, v in data["assumptions"])
    return Power(**{**data, "assumptions": pairs})
