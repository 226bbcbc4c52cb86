"""The Train step: follows a candidate's recipe; the loop itself is in `trainer.py`.

Three exist: the one that fine-tunes, the one that recovers and the one that trains a super-network.
No torch is imported until one of them runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from .configuration import Settings, digest
from .paper import Paper
from .steps import Bench, Phase, Reads

if TYPE_CHECKING:
    from .candidate import Candidate


@dataclass(frozen=True)
class TrainStep:
    """What all trainings share; `name` and `phase` are each class's own."""

    name: ClassVar[str] = "train.finetune"
    version: ClassVar[int] = 1
    draws: ClassVar[bool] = True
    reads: ClassVar[frozenset[Reads]] = frozenset({"train", "recipe"})
    phase: ClassVar[Phase] = Phase.TRAIN

    @property
    def settings(self) -> Settings:
        """Nothing: the recipe says it all, and the key reads the recipe."""
        return {}

    def on_paper(self, paper: Paper) -> Paper:
        """What has learnt now: training changes values, never structure."""
        return paper.trained

    def run(self, candidate: Candidate, until_step: int, bench: Bench, seed: int) -> Candidate:
        """Follows `candidate.paper.recipe` up to a step; resumes what a lower rung left.

        Args:
            candidate: left untouched; its train state counts when this step made it.
            until_step: optimiser steps done in the end, counted from the start of this training.
            bench: for batches, the teacher, and the turns that other work takes.
            seed: of data order and dropout.

        Raises:
            StepFailed: `diverged`, `out_of_memory`, or `illegal` when nothing would train.
        """
        from .trainer import train

        made = train(self.name, candidate, until_step, bench, seed)
        return replace(made, paper=self.on_paper(made.paper))


@dataclass(frozen=True)
class FinetuneStep(TrainStep):
    """The training of the fine-tuning slot."""


@dataclass(frozen=True)
class RecoverStep(TrainStep):
    """The training of the recovery slot, after the structure has changed."""

    name: ClassVar[str] = "train.recover"
    phase: ClassVar[Phase] = Phase.RECOVERY_TRAIN


@dataclass(frozen=True)
class SupernetStep(TrainStep):
    """The training of the architecture slot: a network and its sub-networks together."""

    name: ClassVar[str] = "train.supernet"
    phase: ClassVar[Phase] = Phase.ARCHITECTURE_TRAIN


def derived_seed(*parts: str | int) -> int:
    """A seed of its own for every use, so that no two uses share random numbers.

    >>> derived_seed("order", 0, 1) != derived_seed("dropout", 0, 1)
    True
    """
    name: Sequence[str | int] = list(parts)
    return int(digest(name)[:15], 16)
