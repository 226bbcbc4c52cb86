"""Structure: attention heads removed, the same share in every layer.

With grouped queries a whole group goes: a key-value head and the query heads that read it. Which
groups stay is read from the weights or from activations on the calibration split; see
`importance.py`.
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


@dataclass(frozen=True)
class PruneHeads:
    """Removes the groups of heads whose connected weights are smallest.

    Args:
        keep: share that stays. phase: before or after fine-tuning.
    """

    keep: float
    phase: Phase = Phase.STRUCTURE_AFTER
    name: ClassVar[str] = "heads.prune"
    version: ClassVar[int] = 1
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Reads]] = frozenset()

    @property
    def settings(self) -> Settings:
        """The share."""
        return {"keep": self.keep}

    def on_paper(self, paper: Paper) -> Paper:
        """Every attention with its new number of heads; the width of a head stays."""
        layers = tuple(_thinned(layer, self.keep) for layer in paper.profile.layers)
        return replace(paper, profile=replace(paper.profile, layers=layers))

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """The smaller candidate; `notes["heads"]` holds the kept groups of each layer."""
        from .surgery import cut_units

        assert candidate is not None  # only the step that loads starts from nothing
        judge = bench if "calibration" in self.reads else None
        return cut_units(candidate, self.on_paper(candidate.paper), "heads", judge)


@dataclass(frozen=True)
class PruneQuietHeads(PruneHeads):
    """Removes the groups that add least to the block's output on the calibration split."""

    name: ClassVar[str] = "heads.prune_quiet"
    reads: ClassVar[frozenset[Reads]] = frozenset({"calibration"})


class Heads:
    """Attention heads removed."""

    name: ClassVar[str] = "heads"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"parameters", "flops", "bytes", "outputs"})
    source: ClassVar[str] = "arXiv 1905.10650, 2305.11627 (groups)"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Share kept, before or after fine-tuning, judged by weights or by activations."""
        return (keep_knob(groups(paper.profile)), WHEN, IMPORTANCE)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Nothing to remove, adapters in the way, or a target that cannot hold the result."""
        totals = groups(paper.profile)
        return [
            *refusals(paper, "groups of heads", totals, float(settings["keep"])),
            *plain_class_refusals(paper, float(settings["keep"]), targets),
        ]

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """One Change."""
        judged = PruneQuietHeads if settings["importance"] == "activations" else PruneHeads
        return (judged(float(settings["keep"]), phase_of(settings["when"])),)


def groups(profile: Profile) -> list[int]:
    """Key-value heads per attention that is there: what can be removed on its own."""
    return [layer.attention.kv_heads for layer in profile.layers if layer.attention]


def plain_class_refusals(paper: Paper, keep: float, targets: Targets) -> list[str]:
    """Why a plain transformers class could not hold that share of the heads."""
    from ..families import FAMILIES, plain_objection

    if "hf" not in targets.formats or paper.profile.family not in FAMILIES:
        return []
    reason = plain_objection(PruneHeads(keep).on_paper(paper).profile)
    if reason is None:
        return []
    return [
        f"transformers' plain {paper.profile.family} class cannot hold the result ({reason}); "
        "choose ffn or layers, or remove hf from deploy"
    ]


def _thinned(layer: Layer, keep: float) -> Layer:
    attention = layer.attention
    if attention is None:
        return layer
    stay = kept_of(attention.kv_heads, keep)
    heads = stay * (attention.heads // attention.kv_heads)
    return replace(layer, attention=replace(attention, heads=heads, kv_heads=stay))
