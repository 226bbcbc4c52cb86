"""Structure: zeros in the matrices of the blocks, anywhere in a row or two of every four.

Which weights go is judged by `magnitude`, by `wanda` (size times the root mean square of the input,
arXiv 2306.11695) or by `sparsegpt`, which lets the remaining weights make up for them
(arXiv 2301.00774); the latter two read the calibration split. The share holds in every row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, cast

from ..configuration import Choice, Settings
from ..hyperparameter import Hyperparameter, OneOf
from ..paper import Paper
from ..profile import GROUPS
from ..profile import Sparsity as Zeros
from ..steps import Bench, Phase, Reads, Step
from ..technique import Targets
from .counts import WHEN, phase_of, untouchable
from .matrices import PARTS, groups_of

if TYPE_CHECKING:
    from ..candidate import Candidate
    from .zeros import Judge

SHARE = OneOf("share", (0.3, 0.4, 0.5, 0.6, 0.7), 0.5, ordered=True)
"""Zeros of every row. The mask costs an int8 matrix an eighth: fewer zeros save little."""

PATTERN = OneOf("pattern", ("any", "2:4"), "any")
JUDGE = OneOf("importance", ("magnitude", "wanda", "sparsegpt"), "sparsegpt")
_SIZES = {"any": None, "2:4": 4}


@dataclass(frozen=True)
class ZeroSmallest:
    """Sets the smallest weights of every row to zero.

    Args:
        share: of zeros. pattern: `any`, or `2:4`. parts: whose matrices: `attention`, `ffn`,
            `both`. phase: before or after fine-tuning.
    """

    share: float
    pattern: str = "any"
    parts: str = "both"
    phase: Phase = Phase.STRUCTURE_AFTER
    judge: ClassVar[Judge] = "magnitude"
    name: ClassVar[str] = "sparsity.zero_smallest"
    version: ClassVar[int] = 1
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Reads]] = frozenset()

    @property
    def settings(self) -> Settings:
        """The share, its pattern, and whose matrices."""
        return {"share": self.share, "pattern": self.pattern, "parts": self.parts}

    def on_paper(self, paper: Paper) -> Paper:
        """The profile with the sparsity of each group."""
        zeros = Zeros(self.share, _SIZES[self.pattern])
        found = {**dict(paper.profile.sparsity), **dict.fromkeys(groups_of(self.parts), zeros)}
        sparsity = tuple((group, found[group]) for group in GROUPS if group in found)
        return replace(paper, profile=replace(paper.profile, sparsity=sparsity))

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """The sparse candidate, its zeros held by masks."""
        from .zeros import zeroed

        assert candidate is not None  # only the step that loads starts from nothing
        return zeroed(candidate, self.on_paper(candidate.paper), self.judge, bench)


@dataclass(frozen=True)
class ZeroQuietest(ZeroSmallest):
    """Sets the weights of every row to zero that add least to the output."""

    judge: ClassVar[Judge] = "wanda"
    name: ClassVar[str] = "sparsity.zero_quietest"
    reads: ClassVar[frozenset[Reads]] = frozenset({"calibration"})


@dataclass(frozen=True)
class ZeroAndMend(ZeroSmallest):
    """Sets weights to zero and moves the others so that outputs change least."""

    judge: ClassVar[Judge] = "sparsegpt"
    name: ClassVar[str] = "sparsity.zero_and_mend"
    reads: ClassVar[frozenset[Reads]] = frozenset({"calibration"})


_BY_JUDGE = {step.judge: step for step in (ZeroSmallest, ZeroQuietest, ZeroAndMend)}


class Sparsity:
    """Zeros in the matrices of the blocks: fewer bytes on disk, the same work.

    int4 and int3 store zeros like other weights, so that beside them nothing is gained. FLOPs,
    memory and latency do not move: the runtimes here unpack to dense matrices, and 2:4 pays
    only on processors with kernels for it. The zeros last: training is held off them.
    """

    name: ClassVar[str] = "sparsity"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"bytes", "outputs"})
    source: ClassVar[str] = (
        "arXiv 2301.00774 (sparsegpt), 2306.11695 (wanda), 1506.02626 (magnitude)"
    )

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Pattern of the zeros, their share, whose, when, and how weights are judged."""
        return (PATTERN, SHARE, PARTS, WHEN, JUDGE)

    def settled(self, settings: Settings, before: Mapping[str, Choice]) -> Settings:
        """Two zeros of four are a half."""
        return {"share": 0.5} if settings.get("pattern") == "2:4" else {}

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """A share that is no pattern's, or no such matrices; runtimes say what stores the zeros."""
        if found := untouchable(paper):
            return found
        share, parts = float(settings["share"]), settings["parts"]
        if not 0 < share < 1:
            return [f"share {share} is no share; choose one in (0, 1)"]
        if settings["pattern"] == "2:4" and share != 0.5:
            return [f"2:4 is a share of 0.5, not {share}; choose 0.5, or pattern: any"]
        (step,) = self.steps(paper, settings)
        profile = step.on_paper(paper).profile
        if not any(profile.zeros(weight) for weight in profile.weights()):
            return [f"no layer has matrices of {parts} to thin out; choose structure none"]
        return []

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """One Change."""
        judged = _BY_JUDGE[cast("Judge", settings["importance"])]
        pattern, parts = str(settings["pattern"]), str(settings["parts"])
        return (judged(float(settings["share"]), pattern, parts, phase_of(settings["when"])),)
