"""Fine-tuning: every parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..configuration import Settings
from ..hyperparameter import Hyperparameter, Real
from ..paper import Paper
from ..profile import Profile
from ..steps import Step
from ..technique import Targets
from ..training import FinetuneStep
from .selection import Select


class Full:
    """Trains every parameter, as BERT was fine-tuned."""

    name: ClassVar[str] = "full"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"trainable", "outputs", "recipe"})
    source: ClassVar[str] = "arXiv 1810.04805"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """The learning rate; its usual peak falls with the width (arXiv 2203.03466)."""
        return (Real("learning_rate", 2e-6, 2e-3, usual_peak(paper.profile.width), log=True),)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """None: what there is can train."""
        return []

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Select, Train."""
        return (Select(self.name, float(settings["learning_rate"]), everything), FinetuneStep())


def usual_peak(width: int) -> float:
    """A peak that suits hidden states of a width: 1e-4 for 768, 2e-4 for 384 and below.

    Measured with a width of 384, 225 steps of 16: 5e-5 reached .505 where 2e-4 reached .583.

    >>> usual_peak(768)
    0.0001
    """
    return max(min(2e-4 * 384 / width, 2e-4), 2e-5)


def everything(profile: Profile) -> tuple[str, ...]:
    """The pattern that every name fits."""
    return ("*",)
