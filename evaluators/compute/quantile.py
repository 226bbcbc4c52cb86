"""Quantiles of a few repeats, with what the repeats say about their uncertainty.

Free of distributional assumptions: latencies are skewed and bounded below. The standard error is
Maritz and Jarrett's (JASA 73, 1978): the exact bootstrap variance of the sample quantile.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def quantile(samples: Sequence[float], share: float) -> tuple[float, float | None]:
    """A quantile and its standard error.

    Args:
        samples: at least one.
        share: in (0, 1); .5 is the median.

    Returns:
        The quantile, and its standard error (None with fewer than three samples).

    >>> quantile([1.0, 1.0, 1.0], 0.5)
    (1.0, 0.0)
    """
    from scipy.special import betainc

    ordered = np.sort(np.asarray(samples, dtype=float))
    n = len(ordered)
    value = float(np.quantile(ordered, share))
    if n < 3:
        return value, None
    rank = min(max(int(share * n + 0.5), 1), n)
    # weight of each order statistic in the bootstrap distribution of the rank-th one
    edges = betainc(rank, n - rank + 1, np.arange(n + 1) / n)
    weights = np.diff(edges)
    mean = float(weights @ ordered)
    return value, float(np.sqrt(weights @ (ordered - mean) ** 2))


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """An interval that holds the median with at least a given confidence: two order statistics.

    Returns:
        Lower and upper end; infinite while there are too few samples for the confidence.

    >>> median_interval([1.0, 2.0, 3.0])
    (-inf, inf)
    """
    from scipy.stats import binom

    ordered = sorted(samples)
    n = len(ordered)
    # largest k with P(fewer than k samples below the median) <= (1 - confidence) / 2
    k = int(binom.ppf((1 - confidence) / 2, n, 0.5))
    if k < 1:
        return -float("inf"), float("inf")
    return ordered[k - 1], ordered[n - k]
