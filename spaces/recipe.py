"""The recipe: how a candidate will be trained, as plain data.

Amend steps edit it, Train steps follow it. It never holds a module: a teacher is a key.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, is_dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Final, Literal

from .configuration import canonical

LossKind = Literal["task", "logits", "hidden", "attention", "relations"]

Pairs = Literal["spread", "top", "last"]
"""Which layers learn from which: evenly over the depth, counted from the end, or the last alone."""

BASELINE: Final = "baseline"
"""The teacher that is the baseline, as its last long training left it."""

SELF: Final = "self"
"""The teacher that is the candidate itself, as its last long training left it."""


@dataclass(frozen=True)
class Loss:
    """One term of the objective.

    Args:
        kind: `task` (cross-entropy on labels or next tokens), `logits` (T^2 KL to the teacher,
            arXiv 1503.02531), `hidden` / `attention` (MSE to the teacher, arXiv 1909.10351),
            `relations` (KL to the teacher's query, key and value relations, arXiv 2012.15828).
        weight: its factor in the sum, at least 0.
        temperature: T of the `logits` loss; 1 elsewhere.
        pairs: which layers `hidden` and `attention` compare.
        depth: where the teacher's layer for `relations` stands, as a share of its depth.
        heads: relation heads; they divide both models' projections, whatever heads those have.
    """

    kind: LossKind
    weight: float = 1.0
    temperature: float = 1.0
    pairs: Pairs = "spread"
    depth: float = 1.0
    heads: int = 1


@dataclass(frozen=True)
class Elastic:
    """Which sub-networks train together with the whole network (arXiv 2003.11142).

    Args:
        depth: fewest blocks.
        groups, neurons: fewest groups of heads and feed-forward neurons of a block.
        random: sub-networks drawn at every step, beside the largest and the smallest.
    """

    depth: int
    groups: int
    neurons: int
    random: int


@dataclass(frozen=True)
class Mask:
    """Of the tensors that train, only some elements do; they are chosen before the training.

    Args:
        density: share of the elements under the mask, all tensors taken together, in (0, 1].
        whole: fnmatch patterns over the names of tensors that are not under it.
    """

    density: float
    whole: tuple[str, ...] = ()

    def covers(self, name: str) -> bool:
        """Whether a parameter that trains does so in part.

        >>> Mask(0.1, whole=("classifier.*",)).covers("classifier.bias")
        False
        """
        return not any(fnmatchcase(name, pattern) for pattern in self.whole)

    def count(self, elements: int) -> int:
        """Elements that train, of so many under the mask.

        >>> Mask(0.005).count(1000)
        5
        """
        return round(self.density * elements)


@dataclass(frozen=True)
class RankBudget:
    """Ranks of adapters that stay while they train, all matrices together (arXiv 2303.10512).

    Args:
        start: ranks that there are, and that stay for the first tenth of the steps.
        end: ranks that stay for the last three tenths, at most `start`.
        orthogonality: weight of how far the vectors of a matrix are from orthonormal ones.
    """

    start: int
    end: int
    orthogonality: float

    def left(self, step: int, total: int) -> int:
        """Ranks that stay after a step (from 0) of so many; falls with the cube (section 3.3).

        >>> [RankBudget(12, 8, 0.1).left(step, 10) for step in range(10)]
        [12, 12, 10, 9, 8, 8, 8, 8, 8, 8]
        """
        warm, last = round(0.1 * total), total - max(1, round(0.3 * total))
        if step < warm:
            return self.start
        if self.is_fixed(step, total):
            return self.end
        rest = 1 - (step - warm) / (last - warm)
        return self.end + math.floor((self.start - self.end) * rest**3)

    def is_fixed(self, step: int, total: int) -> bool:
        """Whether it is settled which ranks stay."""
        return step >= total - max(1, round(0.3 * total))


@dataclass(frozen=True)
class Recipe:
    """Everything that the trainer is told.

    Args:
        trainable: fnmatch patterns over parameter names; `("*",)` trains everything, `()` nothing.
        train_items: items of the train split. epochs: passes over them (a share is allowed).
        batch: items per step.
        learning_rate: peak, reached after `warmup_share` of the steps, then linear decay to 0.
        weight_decay: AdamW's decoupled decay, on matrices only.
        clip_norm: largest gradient norm.
        compute: `fp32` or `bf16` (autocast).
        losses: the terms of the objective.
        teacher: key of the candidate that all losses but `task` compare with; on paper the name
            `baseline` or `self`, in whose place `lower` puts a key.
        mask: tensors of which only some elements train; None: whole tensors only.
        elastic: the sub-networks that train along; None: the network alone.
        ranks: how many ranks of the adapters stay; None: all.
    """

    trainable: tuple[str, ...] = ()
    train_items: int = 0
    epochs: float = 0.0
    batch: int = 16
    learning_rate: float = 5e-5
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    compute: Literal["fp32", "bf16"] = "fp32"
    losses: tuple[Loss, ...] = field(default=(Loss("task"),))
    teacher: str | None = None
    mask: Mask | None = None
    elastic: Elastic | None = None
    ranks: RankBudget | None = None

    @property
    def total_steps(self) -> int:
        """Optimiser steps over which the schedule is laid. 0: no training.

        >>> Recipe(train_items=1200, epochs=3, batch=16).total_steps
        225
        """
        # Rounded first: a tenth of three epochs is 0.30000000000000004.
        return math.ceil(round(self.train_items * self.epochs / self.batch, 6))

    def trains(self, name: str) -> bool:
        """Whether the parameter of that name trains.

        >>> Recipe(trainable=("*.bias",)).trains("encoder.0.bias")
        True
        """
        return any(fnmatchcase(name, pattern) for pattern in self.trainable)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form; `from_json` is its inverse."""
        # Not `asdict`, which copies every value: a search asks this of every candidate.
        told = {name: _plain(getattr(self, name)) for name in _FIELDS}
        return {**told, "losses": tuple(map(_plain, self.losses))}

    @cached_property
    def text(self) -> str:
        """`to_json` in canonical form: what keys read."""
        return canonical(self.to_json())

    @staticmethod
    def from_json(data: dict[str, Any]) -> Recipe:
        """A recipe from what `to_json` wrote."""
        losses = tuple(Loss(**loss) for loss in data["losses"])
        trainable, mask, elastic = tuple(data["trainable"]), data.get("mask"), data.get("elastic")
        known = {
            "losses": losses,
            "trainable": trainable,
            "mask": None if mask is None else Mask(mask["density"], tuple(mask["whole"])),
            "elastic": None if elastic is None else Elastic(**elastic),
            "ranks": None if data.get("ranks") is None else RankBudget(**data["ranks"]),
        }
        return Recipe(**{**data, **known})


_FIELDS: Final = tuple(entry.name for entry in fields(Recipe))


def _plain(value: Any) -> Any:
    return dict(vars(value)) if is_dataclass(value) else value
