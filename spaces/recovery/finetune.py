"""Recovery: a short fine-tuning of everything after the structure has changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..configuration import Settings
from ..hyperparameter import Hyperparameter
from ..paper import Paper
from ..recipe import Loss
from ..steps import Step
from ..technique import Targets
from ..training import RecoverStep
from .amend import LEARNING_RATE, SHARE, Shorten, no_items


class Finetune:
    """Trains all weights on the task for a share of the recipe's epochs."""

    name: ClassVar[str] = "finetune"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"trainable", "outputs", "recipe"})
    source: ClassVar[str] = "arXiv 1506.02626 (prune, then retrain)"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Its length and its learning rate."""
        return (SHARE, LEARNING_RATE)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """There is nothing to train on."""
        return no_items(paper)

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Shorten, Train."""
        share, rate = float(settings["share"]), float(settings["learning_rate"])
        return (Shorten(share, rate, (Loss("task"),), None), RecoverStep())
