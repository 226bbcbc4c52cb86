"""Structure: attention heads removed, the same share in every layer or more at one end.

With grouped queries a whole group goes: a key-value head and the query heads that read it. Which
groups stay is read from the weights, or from activations or gradients on the calibration split; see
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


@dataclass(frozen=True)
class PruneHeads:
    """Removes the groups of heads whose connected weights are smallest.

    Args:
        keep: share that stays. phase: before or after fine-tuning.
        slope: how much more the first layers keep than the last.
    """

    keep: float
    phase: Phase = Phase.STRUCTURE_AFTER
    slope: float = 0.0
    importance: ClassVar[Importance] = "weights"
    name: ClassVar[str] = "heads.prune"
    version: ClassVar[int] = 1
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Reads]] = frozenset()

    @property
    def settings(self) -> Settings:
        """The share, and how it changes over the depth."""
        return {"keep": self.keep, "slope": self.slope}

    def on_paper(self, paper: Paper) -> Paper:
        """Every attention with its new number of heads; the width of a head stays."""
        shares = tapered(self.keep, self.slope, len(paper.profile.layers))
        layers = tuple(map(_thinned, paper.profile.layers, shares))
        return replace(paper, profile=replace(paper.profile, layers=layers))

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """The smaller candidate; `notes["heads"]` holds the kept groups of each layer."""
        from .surgery import cut_units

        assert candidate is not None  # only the step that loads starts from nothing
        return cut_units(candidate, self.on_paper(candidate.paper), "heads", self.importance, bench)


@dataclass(frozen=True)
class PruneQuietHeads(PruneHeads):
    """Removes the groups that add least to the block's output on the calibration split."""

    name: ClassVar[str] = "heads.prune_quiet"
    reads: ClassVar[frozenset[Reads]] = frozenset({"calibration"})
    importance: ClassVar[Importance] = "activations"


@dataclass(frozen=True)
class PruneIdleHeads(PruneHeads):
    """Removes the groups without which the loss on the calibration split would change least."""

    name: ClassVar[str] = "heads.prune_idle"
    reads: ClassVar[frozenset[Reads]] = frozenset({"calibration"})
    importance: ClassVar[Importance] = "gradients"


BY_IMPORTANCE: Mapping[Importance, type[PruneHeads]] = {
    step.importance: step for step in (PruneHeads, PruneQuietHeads, PruneIdleHeads)
}
"""The step for each way to judge."""


class Heads:
    """Attention heads removed."""

    name: ClassVar[str] = "heads"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"parameters", "flops", "bytes", "outputs"})
    source: ClassVar[str] = (
        "arXiv 1905.10650 (gradients), 2305.11627 (groups), 2306.11695 (activations)"
    )

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Share kept, before or after fine-tuning, how units are judged, more at which end."""
        return (keep_knob(groups(paper.profile)), WHEN, IMPORTANCE, SLOPE)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Nothing to remove, adapters in the way, or gradients that say nothing yet."""
        totals = groups(paper.profile)
        return [
            *refusals(paper, "groups of heads", totals, float(settings["keep"])),
            *unanswerable(paper, settings),
        ]

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """One Change."""
        return (prune_step(settings["keep"], settings),)


def prune_step(keep: object, settings: Settings) -> PruneHeads:
    """The step for a share and the settings that all kinds of units have."""
    judged = BY_IMPORTANCE[as_importance(settings["importance"])]
    return judged(float(str(keep)), phase_of(settings["when"]), float(settings["slope"]))


def groups(profile: Profile) -> list[int]:
    """Key-value heads per attention that is there: what can be removed on its own."""
    return [layer.attention.kv_heads for layer in profile.layers if layer.attention]


@lru_cache(maxsize=REMEMBERED)
def _thinned(layer: Layer, keep: float) -> Layer:
    attention = layer.attention
    if attention is None:
        return layer
    stay = kept_of(attention.kv_heads, keep)
    heads = stay * (attention.heads // attention.kv_heads)
    return replace(layer, attention=replace(attention, heads=heads, kv_heads=stay))
