"""smoothquant: int8 with the outliers of activations moved into the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from ..configuration import Settings
from ..hyperparameter import Hyperparameter, OneOf
from ..paper import Paper
from ..steps import Bench, Step
from ..technique import Targets
from .declare import Calibrated, Declare, embeddings_knob, head_knob, matrices_and_tables
from .folds import fold_objections, has_folds

if TYPE_CHECKING:
    from ..candidate import Candidate
    from ..profile import Weight
    from .fed import Fed


@dataclass(frozen=True)
class Smooth(Calibrated):
    """Moves sizes from activations into weights at every exact fold; the answers stay.

    Args:
        strength: share that moves, in (0, 1).
    """

    strength: float
    name: ClassVar[str] = "smoothquant.smooth"

    @property
    def settings(self) -> Settings:
        """The share."""
        return {"strength": self.strength}

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """The candidate with other weights and the same answers; the runtime rounds it.

        Raises:
            DataError: the calibration split is empty.
        """
        from .fed import by_block
        from .rounding import Rounding
        from .scaling import smooth_numbers

        assert candidate is not None  # only the step that loads starts from nothing
        rounding = Rounding(candidate)
        numbers = partial(smooth_numbers, strength=self.strength)

        def visit(weights: Sequence[Weight], fed: Mapping[str, Fed]) -> None:
            rounding.fold(weights, fed, numbers)

        by_block(rounding.candidate, bench, visit)
        return rounding.candidate


class SmoothQuant:
    """int8 with outliers of the activations moved into the weights beforehand (SmoothQuant).

    Bytes and speed are those of int8; activations are still rounded as they come, not with ranges
    fixed beforehand. It helps where all tokens share a scale, as in ONNX Runtime; eager rounds each
    token by itself and gains nothing. Only exact folds are used: in BERT and its kin that is
    between value and output alone, where there is little to gain.
    """

    name: ClassVar[str] = "smoothquant"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"bytes", "outputs"})
    source: ClassVar[str] = "arXiv 2211.10438"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Formats of the embedding tables and of the head; the share that moves."""
        strength = OneOf("strength", (0.25, 0.5, 0.75), 0.5, ordered=True)
        return (embeddings_knob("int8"), *head_knob(paper, "int8"), strength)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Adapters that were not merged, or no place to smooth."""
        if not has_folds(paper.profile):
            return ["no layer has a place where sizes can move exactly; choose int8"]
        return fold_objections(paper)

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Declare, smooth."""
        formats = matrices_and_tables("int8", settings)
        return (Declare(tuple(formats.items())), Smooth(float(settings["strength"])))
