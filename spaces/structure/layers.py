"""Structure: whole blocks removed.

`last` keeps the first blocks, `spread` keeps blocks at even distances (arXiv 1910.01108 starts its
student so), `similarity` removes the blocks that change the hidden states least on the calibration
split (block influence, arXiv 2403.03853 eq 1), `gradients` those without which the loss on it would
change least, to first order.
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
from .counts import WHEN, keep_knob, kept_of, phase_of, refusals, unanswerable

if TYPE_CHECKING:
    from ..candidate import Candidate

CHOICE = OneOf("importance", ("last", "spread", "similarity", "gradients"), "spread")


@dataclass(frozen=True)
class DropLayers:
    """Removes blocks by their place alone.

    Args:
        keep: share that stays. place: `last` or `spread`. phase: before or after fine-tuning.
    """

    keep: float
    place: str = "spread"
    phase: Phase = Phase.STRUCTURE_AFTER
    name: ClassVar[str] = "layers.drop"
    version: ClassVar[int] = 1
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Reads]] = frozenset()

    @property
    def settings(self) -> Settings:
        """The share, and which blocks stay."""
        return {"keep": self.keep, "importance": self.place}

    def on_paper(self, paper: Paper) -> Paper:
        """The blocks that stay, where their places are known."""
        layers = paper.profile.layers
        stay = stay_by_place(len(layers), kept_of(len(layers), self.keep), self.place)
        profile = replace(paper.profile, layers=tuple(layers[i] for i in stay))
        return replace(paper, profile=profile)

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """The shallower candidate; `notes["layers"]` holds the kept blocks."""
        from .surgery import cut_layers

        assert candidate is not None  # only the step that loads starts from nothing
        stay = self.stay(candidate, bench)
        return cut_layers(candidate, self.on_paper(candidate.paper), stay)

    def stay(self, candidate: Candidate, bench: Bench) -> list[int]:
        """The blocks that stay, ascending."""
        total = len(candidate.paper.profile.layers)
        return stay_by_place(total, kept_of(total, self.keep), self.place)


@dataclass(frozen=True)
class DropIdleLayers(DropLayers):
    """Removes the blocks whose output is most like their input on the calibration split."""

    place: str = "similarity"
    name: ClassVar[str] = "layers.drop_idle"
    reads: ClassVar[frozenset[Reads]] = frozenset({"calibration"})

    def on_paper(self, paper: Paper) -> Paper:
        """As many equal blocks as stay: which ones is for data to say."""
        layers = paper.profile.layers
        profile = replace(paper.profile, layers=layers[: kept_of(len(layers), self.keep)])
        return replace(paper, profile=profile)

    def stay(self, candidate: Candidate, bench: Bench) -> list[int]:
        """The blocks that stay, ascending."""
        from .importance import block_influence, strongest

        influence = block_influence(candidate, bench)
        return strongest(influence, kept_of(len(influence), self.keep))


@dataclass(frozen=True)
class DropNeedlessLayers(DropIdleLayers):
    """Removes the blocks without which the loss on the calibration split would change least."""

    place: str = "gradients"
    name: ClassVar[str] = "layers.drop_needless"

    def stay(self, candidate: Candidate, bench: Bench) -> list[int]:
        """The blocks that stay, ascending."""
        from .gradients import block_gradients
        from .importance import strongest

        change = block_gradients(candidate, bench)
        return strongest(change, kept_of(len(change), self.keep))


class Layers:
    """Whole blocks removed."""

    name: ClassVar[str] = "layers"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"parameters", "flops", "bytes", "outputs"})
    source: ClassVar[str] = "arXiv 2403.03853 (similarity), 1910.01108 (spread), 1906.10771"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Share kept, before or after fine-tuning, which blocks stay."""
        return (keep_knob([len(paper.profile.layers)]), WHEN, CHOICE)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Nothing to remove, or blocks that data may not choose among."""
        totals = [len(paper.profile.layers)]
        return [
            *refusals(paper, "layers", totals, float(settings["keep"])),
            *unequal_refusals(paper, settings["importance"]),
            *unanswerable(paper, settings, instead="similarity"),
        ]

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """One Change."""
        return (drop_step(settings["keep"], settings["importance"], settings["when"]),)


def drop_step(keep: object, place: object, when: object) -> DropLayers:
    """The step for a share, a choice of blocks and a time."""
    if place == "similarity":
        return DropIdleLayers(float(str(keep)), phase=phase_of(when))
    if place == "gradients":
        return DropNeedlessLayers(float(str(keep)), phase=phase_of(when))
    return DropLayers(float(str(keep)), str(place), phase_of(when))


def unequal_refusals(paper: Paper, place: object) -> list[str]:
    """Why data may not choose among these blocks: their sizes differ, so it would fix counts."""
    if place not in ("similarity", "gradients") or len(set(paper.profile.layers)) <= 1:
        return []
    return [
        "blocks of different sizes cannot be chosen by data, or the size of the result would not "
        "be known on paper; choose importance: last or spread"
    ]


def stay_by_place(total: int, stay: int, place: str) -> list[int]:
    """Which blocks stay, ascending.

    >>> stay_by_place(6, 3, "last"), stay_by_place(6, 3, "spread"), stay_by_place(12, 4, "spread")
    ([0, 1, 2], [0, 3, 5], [0, 4, 7, 11])
    """
    if place == "last":
        return list(range(stay))
    if stay == 1:
        return [0]
    return [int(i * (total - 1) / (stay - 1) + 0.5) for i in range(stay)]
