"""The difference of candidates on the same items: of two, or between differences of several.

Paired: what makes an item hard is common to both, and drops out. Right-or-wrong figures get the
exact McNemar test and Bonett and Price's interval (JEBS 37, 2012), which does not shrink to a point
where no item differs; others get Student's t. No correction for many comparisons: that is the
reader's, who knows how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import BadRequest
from ..metric import Metric, Predictions


@dataclass(frozen=True)
class Difference:
    """a - b, in the metric's unit.

    Args:
        mean: the difference of the two figures.
        stderr: its standard error.
        low, high: a 95 % interval.
        n: items.
        p: two-sided probability of at least this difference where there is none.
    """

    mean: float
    stderr: float
    low: float
    high: float
    n: int
    p: float


def paired_difference(
    a: Predictions, b: Predictions, metric: Metric, again: Sequence[Predictions] = ()
) -> Difference:
    """How much a's figure exceeds b's on the same items.

    Args:
        a, b: answers of the two candidates. metric: whose values are compared.
        again: a's answers under further seeds; its values are then means over all seeds, and the
            error is over items alone.

    Raises:
        BadRequest: the items are not the same, or the metric has no per-item values.
    """
    if metric.per_item is None:
        raise BadRequest(f"{metric.name} has no per-item values, so it cannot be compared by item")
    for mine in (a, *again):
        refuse_unpaired(mine, b)
    theirs = metric.per_item(b)
    ours = np.mean([metric.per_item(mine) for mine in (a, *again)], axis=0)
    if np.isin((ours, theirs), (0.0, 1.0)).all():
        return _right_or_wrong(ours - theirs)
    return _student(ours - theirs)


def contrast_stderr(contrast: np.ndarray, *, right_or_wrong: bool) -> float:
    """Standard error of the mean of `(n,)` sums and differences of candidates' per-item values.

    Where these are 0 or 1, an item is added on each side, as Bonett and Price do for the difference
    of two candidates: no contrast is taken as certain because no item happens to show one.
    """
    n = len(contrast)
    if right_or_wrong:
        return float(np.append(contrast, (1.0, -1.0)).std() / math.sqrt(n + 2))
    return float(contrast.std(ddof=1) / math.sqrt(n))


def refuse_unpaired(a: Predictions, b: Predictions) -> None:
    """Passes when both answered the same items, at least two.

    Raises:
        BadRequest: they did not.
    """
    if not np.array_equal(a.items, b.items):
        raise BadRequest(
            f"the two candidates answered different items ({len(a.items)} and {len(b.items)}, "
            f"{len(np.intersect1d(a.items, b.items))} in common); judge both at the same fidelity"
        )
    # the numbers are places in a split: the same place of another split is another item
    for name in ("labels", "text_bytes"):
        if not _same(getattr(a, name), getattr(b, name)):
            raise BadRequest(
                f"the two candidates' items have the same numbers but other {name}; "
                "judge both on the same split of the same data"
            )
    if len(a.items) < 2:
        raise BadRequest("a comparison needs at least two items")


def _same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one, other))


def _right_or_wrong(differences: np.ndarray) -> Difference:
    from scipy.stats import binomtest, norm

    n = len(differences)
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    p = binomtest(better, better + worse).pvalue if better + worse else 1.0
    # Bonett and Price: one item added to each side, two to the whole
    up, down = (better + 1) / (n + 2), (worse + 1) / (n + 2)
    stderr = contrast_stderr(differences, right_or_wrong=True)
    reach = float(norm.ppf(0.975)) * stderr
    centre = up - down
    return Difference(
        mean=float(differences.mean()),
        stderr=stderr,
        low=max(centre - reach, -1.0),
        high=min(centre + reach, 1.0),
        n=n,
        p=float(p),
    )


def _student(differences: np.ndarray) -> Difference:
    from scipy.stats import t

    n = len(differences)
    mean, stderr = float(differences.mean()), float(differences.std(ddof=1) / math.sqrt(n))
    reach = float(t.ppf(0.975, n - 1)) * stderr
    # no spread: t is infinite, or 0 / 0 where the two answered alike
    ratio = abs(mean) / stderr if stderr else math.copysign(math.inf, mean) if mean else 0.0
    p = 2 * float(t.sf(ratio, n - 1))
    return Difference(mean, stderr, mean - reach, mean + reach, n, p)
