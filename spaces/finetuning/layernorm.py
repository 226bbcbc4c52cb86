"""Fine-tuning: the norms."""

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
from .selection import Select, learning_rate, names, new_answers


class LayerNorm:
    """Trains the scales and shifts of all norms, and a classifier's own parameters."""

    name: ClassVar[str] = "layernorm"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"trainable", "outputs", "recipe"})
    source: ClassVar[str] = "arXiv 2312.11420"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """The learning rate."""
        return (learning_rate(1e-3),)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """None: every family has norms."""
        return []

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Select, Train."""
        return (Select(self.name, float(settings["learning_rate"]), norms), FinetuneStep())


def norms(profile: Profile) -> tuple[str, ...]:
    """Names of every norm's parameters, and of a classifier's own."""
    return (*names(profile, lambda weight: weight.group == "norm"), *new_answers(profile))
