"""Structure: feed-forward neurons removed, the same share in every layer.

The count is a multiple of 8. Gated blocks lose the neuron in all three matrices. Which neurons
stay is read from the weights or from activations on the calibration split; see `importance.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ..configuration import Settings
from ..hyperparameter import Hyperparameter
from ..paper import Paper
from ..profile import Layer, Profile
from ..steps import Bench, Phase, Reads, Step
from ..technique import Targets
from .counts import IMPORTANCE, WHEN, keep_knob, kept_of, phase_of, refusals

if TYPE_CHECKING:
    from ..candidate import Candidate

MULTIPLE = 8
"""Widths stay multiples of 8: vector units and int8 kernels work in eights."""


@dataclass(frozen=True)
class PruneNeurons:
    """Removes the neurons whose connected weights are smallest.

    Args:
        keep: share that stays. phase: before or after fine-tuning.
    """

    keep: float
    phase: Phase = Phase.STRUCTURE_AFTER
    name: ClassVar[str] = "ffn.prune"
    version: ClassVar[int] = 1
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Reads]] = frozenset()

    @property
    def settings(self) -> Settings:
        """The share."""
        return {"keep": self.keep}

    def on_paper(self, paper: Paper) -> Paper:
        """Every feed-forward block at its new width."""
        layers = tuple(_narrowed(layer, self.keep) for layer in paper.profile.layers)
        return replace(paper, profile=replace(paper.profile, layers=layers))

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """The smaller candidate; `notes["ffn"]` holds the kept neurons of each layer."""
        from .surgery import cut_units

        assert candidate is not None  # only the step that loads starts from nothing
        judge = bench if "calibration" in self.reads else None
        return cut_units(candidate, self.on_paper(candidate.paper), "ffn", judge)


@dataclass(frozen=True)
class PruneQuietNeurons(PruneNeurons):
    """Removes the neurons that add least to the block's output on the calibration split."""

    name: ClassVar[str] = "ffn.prune_quiet"
    reads: ClassVar[frozenset[Reads]] = frozenset({"calibration"})


class Ffn:
    """Feed-forward neurons removed."""

    name: ClassVar[str] = "ffn"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"parameters", "flops", "bytes", "outputs"})
    source: ClassVar[str] = "arXiv 2305.11627 (structured pruning), 2301.00774 (output size)"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Share kept, before or after fine-tuning, judged by weights or by activations."""
        return (keep_knob(neurons(paper.profile), MULTIPLE), WHEN, IMPORTANCE)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Nothing to remove, or adapters in the way."""
        totals = neurons(paper.profile)
        return refusals(paper, "feed-forward neurons", totals, float(settings["keep"]), MULTIPLE)

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """One Change."""
        judged = PruneQuietNeurons if settings["importance"] == "activations" else PruneNeurons
        return (judged(float(settings["keep"]), phase_of(settings["when"])),)


def neurons(profile: Profile) -> list[int]:
    """Widths of the feed-forward blocks that are there."""
    return [layer.feed_forward.width for layer in profile.layers if layer.feed_forward]


def _narrowed(layer: Layer, keep: float) -> Layer:
    block = layer.feed_forward
    if block is None:
        return layer
    return replace(layer, feed_forward=replace(block, width=kept_of(block.width, keep, MULTIPLE)))
