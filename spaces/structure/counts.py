"""How many units stay: fixed by settings, on paper. Which ones stay is fixed by data, later.

The knobs that all ways of cutting share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..hyperparameter import OneOf
from ..paper import Paper
from ..steps import Phase

SHARES = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
"""Shares that are offered: eighths, none below a quarter (nothing recovers from less)."""

WHEN = OneOf("when", ("before", "after"), "after")
"""Whether units are removed before or after fine-tuning."""


IMPORTANCE = OneOf("importance", ("weights", "activations"), "activations")
"""How units are judged. On MiniLM without recovery, weights alone choose hardly better than chance:
with half of the neurons, similarities of sentences keep their order at a rank correlation of .86
(activations), .78 (weights), .74 (at random); with half of the heads .86, .83, .82."""


def kept_of(total: int, keep: float, multiple: int = 1) -> int:
    """Units that stay of `total`: the nearest multiple, at least one, never more than there are.

    Args:
        total: units of one layer (or layers of the model).
        keep: share that stays, in (0, 1].
        multiple: what the count is rounded to, so that matrix kernels stay aligned.

    >>> kept_of(12, 0.75), kept_of(3, 0.25), kept_of(1536, 0.625, 8), kept_of(4, 0.5, 8)
    (9, 1, 960, 4)
    """
    return min(total, multiple * max(1, math.floor(keep * total / multiple + 0.5)))


def keep_knob(totals: Sequence[int], multiple: int = 1, name: str = "keep") -> OneOf:
    """The knob for a share; of shares that come to the same counts the nearest is offered.

    Args:
        totals: units per layer. multiple: see `kept_of`. name: of the knob.

    >>> keep_knob([4, 4]).values
    (0.25, 0.5, 0.75)
    """
    nearest: dict[tuple[int, ...], tuple[float, float]] = {}
    for share in SHARES:
        counts = tuple(kept_of(total, share, multiple) for total in totals)
        off = sum(abs(share * total - count) for total, count in zip(totals, counts, strict=True))
        if counts != tuple(totals):
            nearest[counts] = min(nearest.get(counts, (off, share)), (off, share))
    # A model too small to lose anything still has the knob; `refusals` then says why not.
    values = tuple(share for _, share in nearest.values()) or (0.5,)
    default = min(values, key=lambda share: abs(share - 0.75))
    return OneOf(name, values, default, ordered=True)


def phase_of(when: object) -> Phase:
    """The phase that a value of `when` stands for."""
    return Phase.STRUCTURE_BEFORE if when == "before" else Phase.STRUCTURE_AFTER


def refusals(
    paper: Paper, what: str, totals: Sequence[int], keep: float, multiple: int = 1
) -> list[str]:
    """Why units cannot be removed from this model at all, or not this share of them.

    Args:
        paper: the candidate just before.
        what: the units, plural, for the message.
        totals: units per layer; empty: the model has none.
        keep: the share that should stay. multiple: see `kept_of`.
    """
    from ..families import FAMILIES

    profile = paper.profile
    if profile.family not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        return [f"nothing can be cut from family {profile.family}; choose none, or one of: {known}"]
    if profile.adapters:
        kinds = ", ".join(sorted({adapter.kind for adapter in profile.adapters}))
        return [
            f"{kinds} adapters hold on to the shapes of the layers; merge them first, "
            "or choose when: before"
        ]
    if not 0 < keep <= 1:
        return [f"keep {keep} is no share; choose one in (0, 1)"]
    if not totals:
        return [f"the model has no {what}; choose structure none"]
    if all(kept_of(total, keep, multiple) == total for total in totals):
        return [
            f"keep {keep} removes nothing of {max(totals)} {what}; choose structure none, "
            "or a smaller keep"
        ]
    return []
