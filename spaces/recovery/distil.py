"""Recovery: distillation from the uncompressed baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from ..configuration import Settings
from ..hyperparameter import Hyperparameter, OneOf, Real
from ..paper import Paper
from ..recipe import Loss
from ..steps import Step
from ..technique import Targets
from ..training import RecoverStep
from .amend import LEARNING_RATE, SHARE, Shorten, no_items

TEACHER: Final = "baseline"
"""Whom it learns from; lowering puts the key of the baseline's last training in its place."""


class Distil:
    """Trains all weights on `(1 - alpha) task + alpha T^2 KL(teacher || student)`.

    With `hidden`, the mean squared difference of hidden states to evenly chosen layers of the
    teacher is added.
    """

    name: ClassVar[str] = "distil"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"trainable", "outputs", "recipe"})
    source: ClassVar[str] = "arXiv 1503.02531, 1909.10351"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Teacher, temperature, weight of its answers, hidden states, length, learning rate."""
        return (
            OneOf("teacher", (TEACHER,), TEACHER),
            Real("temperature", 1.0, 8.0, 2.0, log=True),
            Real("alpha", 0.0, 1.0, 0.5),
            OneOf("hidden", ("off", "on"), "off"),
            SHARE,
            LEARNING_RATE,
        )

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Nothing to train on; or only the task's loss, which is recovery by fine-tuning."""
        if float(settings["alpha"]) > 0 or settings["hidden"] == "on":
            return no_items(paper)
        return [
            "alpha 0 without hidden states learns nothing from a teacher; "
            "choose alpha > 0, hidden: on, or the method finetune"
        ]

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Shorten, Train."""
        share, rate = float(settings["share"]), float(settings["learning_rate"])
        return (Shorten(share, rate, losses_of(settings), str(settings["teacher"])), RecoverStep())


def losses_of(settings: Settings) -> tuple[Loss, ...]:
    """The terms that these settings mean; terms of weight 0 are left out."""
    alpha = float(settings["alpha"])
    terms = (
        Loss("task", 1 - alpha),
        Loss("logits", alpha, float(settings["temperature"])),
        Loss("hidden", 1.0 if settings["hidden"] == "on" else 0.0),
    )
    return tuple(loss for loss in terms if loss.weight > 0)
