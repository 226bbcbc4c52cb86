"""awq: channels scaled by what they are fed before they are rounded."""

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
from .folds import fold_objections

if TYPE_CHECKING:
    from ..candidate import Candidate
    from ..profile import Weight
    from .fed import Fed


@dataclass(frozen=True)
class ScaleAndRound(Calibrated):
    """Scales channels where an exact fold exists, cuts extremes, rounds; block by block.

    Args:
        by_columns: rounds as gptq does instead of to the nearest.
    """

    by_columns: bool
    name: ClassVar[str] = "awq.round"

    @property
    def settings(self) -> Settings:
        """How it rounds."""
        return {"by_columns": self.by_columns}

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """The candidate on the numbers that will be stored.

        Raises:
            DataError: the calibration split is empty.
        """
        from .columns import by_columns
        from .fed import by_block
        from .rounding import Rounding
        from .scaling import awq_numbers, clipped

        assert candidate is not None  # only the step that loads starts from nothing
        rounding = Rounding(candidate)
        rounding.round_tables()

        def visit(weights: Sequence[Weight], fed: Mapping[str, Fed]) -> None:
            scaled = rounding.fold(weights, fed, awq_numbers)
            for weight in weights:
                rows, gram = rounding.rows(weight), scaled[weight.name].gram
                grid = clipped(rows, gram, rounding.form(weight))
                if self.by_columns:
                    integers = by_columns(rows, gram, grid, ordered=True)
                else:
                    integers = grid.nearest(rows)
                rounding.put(weight, grid, integers)

        by_block(rounding.candidate, bench, visit)
        return rounding.candidate


class Awq:
    """int4 or int3 after scaling the channels that are fed most, extremes cut where it helps (AWQ).

    Bytes and speed are those of round to nearest. Channels are scaled only where a fold into what
    makes them is exact: everywhere but gpt2's second feed-forward matrix in decoders; in BERT and
    its kin, between value and output alone, so that there it is mostly the cut of extremes.
    """

    name: ClassVar[str] = "awq"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"bytes", "outputs"})
    source: ClassVar[str] = "arXiv 2306.00978"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Storage; whether integers are the nearest, or chosen as gptq does."""
        return (*few_bits_knobs(paper), OneOf("rounding", ("nearest", "gptq"), "nearest"))

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Adapters that were not merged."""
        return fold_objections(paper)

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Declare, scale and round."""
        return (few_bits(settings), ScaleAndRound(settings["rounding"] == "gptq"))
