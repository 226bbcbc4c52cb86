"""Metric: a row of the catalogue; Evidence: what its figure is computed from.

A metric is a pure function of evidence. Gathering evidence (timing, asking the model, reading a
meter) is somebody else's work: `latency.py`, `predictions.py`, `energy/meters.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..spaces.paper import Paper, Workload
from .measurement import Measurement

if TYPE_CHECKING:
    import numpy as np

Need = Literal["paper", "built", "trained"]
Resource = Literal["quality", "computation", "memory", "energy", "money", "communication"]
Piece = Literal["files", "timings", "power", "peak", "predictions", "stages"]


@dataclass(frozen=True)
class Timings:
    """One timing session of a deployed model, alone on the host.

    Args:
        seconds: one per repeat, after warm-up; a repeat answers `workload.batch` texts.
        prefill_seconds, decode_seconds: per repeat, for models that generate; else empty.
        warmup: repeats thrown away before.
        device: the name of what answered, the processor's or a GPU's.
        cpu_share: CPU seconds of this process per second of the session. Below 1, with one busy
            thread, something else had the processor: the figures are not the model's alone. None
            on a GPU, for which the process waits.
        probe_seconds: what `compute/probe.py` took beside the session; None on a GPU.
    """

    seconds: tuple[float, ...]
    warmup: int
    device: str
    prefill_seconds: tuple[float, ...] = ()
    decode_seconds: tuple[float, ...] = ()
    cpu_share: float | None = None
    probe_seconds: float | None = None


@dataclass(frozen=True)
class Power:
    """Energy of one timing session.

    Args:
        joules_per_repeat: above idle; None where no meter and no model could tell; then `reason`.
        source: `measured` by `meter`, or `modelled`.
        meter: what was read (`nvml`, `rapl`, `utilisation model`).
        n: blocks of repeats that the meter was read over; `stderr` is over them.
        idle_watts: draw of what the meter sees when nothing runs; it was subtracted.
        assumptions: what a model took for granted, as sorted pairs.
    """

    joules_per_repeat: float | None
    source: Literal["measured", "modelled"] | None
    meter: str
    stderr: float | None = None
    reason: str | None = None
    n: int | None = None
    idle_watts: float | None = None
    assumptions: tuple[tuple[str, str | int | float], ...] = ()


@dataclass(frozen=True)
class Peak:
    """Highest memory of a fresh process that opened the artifact and answered once.

    Args:
        bytes: highest resident memory, None where it was not taken; then `reason`.
        baseline_bytes: the same process before the artifact was opened.
        gpu_bytes: highest memory that its tensors took of the GPU; None: nobody says, or there is
            none.
    """

    bytes: int | None
    baseline_bytes: int | None = None
    reason: str | None = None
    gpu_bytes: int | None = None


@dataclass(frozen=True)
class Predictions:
    """What a deployed model answered, item by item.

    Args:
        items: `(n,)` numbers of the items in their split.
        labels: `(n,)` right answers (classification).
        logits: `(n, classes)` (classification), None for language modelling.
        nll: `(n,)` negative log-likelihood summed over each item's judged tokens, nats (language
            modelling).
        tokens: `(n,)` judged tokens. text_bytes: `(n,)` their UTF-8 bytes.
    """

    items: np.ndarray
    labels: np.ndarray | None = None
    logits: np.ndarray | None = None
    nll: np.ndarray | None = None
    tokens: np.ndarray | None = None
    text_bytes: np.ndarray | None = None


@dataclass(frozen=True)
class StageCost:
    """What one stage of a candidate cost when it was made.

    Args:
        key: its name. step: the step's name. trains: gradients flowed in it.
        seconds: wall time of making it. cached: this trial found it made.
        training: a name for the training that this stage is part of, the same at every rung and
            for every candidate that shares it; None for steps that are not a long training.
    """

    key: str
    step: str
    seconds: float
    trains: bool
    cached: bool
    training: str | None = None


@dataclass(frozen=True)
class Evidence:
    """All that may be known about a candidate; None: not gathered (yet).

    Args:
        paper: as deployed.
        files: bytes of every file that the runner needs, by path in the artifact.
        teacher_papers: the same for the trainings of teachers.
        training_papers: the paper in front of each Train step, in order; None: only `paper`'s own
            recipe is known.
        settings: what the study says about the surroundings, else defaults: `region` (a row of the
            grid table), `pue`, `usd_per_hour` (of the whole instance), `device` (the processor's
            name or a row of the device table), `item_tokens` (tokens per training item).
    """

    paper: Paper
    workload: Workload
    files: Mapping[str, int] | None = None
    timings: Timings | None = None
    power: Power | None = None
    peak: Peak | None = None
    predictions: Predictions | None = None
    stages: tuple[StageCost, ...] | None = None
    settings: Mapping[str, Any] | None = None
    training_papers: tuple[Paper, ...] | None = None
    teacher_papers: tuple[Paper, ...] = ()

    def setting(self, name: str, default: Any = None) -> Any:
        """A setting, or its default where the study says nothing."""
        return (self.settings or {}).get(name, default)

    def conditions(self, *names: str, **facts: str | int | float) -> tuple[tuple[str, Any], ...]:
        """Conditions of a figure: workload fields by name, `runtime`, `device`, further facts."""
        known = {
            **vars(self.workload),
            "runtime": self.paper.runtime,
            "device": self.timings.device if self.timings else self.workload.device,
        }
        chosen = {name: known[name] for name in names if known[name] is not None}
        return tuple(sorted({**chosen, **facts}.items()))


@dataclass(frozen=True)
class Metric:
    """One row of the catalogue.

    Args:
        name: as the study file writes it.
        unit: of the value, as pint reads it (`fraction`, `byte`, `second`, `FLOP`, ...).
        direction: which way is better.
        resource: which of the five resources, or quality.
        needs: `paper` (structure alone), `built` (deployed, any weights), `trained`.
        pieces: the evidence that `evaluate` reads.
        definition: one sentence, with the convention. source: where it is defined.
        evaluate: evidence to figure; pure. Missing evidence gives a missing figure.
        per_item: values `(n,)` whose mean is the figure, for paired comparisons; None where there
            are none.
        follows: the metric of which this one, unless it is measured, is a fixed multiple within a
            study, whatever is tried; None: it says something of its own.
    """

    name: str
    unit: str
    direction: Literal["minimize", "maximize"]
    resource: Resource
    needs: Need
    pieces: frozenset[Piece]
    definition: str
    source: str
    evaluate: Callable[[Evidence], Measurement]
    per_item: Callable[[Predictions], np.ndarray] | None = None
    follows: str | None = None
