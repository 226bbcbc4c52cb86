"""How many layers get which format, on paper: fixed by settings, before any data is seen.

Layers of one size are interchangeable in bytes. So only how many of them have which format enters
the paper; which ones is for data to say. Layers of different sizes are never exchanged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, cast

from ..profile import Format, FormatName, Group, Profile
from .declare import MATRICES

LADDER: Final[tuple[FormatName, ...]] = ("int8", "int4", "int3")
"""From the most bits to the fewest."""

AVERAGES: Final = (3.25, 3.5, 3.75, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0)

Reach = Literal["near", "far"]
Kin = tuple[Group, tuple[int, ...]]
"""A group, and those of its layers that have the same size."""


def mix(count: int, average: float, reach: Reach) -> tuple[FormatName, ...]:
    """The formats of layers of one size, most bits first; at most `average` bits in the mean.

    Args:
        count: layers.
        average: bits of a stored weight, scales apart; from 3 to 8.
        reach: `near` takes the two formats around the average. `far` takes as many int8 as fit
            beside int3, and raises to int4 what the rest pays for.

    >>> mix(4, 6, "near"), mix(3, 3.5, "near")
    (('int8', 'int8', 'int4', 'int4'), ('int4', 'int3', 'int3'))
    >>> mix(5, 4.5, "far")
    ('int8', 'int4', 'int4', 'int3', 'int3')
    """
    # Halves and quarters are exact in binary: no share of a bit is lost to rounding.
    budget = math.floor(average * count)
    if reach == "near" and budget >= 4 * count:
        top = (budget - 4 * count) // 4
        middle = count - top
    else:
        top = (budget - 3 * count) // 5 if reach == "far" else 0
        middle = min(count - top, budget - 8 * top - 3 * (count - top))
    counts = (top, middle, count - top - middle)
    return tuple(name for name, n in zip(LADDER, counts, strict=True) for _ in range(n))


def kins(profile: Profile) -> Iterator[Kin]:
    """The layers of one size, for each group that data chooses formats for."""
    for group in MATRICES:
        parts = [layer.attention if group == "attention" else layer.feed_forward
                 for layer in profile.layers]  # fmt: skip
        for part in dict.fromkeys(part for part in parts if part is not None):
            yield group, tuple(i for i, other in enumerate(parts) if other == part)


def mixes(profile: Profile, average: float, reach: Reach) -> dict[Kin, tuple[FormatName, ...]]:
    """What the layers of each size get, most bits first."""
    return {(group, layers): mix(len(layers), average, reach) for group, layers in kins(profile)}


def by_layer(
    profile: Profile, dealt: Mapping[Kin, Sequence[Format]]
) -> dict[Group, tuple[Format, ...]]:
    """The format of each layer, first to last, by group.

    Args:
        profile: says how many layers there are.
        dealt: the formats of the layers of each size, in the order of these.
    """
    found: dict[Group, list[Format]] = {}
    for (group, layers), forms in dealt.items():
        # a layer without the part has no weights that a format could matter to
        told = found.setdefault(group, [forms[0]] * len(profile.layers))
        for layer, form in zip(layers, forms, strict=True):
            told[layer] = form
    return {group: tuple(forms) for group, forms in found.items()}


def dealt_on_paper(profile: Profile) -> dict[Kin, tuple[Format, ...]]:
    """The formats of the layers of each size as a paper declares them; `by_layer` undone."""
    forms = dict(profile.by_layer)
    return {
        (group, layers): tuple(forms[group][layer] for layer in layers)
        for group, layers in kins(profile)
        if group in forms
    }


def as_reach(setting: object) -> Reach:
    """A setting as one of the ways to mix."""
    return cast(Reach, setting)
