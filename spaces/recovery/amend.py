"""Shorten: the Amend that turns the recipe into one for recovery."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from ..configuration import Settings
from ..hyperparameter import Real
from ..paper import Paper
from ..recipe import Loss
from ..steps import Phase, Reads

SHARE = Real("share", 0.05, 1.0, 0.2, log=True)
"""Length of the recovery, as a share of the recipe's epochs."""

LEARNING_RATE = Real("learning_rate", 1e-5, 1e-3, 1e-4, log=True)


def no_items(paper: Paper) -> list[str]:
    """The objection where there is nothing to train on."""
    if paper.recipe.train_items:
        return []
    return ["the task has no training items; give it a train split, or leave recovery as it is"]


@dataclass(frozen=True)
class Shorten:
    """Trains everything, for a share of the epochs, on other losses.

    Args:
        share: of the recipe's epochs, in (0, 1].
        learning_rate: peak.
        losses: the terms of the objective.
        teacher: None, `baseline` or `self`: whose last long training teaches.
    """

    share: float
    learning_rate: float
    losses: tuple[Loss, ...]
    teacher: str | None
    name: ClassVar[str] = "recovery.shorten"
    version: ClassVar[int] = 1
    phase: ClassVar[Phase] = Phase.RECOVERY_AMEND
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Reads]] = frozenset()
    amends: ClassVar[Literal[True]] = True

    @property
    def settings(self) -> Settings:
        """Share, learning rate, teacher, and what each loss is told, as `loss.KIND.weight`."""
        told: dict[str, Any] = {"share": self.share, "learning_rate": self.learning_rate}
        for loss in self.losses:
            told |= {f"loss.{loss.kind}.{k}": v for k, v in vars(loss).items() if k != "kind"}
        return told if self.teacher is None else {**told, "teacher": self.teacher}

    def on_paper(self, paper: Paper) -> Paper:
        """The recipe for recovery."""
        recipe = replace(
            paper.recipe,
            trainable=("*",),
            mask=None,
            ranks=None,
            epochs=paper.recipe.epochs * self.share,
            learning_rate=self.learning_rate,
            losses=self.losses,
            teacher=self.teacher,
        )
        return replace(paper, recipe=recipe)
