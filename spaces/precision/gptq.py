"""gptq: integers of 3 or 4 bits, each chosen so that later ones make up for its error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..configuration import Settings
from ..hyperparameter import Hyperparameter, OneOf
from ..paper import Paper
from ..steps import Bench, Step
from ..technique import Targets
from .declare import Calibrated, few_bits, few_bits_knobs

if TYPE_CHECKING:
    from ..candidate import Candidate
    from ..profile import Weight
    from .fed import Fed


@dataclass(frozen=True)
class RoundByColumns(Calibrated):
    """Rounds every matrix for the error of its outputs, block by block.

    Args:
        ordered: columns with the largest inputs first.
    """

    ordered: bool
    name: ClassVar[str] = "gptq.round"

    @property
    def settings(self) -> Settings:
        """Whether columns are put in order."""
        return {"ordered": self.ordered}

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """The candidate on the numbers that will be stored.

        Raises:
            DataError: the calibration split is empty.
        """
        from ..runtimes.grid import extremes
        from .columns import by_columns
        from .fed import by_block
        from .rounding import Rounding

        assert candidate is not None  # only the step that loads starts from nothing
        rounding = Rounding(candidate)
        rounding.round_tables()

        def visit(weights: Sequence[Weight], fed: Mapping[str, Fed]) -> None:
            for weight in weights:
                rows = rounding.rows(weight)
                grid = extremes(rows, rounding.form(weight))
                gram = fed[weight.name].gram
                rounding.put(weight, grid, by_columns(rows, gram, grid, ordered=self.ordered))

        by_block(rounding.candidate, bench, visit)
        return rounding.candidate


class Gptq:
    """int4 or int3 whose integers keep the outputs of each matrix (GPTQ), on the calibration split.

    Bytes and speed are those of round to nearest: what it brings is accuracy. Tables are rounded to
    the nearest, and activations are not looked at: where a runtime rounds them, it does so on top.
    """

    name: ClassVar[str] = "gptq"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"bytes", "outputs"})
    source: ClassVar[str] = "arXiv 2210.17323"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Storage; columns as they stand, or those with the largest inputs first (act-order)."""
        return (*few_bits_knobs(paper), OneOf("order", ("given", "activations"), "activations"))

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """None here: the runtime says what it cannot hold."""
        return []

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Declare, round."""
        return (few_bits(settings), RoundByColumns(settings["order"] == "activations"))
