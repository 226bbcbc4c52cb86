"""Recovery: distillation of the relations between tokens, as MiniLM was made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from ..configuration import Choice, Settings
from ..hyperparameter import Hyperparameter, OneOf
from ..paper import Paper
from ..profile import Layer, Profile
from ..recipe import Loss
from ..steps import Step
from ..structure.counts import kept_of
from ..technique import Targets
from .amend import no_items
from .taught import TAUGHT, WEIGHT, answers, taught_steps, teacher_left

_HEADS: Final = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_DEPTHS: Final = (0.5, 0.625, 0.75, 0.875, 1.0)


class DistilRelations:
    """Distillation of answers, and of how queries, keys and values relate one token to another.

    The student's last layer learns from one layer of the teacher. The relation heads need be
    neither model's heads, so that widths, heads and depths may all differ; more of them tell more.
    Queries and keys are compared before rotary positions.
    """

    name: ClassVar[str] = "distil_relations"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"trainable", "outputs", "recipe"})
    source: ClassVar[str] = "arXiv 2012.15828, 2002.10957"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Weight, the teacher's layer, relation heads; teacher and answers."""
        return (
            WEIGHT,
            teacher_depth(len(paper.profile.layers)),
            relation_heads(paper.profile),
            *TAUGHT,
        )

    def settled(self, settings: Settings, before: Mapping[str, Choice]) -> Settings:
        """Nobody who lost nothing is its own teacher."""
        return teacher_left(before)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Nothing to train on; no attention; heads that do not divide what was left of it."""
        related = [layer for layer in paper.profile.layers if layer.attention]
        if not related:
            return ["a model without attention has no relations; choose distil or distil_layers"]
        shared, heads = _shared(related[-1:]), int(settings["relation_heads"])
        if shared % heads:
            fit = ", ".join(str(n) for n in _HEADS if shared % n == 0)
            return [
                f"{heads} relation heads do not divide the student's last attention, whose "
                f"projections have {shared} in common; choose one of {fit}"
            ]
        return no_items(paper)

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Shorten, Train."""
        related = Loss(
            "relations",
            float(settings["weight"]),
            depth=float(settings["teacher_depth"]),
            heads=int(settings["relation_heads"]),
        )
        return taught_steps(settings, (*answers(settings), related))


def teacher_depth(layers: int) -> OneOf:
    """The knob for the teacher's layer, as a share of its depth; one share for each layer.

    >>> teacher_depth(12).values, teacher_depth(3).values
    ((0.5, 0.625, 0.75, 0.875, 1.0), (0.75, 1.0))
    """
    shares = {kept_of(layers, share): share for share in _DEPTHS}
    return OneOf("teacher_depth", tuple(shares.values()), 1.0, ordered=True)


def relation_heads(profile: Profile) -> OneOf:
    """The knob for relation heads: numbers that divide every projection of the given model.

    The default also divides a single head, so that it fits whatever heads are removed.
    """
    shared = _shared(profile.layers)
    values = tuple(n for n in _HEADS if shared % n == 0)
    parts = [layer.attention for layer in profile.layers if layer.attention]
    safe = [n for n in values if all(part.head_width % n == 0 for part in parts)]
    usual = parts[-1].heads if parts else 1
    default = min(safe, key=lambda n: (abs(n - usual), -n))
    return OneOf("relation_heads", values, default, ordered=True)


def _shared(layers: Sequence[Layer]) -> int:
    """The largest number that divides the queries, keys and values of all these layers; 0: none."""
    parts = [layer.attention for layer in layers if layer.attention]
    return math.gcd(*(part.kv_heads * part.head_width for part in parts))
