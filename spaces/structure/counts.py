"""How many units stay: fixed by settings, on paper. Which ones stay is fixed by data, later.

The knobs that all ways of cutting share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, cast

from ..configuration import Settings
from ..hyperparameter import OneOf
from ..paper import Paper
from ..steps import Phase

SHARES = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
"""Shares that are offered: eighths, none below a quarter (nothing recovers from less)."""

WHEN = OneOf("when", ("before", "after"), "after")
"""Whether units are removed before or after fine-tuning."""


Importance = Literal["weights", "activations", "gradients"]

IMPORTANCE = OneOf("importance", ("weights", "activations", "gradients"), "activations")
"""How units are judged; `gradients` needs answers that already mean something.

On MiniLM without recovery, weights alone choose hardly better than chance: with half of the
neurons, similarities of sentences keep their order at a rank correlation of .86 (activations),
.78 (weights), .74 (at random); with half of the heads .86, .83, .82.
"""


SLOPE = OneOf("slope", (-0.8, -0.4, 0.0, 0.4, 0.8), 0.0, ordered=True)
"""How much more than the last layers the first ones keep; 0: every layer the same share."""


def tapered(keep: float, slope: float, depth: int) -> list[float]:
    """The share that each layer keeps, first to last: on one line over the depth, around `keep`.

    A schedule, not a ranking of all units: the counts of each layer are then known on paper,
    whatever the data, so that size and FLOPs of a candidate never cost a trial.

    Args:
        keep: the mean.
        slope: in [-1, 1]; 1 lets the first layer keep as much more, and the last as much less, as
            leaves both between 0 and 1. Negative: the other way round.
        depth: layers.

    >>> tapered(0.75, 0.8, 3)
    [0.95, 0.75, 0.55]
    """
    reach, last = slope * min(keep, 1 - keep), max(1, depth - 1)
    return [round(keep + reach * (1 - 2 * i / last) * (depth > 1), 6) for i in range(depth)]


@lru_cache(maxsize=16_384)
def kept_of(total: int, keep: float, multiple: int = 1) -> int:
    """Units that stay of `total`: the nearest multiple, at least one, never more than there are.

    Args:
        total: units of one layer (or layers of the model).
        keep: share that stays, in (0, 1].
        multiple: what the count is rounded to, so that matrix kernels stay aligned.

    >>> kept_of(12, 0.75), kept_of(3, 0.25), kept_of(1536, 0.625, 8), kept_of(4, 0.5, 8)
    (9, 1, 960, 4)
    """
    if keep == 1:
        return total  # which need not be a multiple
    return min(total, multiple * max(1, math.floor(keep * total / multiple + 0.5)))


def keep_knob(
    totals: Sequence[int],
    multiple: int = 1,
    name: str = "keep",
    *,
    whole: bool = False,
    shares: Sequence[float] = SHARES,
    middle: float = 0.75,
) -> OneOf:
    """The knob for a share; of shares that come to the same counts the nearest is offered.

    The others may be written, and stand for it; shares that remove nothing may not.

    Args:
        totals: units per layer. multiple: see `kept_of`. name: of the knob.
        whole: 1 is offered too, for which shares that remove nothing then stand.
        shares: to choose from. middle: the default is the nearest to it.

    >>> keep_knob([4, 4]).values, keep_knob([3, 3]).values, keep_knob([3], whole=True).values
    ((0.25, 0.5, 0.75), (0.375, 0.625), (0.375, 0.625, 1.0))
    """
    counts = {share: tuple(kept_of(n, share, multiple) for n in totals) for share in shares}
    cut = {share: left for share, left in counts.items() if left != tuple(totals)}
    offered = nearest({share: (left, _off(share, totals, left)) for share, left in cut.items()})
    # A model too small to lose anything still has the knob; `refusals` then says why not.
    values = tuple(dict.fromkeys(offered.values())) or (0.5,)
    default = min(values, key=lambda share: abs(share - middle))
    if whole or not offered:
        offered |= dict.fromkeys(counts.keys() - cut.keys() - {*values}, 1.0 if whole else 0.5)
    if whole:
        values = (*values, 1.0)
    return OneOf(name, values, default, ordered=True, same=others(offered))


def nearest(found: Mapping[float, tuple[object, float]]) -> dict[float, float]:
    """Each share with the one that is offered in its place.

    Args:
        found: by share, what it comes to and how far off that is.

    >>> nearest({0.625: (2, 0.125), 0.75: (2, 0.25), 1.0: (3, 0.0)})
    {0.625: 0.625, 0.75: 0.625, 1.0: 1.0}
    """
    best: dict[object, tuple[float, float]] = {}
    for share, (left, off) in found.items():
        best[left] = min(best.get(left, (off, share)), (off, share))
    return {share: best[left][1] for share, (left, _) in found.items()}


def _off(share: float, totals: Sequence[int], left: Sequence[int]) -> float:
    return sum(abs(share * total - count) for total, count in zip(totals, left, strict=True))


def others(offered: Mapping[float, float]) -> tuple[tuple[float, float], ...]:
    """Shares that may be written for another that is offered, with that; see `nearest`."""
    return tuple(sorted(pair for pair in offered.items() if pair[0] != pair[1]))


def as_importance(setting: object) -> Importance:
    """A setting as one of the ways to judge."""
    return cast(Importance, setting)


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
    if found := uncuttable(paper):
        return found
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


def untouchable(paper: Paper) -> list[str]:
    """Why the layers of this model cannot be changed at all."""
    from ..families import FAMILIES

    profile = paper.profile
    if profile.family not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        return [f"nothing can be cut from family {profile.family}; choose none, or one of: {known}"]
    if profile.soft_tokens or profile.past:
        return [
            "virtual tokens were trained on the layers as they are and cannot be merged; choose "
            "when: before"
        ]
    if profile.adapters:
        kinds = ", ".join(sorted({adapter.kind for adapter in profile.adapters}))
        return [
            f"{kinds} adapters hold on to the shapes of the layers; merge them first, "
            "or choose when: before"
        ]
    return []


def uncuttable(paper: Paper) -> list[str]:
    """Why nothing can be cut out of the layers of this model."""
    if found := untouchable(paper):
        return found
    if paper.profile.sparsity:
        return [
            "cutting sparse matrices would leave another number of zeros in their rows than is on "
            "paper; cut first, and choose the zeros of what is left"
        ]
    return []


def unanswerable(
    paper: Paper, settings: Settings, knob: str = "importance", instead: str = "activations"
) -> list[str]:
    """Why gradients cannot judge yet: a classifier's own layers are still as they were drawn.

    Args:
        paper: the candidate just before.
        settings: the technique's. knob: the one that says what judges.
        instead: a value of it that needs no answers.
    """
    profile = paper.profile
    if settings[knob] != "gradients" or profile.head.kind != "classification":
        return []
    if all(paper.knows(weight.name) for weight in profile.weights() if weight.group == "head"):
        return []
    return [
        "nothing has trained the classifier yet, so that gradients through it say nothing; choose "
        f"{knob}: {instead}, or when: after and a fine-tuning"
    ]
