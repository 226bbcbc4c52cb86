"""The matrices of each block, which are chosen and worked on together.

Blocks are worked on from first to last, each on what the changed ones below it answer, so that a
later block makes up for part of what an earlier one lost, as in arXiv 2301.00774.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import groupby

from ..hyperparameter import OneOf
from ..profile import Group, Profile, Weight

PARTS = OneOf("parts", ("attention", "ffn", "both"), "both")
"""Whose matrices."""


def groups_of(parts: object) -> tuple[Group, ...]:
    """The groups that a value of `parts` stands for."""
    named: dict[object, tuple[Group, ...]] = {"attention": ("attention",), "ffn": ("ffn",)}
    return named.get(parts, ("attention", "ffn"))


def by_block(profile: Profile, names: Collection[str]) -> Iterator[dict[str, Weight]]:
    """The matrices of those names, block by block, each by the path of its module."""
    found = [weight for weight in profile.weights() if weight.name in names]
    for _, weights in groupby(found, key=lambda weight: weight.layer):
        yield {weight.name.removesuffix(".weight"): weight for weight in weights}
