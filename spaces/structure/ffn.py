"""Structure: feed-forward neurons removed, the same share in every layer or more at one end.

The count is a multiple of 8. Gated blocks lose the neuron in all three matrices. Which neurons
stay is read from the weights, or from activations or gradients on the calibration split; see
`importance.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from ..configuration import Settings
from ..hyperparameter import Hyperparameter
from ..paper import Paper
from ..profile import REMEMBERED, Layer, Profile
from ..steps import Bench, Phase, Reads, Step
from ..technique import Targets
from .counts import (
    IMPORTANCE,
    SLOPE,
    WHEN,
    Importance,
    as_importance,
    keep_knob,
    kept_of,
    phase_of,
    refusals,
    tapered,
    unanswerable,
)

if TYPE_CHECKING:
    from ..candidate import Candidate

MULTIPLE = 8
"""Widths stay multiples of 8: vector units and int8 kernels work in eights."""


@dataclass(frozen=True)
class PruneNeurons:
    """Removes the neurons whose connected weights are smallest.

    Args:
        keep: share that stays. phase: before or after fine-tuning.
        slope: how much more the first layers keep than the last.
    """

    keep: float
    phase: Phase = Phase.STRUCTURE_AFTER
    slope: float = 0.0
    importance: ClassVar[Importance] = "weights"
    name: ClassVar[str] = "ffn.prune"
    version: ClassVar[int] = 1
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Reads]] = frozenset()

    @property
    def settings(self) -> Settings:
        """The share, and how it changes over the depth."""
        return {"keep": self.keep, "slope": self.slope}

    def on_paper(self, paper: Paper) -> Paper:
        """Every feed-forward block at its new width."""
        shares = tapered(self.keep, self.slope, len(paper.profile.layers))
        layers = tuple(map(_narrowed, paper.profile.layers, shares))
        return replace(paper, profile=replace(paper.profile, layers=layers))

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """The smaller candidate; `notes["ffn"]` holds the kept neurons of each layer."""
        from .surgery import cut_units

        assert candidate is not None  # only the step that loads starts from nothing
        return cut_units(candidate, self.on_paper(candidate.paper), "ffn", self.importance, bench)


@dataclass(frozen=True)
class PruneQuietNeurons(PruneNeurons):
    """Removes the neurons that add least to the block's output on the calibration split."""

    name: ClassVar[str] = "ffn.prune_quiet"
    reads: ClassVar[frozenset[Reads]] = frozenset({"calibration"})
    importance: ClassVar[Importance] = "activations"


@dataclass(frozen=True)
class PruneIdleNeurons(PruneNeurons):
    """Removes the neurons without which the loss on the calibration split would change least."""

    name: ClassVar[str] = "ffn.prune_idle"
    reads: ClassVar[frozenset[Reads]] = frozenset({"calibration"})
    importance: ClassVar[Importance] = "gradients"


BY_IMPORTANCE: Mapping[Importance, type[PruneNeurons]] = {
    step.importance: step for step in (PruneNeurons, PruneQuietNeurons, PruneIdleNeurons)
}
"""The step for each way to judge."""


class Ffn:
    """Feed-forward neurons removed."""

    name: ClassVar[str] = "ffn"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"parameters", "flops", "bytes", "outputs"})
    source: ClassVar[str] = (
        "arXiv 2305.11627 (weights), 2306.11695 (activations), 1906.10771 (gradients)"
    )

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Share kept, before or after fine-tuning, how units are judged, more at which end."""
        return (keep_knob(neurons(paper.profile), MULTIPLE), WHEN, IMPORTANCE, SLOPE)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Nothing to remove, adapters in the way, or gradients that say nothing yet."""
        totals = neurons(paper.profile)
        return [
            *refusals(paper, "feed-forward neurons", totals, float(settings["keep"]), MULTIPLE),
            *unanswerable(paper, settings),
        ]

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """One Change."""
        return (prune_step(settings["keep"], settings),)


def prune_step(keep: object, settings: Settings) -> PruneNeurons:
    """The step for a share and the settings that all kinds of units have."""
    judged = BY_IMPORTANCE[as_importance(settings["importance"])]
    return judged(float(str(keep)), phase_of(settings["when"]), float(settings["slope"]))


def neurons(profile: Profile) -> list[int]:
    """Widths of the feed-forward blocks that are there."""
    return [layer.feed_forward.width for layer in profile.layers if layer.feed_forward]


@lru_cache(maxsize=REMEMBERED)
def _narrowed(layer: Layer, keep: float) -> Layer:
    block = layer.feed_forward
    if block is None:
        return layer
    return replace(layer, feed_forward=replace(block, width=kept_of(block.width, keep, MULTIPLE)))
