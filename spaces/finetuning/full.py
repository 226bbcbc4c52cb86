"""Fine-tuning: every parameter."""

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
from .selection import Select, learning_rate


class Full:
    """Trains every parameter, as BERT was fine-tuned."""

    name: ClassVar[str] = "full"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"trainable", "outputs", "recipe"})
    source: ClassVar[str] = "arXiv 1810.04805"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """The learning rate."""
        return (learning_rate(5e-5),)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """None: what there is can train."""
        return []

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Select, Train."""
        return (Select(self.name, float(settings["learning_rate"]), everything), FinetuneStep())


def everything(profile: Profile) -> tuple[str, ...]:
    """The pattern that every name fits."""
    return ("*",)
