"""What the ways of distilling share: the teacher, its answers, the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from ..configuration import Choice, Settings
from ..hyperparameter import Hyperparameter, OneOf, Real
from ..recipe import BASELINE, SELF, Loss
from ..steps import Step
from ..training import RecoverStep
from .amend import LEARNING_RATE, SHARE, Shorten

TAUGHT: Final[tuple[Hyperparameter, ...]] = (
    OneOf("teacher", (BASELINE, SELF), BASELINE),
    Real("temperature", 1.0, 8.0, 2.0, log=True),
    Real("alpha", 0.0, 1.0, 0.5),
    SHARE,
    LEARNING_RATE,
)
"""Whom it learns from, how softly, the weight of its answers, length, learning rate."""

WEIGHT: Final = Real("weight", 0.1, 10.0, 1.0, log=True)
"""Factor of what is matched beside the answers."""


def answers(settings: Settings) -> tuple[Loss, ...]:
    """`(1 - alpha) task + alpha T^2 KL(teacher || student)`."""
    alpha = float(settings["alpha"])
    return (Loss("task", 1 - alpha), Loss("logits", alpha, float(settings["temperature"])))


def teacher_left(before: Mapping[str, Choice]) -> Settings:
    """The baseline, where nothing is cut after a candidate's last training: see `lower.walk`.

    Args:
        before: what the slots before recovery hold, where they do something.
    """
    structure, tuned = before.get("structure"), "finetuning" in before
    cut = structure and (not tuned or dict(structure.settings).get("when") == "after")
    # a sub-network is cut out of what was trained whole
    return {} if cut or ("architecture" in before and not tuned) else {"teacher": BASELINE}


def taught_steps(settings: Settings, losses: Sequence[Loss]) -> Sequence[Step]:
    """Shorten, Train; terms of weight 0 are left out."""
    terms = tuple(loss for loss in losses if loss.weight > 0)
    share, rate = float(settings["share"]), float(settings["learning_rate"])
    return (Shorten(share, rate, terms, str(settings["teacher"])), RecoverStep())
