"""Structure: fewer hidden channels, the same ones everywhere.

Every tensor that reads from or writes to the hidden states is cut: embedding tables, both sides of
the blocks, norms, the head. Heads and feed-forward blocks keep their sizes. Which channels stay is
read from the weights, or from what the norms hand on on the calibration split (arXiv 2407.14679,
section 2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ..configuration import Settings
from ..hyperparameter import Hyperparameter, OneOf
from ..paper import Paper
from ..steps import Bench, Phase, Reads, Step
from ..technique import Targets
from .counts import WHEN, keep_knob, kept_of, phase_of, refusals

if TYPE_CHECKING:
    from ..candidate import Candidate

MULTIPLE = 8
"""As for the widths of feed-forward blocks."""

JUDGED = OneOf("importance", ("weights", "activations"), "activations")


@dataclass(frozen=True)
class PruneChannels:
    """Removes the hidden channels that hold the smallest share of all that touches them.

    Args:
        keep: share that stays. phase: before or after fine-tuning.
    """

    keep: float
    phase: Phase = Phase.STRUCTURE_AFTER
    name: ClassVar[str] = "width.prune"
    version: ClassVar[int] = 1
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Reads]] = frozenset()

    @property
    def settings(self) -> Settings:
        """The share."""
        return {"keep": self.keep}

    def on_paper(self, paper: Paper) -> Paper:
        """The narrower model."""
        width = kept_of(paper.profile.width, self.keep, MULTIPLE)
        return replace(paper, profile=replace(paper.profile, width=width))

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """The narrower candidate; `notes["width"]` holds the kept channels."""
        from .surgery import cut_channels

        assert candidate is not None  # only the step that loads starts from nothing
        judge = bench if "calibration" in self.reads else None
        return cut_channels(candidate, self.on_paper(candidate.paper), judge)


@dataclass(frozen=True)
class PruneQuietChannels(PruneChannels):
    """Removes the hidden channels that are smallest after the norms on the calibration split."""

    name: ClassVar[str] = "width.prune_quiet"
    reads: ClassVar[frozenset[Reads]] = frozenset({"calibration"})


class Width:
    """Hidden channels removed, the same ones everywhere: the embedding tables shrink too.

    Costs more quality than cuts inside the blocks do, and wants a recovery: norms are taken over
    the channels that are left.
    """

    name: ClassVar[str] = "width"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"parameters", "flops", "bytes", "outputs"})
    source: ClassVar[str] = "arXiv 2407.14679"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Share kept, before or after fine-tuning, judged by weights or by activations."""
        return (keep_knob([paper.profile.width], MULTIPLE), WHEN, JUDGED)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Nothing to remove, or adapters in the way."""
        keep, total = float(settings["keep"]), [paper.profile.width]
        return refusals(paper, "hidden channels", total, keep, MULTIPLE)

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """One Change."""
        judged = PruneQuietChannels if settings["importance"] == "activations" else PruneChannels
        return (judged(float(settings["keep"]), phase_of(settings["when"])),)
