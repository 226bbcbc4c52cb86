"""Recovery: distillation of what a teacher's layers say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, cast

from ..configuration import Choice, Settings
from ..hyperparameter import Hyperparameter, OneOf
from ..paper import Paper
from ..recipe import Loss, LossKind, Pairs
from ..steps import Step
from ..technique import Targets
from .amend import no_items
from .taught import TAUGHT, WEIGHT, answers, taught_steps, teacher_left

_MATCHED: Final[dict[str, tuple[LossKind, ...]]] = {
    "hidden": ("hidden",),
    "attention": ("attention",),
    "both": ("hidden", "attention"),
}


class DistilLayers:
    """Distillation of answers, and of hidden states, attention maps or both, layer by layer.

    Mean squared differences over tokens of text. `pairs` says which layers: `spread` evenly over
    both depths, the embeddings among them; `top` counted from the end; `last` the last alone.
    Where widths differ, similarities between tokens are compared; where numbers of heads differ,
    mean maps.
    """

    name: ClassVar[str] = "distil_layers"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"trainable", "outputs", "recipe"})
    source: ClassVar[str] = "arXiv 1909.10351, 1908.09355 (top), 1907.09682 (other widths)"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """What is matched, with which weight, between which layers; teacher and answers."""
        return (
            OneOf("match", tuple(_MATCHED), "hidden"),
            WEIGHT,
            OneOf("pairs", ("spread", "top", "last"), "spread"),
            *TAUGHT,
        )

    def settled(self, settings: Settings, before: Mapping[str, Choice]) -> Settings:
        """Nobody who lost nothing is its own teacher."""
        return teacher_left(before)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Nothing to train on; or blocks without a map to match."""
        missing = any(layer.attention is None for layer in paper.profile.layers)
        if missing and settings["match"] != "hidden":
            return ["blocks without attention have no map to match; choose match: hidden"]
        return no_items(paper)

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Shorten, Train."""
        weight, pairs = float(settings["weight"]), cast(Pairs, settings["pairs"])
        matched = (Loss(k, weight, pairs=pairs) for k in _MATCHED[str(settings["match"])])
        return taught_steps(settings, (*answers(settings), *matched))
