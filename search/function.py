"""A user's own judge in place of making models: any function of configuration and seed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ..errors import StepFailed
from ..evaluators.measurement import Measurement
from ..spaces.configuration import Configuration
from .events import Report
from .records import Ask, Record, Rung
from .study import Study


@dataclass(frozen=True)
class FunctionWork:
    """The work of a study that is judged by a function.

    Args:
        evaluate: configuration and seed to figures by metric name; all objectives must be there.
        study: whose objectives and rungs count.
    """

    evaluate: Callable[[Configuration, int], Mapping[str, float]]
    study: Study

    def __call__(self, ask: Ask, prior: Record | None, report: Report) -> Record:
        """Calls the function once; the figures count for every fidelity.

        Raises:
            StepFailed: an objective is missing, or a figure is not finite.
        """
        started = time.time()
        figures = self.evaluate(ask.configuration, ask.seed)
        units = self.study.units()
        missing = [name for name in self.study.objectives if name not in figures]
        if missing:
            raise StepFailed(
                "illegal", f"evaluate returned no {missing[0]!r}, only {', '.join(figures)}"
            )
        odd = [name for name, value in figures.items() if not math.isfinite(value)]
        if odd:
            raise StepFailed("diverged", f"evaluate returned {figures[odd[0]]} as {odd[0]!r}")
        taken = {
            n: Measurement(float(v), units.get(n, "dimensionless"), "measured")
            for n, v in figures.items()
        }
        rung = Rung(len(self.study.fidelity.rungs) - 1, taken, time.time() - started)
        blank = Record(ask.number, ask.configuration, "running", ask.seed, started=started)
        record = prior or blank
        now = time.time()
        return replace(
            record,
            state="final",
            rungs=(*record.rungs, rung),
            finished=now,
            seconds=record.seconds + now - started,
        )
