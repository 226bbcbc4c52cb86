"""int8_static: int8 whose activations are rounded in ranges that were fixed beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

from ...errors import StepFailed
from ..configuration import Settings
from ..hyperparameter import Hyperparameter, OneOf
from ..paper import Paper
from ..steps import Bench, Step
from ..technique import Targets
from .declare import Calibrated, Declare, embeddings_knob, head_knob, matrices_and_tables

if TYPE_CHECKING:
    from ..candidate import Candidate

PERCENTILE: Final = OneOf("percentile", (99.9, 99.99, 100.0), 100.0, ordered=True)
"""Percent of the numbers that enter a matrix that lie within its range; 100: from the smallest to
the largest."""


@dataclass(frozen=True)
class FixRanges(Calibrated):
    """Fixes the range of what enters every matrix that was declared int8_static.

    Args:
        percentile: see `PERCENTILE`; half of the rest is cut off at either end.
    """

    percentile: float
    name: ClassVar[str] = "int8_static.ranges"

    @property
    def settings(self) -> Settings:
        """The percentile."""
        return {"percentile": self.percentile}

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """The same weights, with the ranges in `grids`.

        Raises:
            DataError: the calibration split is empty.
            StepFailed: kind `diverged`, what enters a matrix is not finite.
        """
        from ..runtimes.entering import as_ranges
        from ..runtimes.payload import stored_format
        from .ranges import entering_ranges

        assert candidate is not None  # only the step that loads starts from nothing
        profile = candidate.paper.profile
        weights = [
            weight
            for weight in profile.weights()
            if weight.role == "matrix" and stored_format(profile, weight).name == "int8_static"
        ]
        grids = dict(candidate.grids)
        found = entering_ranges(candidate, bench, weights, self.percentile / 100)
        for name, (low, high) in found.items():
            if not math.isfinite(high - low):
                raise StepFailed(
                    "diverged",
                    f"what enters {name} is not finite everywhere; choose a lower learning rate, "
                    "or a precision that reads no data",
                )
            grids |= as_ranges(name, low, high)
        return replace(candidate, grids=grids, train_state=None)


class Int8Static:
    """int8 with one range for what enters each matrix, fixed on the calibration split.

    Bytes are int8's. ONNX Runtime alone computes so; int8 there finds the range anew for every
    batch, and eager for every token. An answer does not depend on what else is in its batch; what
    lies beyond a range is cut off. No gain in speed is promised: see the log.
    """

    name: ClassVar[str] = "int8_static"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"bytes", "outputs"})
    source: ClassVar[str] = (
        "arXiv 1712.05877 (ranges fixed beforehand); percentiles as in 2004.09602"
    )

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Formats of the embedding tables and of the head; how much lies within a range."""
        return (embeddings_knob("int8"), *head_knob(paper, "int8_static"), PERCENTILE)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """None here: the runtime says what it cannot hold."""
        return []

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Declare, fix ranges."""
        formats = matrices_and_tables("int8_static", settings)
        return (Declare(tuple(formats.items())), FixRanges(float(settings["percentile"])))
