"""Recovery: distillation of a teacher's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from ..configuration import Choice, Settings
from ..hyperparameter import Hyperparameter
from ..paper import Paper
from ..steps import Step
from ..technique import Targets
from .amend import no_items
from .taught import TAUGHT, answers, taught_steps, teacher_left


class Distil:
    """Trains all weights on `(1 - alpha) task + alpha T^2 KL(teacher || student)`.

    The teacher is the baseline, or the candidate as it was before it was cut (`self`): its own last
    long training, at the rung's fidelity, at no cost beside its forward passes.
    """

    name: ClassVar[str] = "distil"
    version: ClassVar[int] = 2
    moves: ClassVar[frozenset[str]] = frozenset({"trainable", "outputs", "recipe"})
    source: ClassVar[str] = "arXiv 1503.02531"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Teacher, temperature, weight of its answers, length, learning rate."""
        return TAUGHT

    def settled(self, settings: Settings, before: Mapping[str, Choice]) -> Settings:
        """Nobody who lost nothing is its own teacher."""
        return teacher_left(before)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Nothing to train on; or only the task's loss, which is recovery by fine-tuning."""
        if float(settings["alpha"]) > 0:
            return no_items(paper)
        return [
            "alpha 0 learns nothing from a teacher; choose alpha > 0, or the method finetune, "
            "distil_layers or distil_relations"
        ]

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Shorten, Train."""
        return taught_steps(settings, answers(settings))
