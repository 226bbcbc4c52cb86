"""Fine-tuning: the head alone, on a frozen encoder (linear probing where there is no pooler)."""

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
from .selection import Select, learning_rate, names


class OnlyHead:
    """Trains the head; the encoder is frozen and runs without dropout, once per training item.

    The encoder's answers are kept (up to a bound) instead of being computed again every epoch.
    """

    name: ClassVar[str] = "head"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"trainable", "outputs", "recipe"})
    source: ClassVar[str] = "arXiv 1903.05987 (feature extraction)"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """The learning rate."""
        return (learning_rate(1e-3),)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """A language model whose head is its embedding table has no head of its own."""
        head = paper.profile.head
        if head.kind == "language-modelling" and head.tied:
            return [
                "the head is the embedding table, so it cannot train while the rest is frozen; "
                "choose full, lora, ia3 or layernorm"
            ]
        return []

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Select, Train."""
        return (Select(self.name, float(settings["learning_rate"]), head_names), FinetuneStep())


def head_names(profile: Profile) -> tuple[str, ...]:
    """Names of the head's parameters, a pooler among them."""
    return names(profile, lambda weight: weight.group == "head")
