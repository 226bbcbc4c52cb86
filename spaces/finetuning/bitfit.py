"""Fine-tuning: the biases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..configuration import Settings
from ..hyperparameter import Hyperparameter
from ..paper import Paper
from ..profile import Profile
from ..steps import Step
from ..technique import Targets
from ..training import FinetuneStep
from .selection import Select, learning_rate, new_answers


class BitFit:
    """Trains the biases of the frozen model, and a classifier's own parameters."""

    name: ClassVar[str] = "bitfit"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"trainable", "outputs", "recipe"})
    source: ClassVar[str] = "arXiv 2106.10199"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """The learning rate."""
        return (learning_rate(1e-3),)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """The model has no biases."""
        body = [w for w in paper.profile.weights() if w.group != "head"]
        if any(w.name.endswith(".bias") for w in body):
            return []
        return [
            f"{paper.profile.family} has no biases to train; choose layernorm, ia3, lora or full"
        ]

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Select, Train."""
        return (Select(self.name, float(settings["learning_rate"]), biases), FinetuneStep())


def biases(profile: Profile) -> tuple[str, ...]:
    """Every bias, and a classifier's matrices."""
    matrices = [name for name in new_answers(profile) if not name.endswith(".bias")]
    return ("*.bias", *matrices)
