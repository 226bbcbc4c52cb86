"""Structure: matrices of the blocks as products of two thin ones.

`keep` is the share of a matrix's parameters that stays; the rank follows, a multiple of 8, the same
for all matrices of a part (attention, feed-forward) of a layer. A matrix that the rank would not
make smaller stays whole. `weights` is the plain singular value decomposition, `activations` the
rank's best for the outputs on the calibration split; see `factors.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from ..configuration import Settings
from ..hyperparameter import Hyperparameter, OneOf
from ..paper import Paper
from ..profile import REMEMBERED, Layer, Profile
from ..steps import Bench, Phase, Reads, Step
from ..technique import Targets
from .counts import (
    SLOPE,
    WHEN,
    keep_knob,
    kept_of,
    phase_of,
    tapered,
    uncuttable,
)
from .matrices import PARTS

if TYPE_CHECKING:
    from ..candidate import Candidate

MULTIPLE = 8
"""Ranks are multiples of 8 where that many are worth it, as widths are."""

JUDGED = OneOf("importance", ("weights", "activations"), "activations")


@dataclass(frozen=True)
class Factorise:
    """Puts two thin matrices in the place of one, nearest to it in the sum of squares.

    Args:
        keep: share of the parameters that stays. parts: whose matrices: `attention`, `ffn`, `both`.
        phase: before or after fine-tuning. slope: how much more the first layers keep.
    """

    keep: float
    parts: str = "both"
    phase: Phase = Phase.STRUCTURE_AFTER
    slope: float = 0.0
    name: ClassVar[str] = "low_rank.factorise"
    version: ClassVar[int] = 1
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Reads]] = frozenset()

    @property
    def settings(self) -> Settings:
        """The share, whose matrices, and how the share changes over the depth."""
        return {"keep": self.keep, "parts": self.parts, "slope": self.slope}

    def on_paper(self, paper: Paper) -> Paper:
        """Every layer with its ranks."""
        profile = paper.profile
        shares = tapered(self.keep, self.slope, len(profile.layers))
        layers = tuple(
            _thin(layer, profile.width, share, self.parts)
            for layer, share in zip(profile.layers, shares, strict=True)
        )
        return replace(paper, profile=replace(profile, layers=layers))

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """The candidate with thin matrices."""
        from .factors import factorised

        assert candidate is not None  # only the step that loads starts from nothing
        judge = bench if "calibration" in self.reads else None
        return factorised(candidate, self.on_paper(candidate.paper), judge)


@dataclass(frozen=True)
class FactoriseOutputs(Factorise):
    """Puts two thin matrices in the place of one, nearest in output on the calibration split."""

    name: ClassVar[str] = "low_rank.factorise_outputs"
    reads: ClassVar[frozenset[Reads]] = frozenset({"calibration"})


class LowRank:
    """Matrices of the blocks as products of two thin ones.

    Parameters and FLOPs fall alike; answers come faster only where the thin matrices are still
    large enough to keep a processor busy. transformers' plain classes cannot hold them.
    """

    name: ClassVar[str] = "low_rank"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"parameters", "flops", "bytes", "outputs"})
    source: ClassVar[str] = "Eckart and Young 1936 (weights), arXiv 2403.07378 (outputs)"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Share of parameters kept, whose, when, judged by weights or by outputs, at which end."""
        return (keep_knob(_largest(paper.profile), MULTIPLE), PARTS, WHEN, JUDGED, SLOPE)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """No matrix would become smaller, or adapters in the way."""
        if found := uncuttable(paper):
            return found
        if not 0 < float(settings["keep"]) < 1:
            return [f"keep {settings['keep']} is no share that saves; choose one in (0, 1)"]
        (step,) = self.steps(paper, settings)
        after = step.on_paper(paper).profile
        whole = {weight.name for weight in paper.profile.weights()}
        if all(weight.name in whole for weight in after.weights()):
            return [
                f"no rank makes the matrices of {settings['parts']} smaller; choose structure none"
            ]
        return []

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """One Change."""
        judged = FactoriseOutputs if settings["importance"] == "activations" else Factorise
        keep, slope = float(settings["keep"]), float(settings["slope"])
        return (judged(keep, str(settings["parts"]), phase_of(settings["when"]), slope),)


def rank_of(inputs: int, outputs: int, keep: float) -> int:
    """The rank at which two factors hold that share of a matrix's parameters, at least 1.

    >>> rank_of(384, 384, 0.5), rank_of(384, 1536, 0.5), rank_of(32, 32, 1.0)
    (96, 152, 15)
    """
    return kept_of(largest_rank(inputs, outputs), keep, MULTIPLE)


def largest_rank(inputs: int, outputs: int) -> int:
    """The largest rank at which two factors are smaller than the matrix.

    >>> largest_rank(16, 16)
    7
    """
    return (inputs * outputs - 1) // (inputs + outputs)


def _largest(profile: Profile) -> list[int]:
    found = []
    for layer in profile.layers:
        if layer.attention is not None:
            inner = layer.attention.heads * layer.attention.head_width
            found.append(largest_rank(profile.width, inner))
        if layer.feed_forward is not None:
            found.append(largest_rank(profile.width, layer.feed_forward.width))
    return found


@lru_cache(maxsize=REMEMBERED)
def _thin(layer: Layer, width: int, keep: float, parts: str) -> Layer:
    attention, block = layer.attention, layer.feed_forward
    if attention is not None and parts in ("attention", "both"):
        # One rank for all: with grouped queries, keys and values are too small for some.
        rank = rank_of(width, attention.heads * attention.head_width, keep)
        attention = replace(attention, rank=rank)
    if block is not None and parts in ("ffn", "both"):
        block = replace(block, rank=rank_of(width, block.width, keep))
    return Layer(attention, block)
