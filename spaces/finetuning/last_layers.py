"""Fine-tuning: the last layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from ..configuration import Settings
from ..hyperparameter import Hyperparameter, Integer
from ..paper import Paper
from ..profile import Profile
from ..steps import Step
from ..technique import Targets
from ..training import FinetuneStep
from .selection import Select, learning_rate, names, new_answers


class LastLayers:
    """Trains the last layers and a classifier; what lies below is frozen and needs no gradients."""

    name: ClassVar[str] = "last_layers"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"trainable", "outputs", "recipe"})
    source: ClassVar[str] = "arXiv 1911.03090"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """How many layers, at most all but one, and the learning rate."""
        most = max(len(paper.profile.layers) - 1, 1)
        layers = Integer("layers", 1, most, min(2, most))
        return (layers, learning_rate(1e-4))

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Fewer layers than shall train."""
        depth, wanted = len(paper.profile.layers), int(settings["layers"])
        if wanted <= depth:
            return []
        return [f"the last {wanted} of {depth} layers cannot train; choose layers <= {depth}"]

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Select, Train."""
        choose = partial(last_layers, int(settings["layers"]))
        return (Select(self.name, float(settings["learning_rate"]), choose), FinetuneStep())


def last_layers(count: int, profile: Profile) -> tuple[str, ...]:
    """Names of the parameters of the last `count` layers and of a classifier."""
    first = len(profile.layers) - count
    chosen = names(profile, lambda w: w.layer is not None and w.layer >= first)
    return (*chosen, *new_answers(profile))
