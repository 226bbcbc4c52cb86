"""The probe: how fast this machine is just now, whatever model is timed on it.

Two timing sessions tell apart two models only where the machine was the same. A fixed piece of work
is timed beside each session: what its seconds differ by, the machine differed by.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

import numpy as np

ALIKE: Final = 0.1
"""Share by which two probes may differ before the latencies beside them count as doubtful."""

REPEATS: Final = 20


def probe_seconds(clock: Callable[[], float] = time.perf_counter) -> float:
    """Median seconds of the fixed work: arithmetic in the caches, then a pass over 16 MB.

    One thread, whatever libraries are told: element by element, NumPy starts no others. Takes a
    twentieth of a second.
    """
    small = np.linspace(0.0, 1.0, 65_536, dtype=np.float32)
    large = np.ones(4_194_304, dtype=np.float32)
    seconds = []
    for _ in range(REPEATS + 2):
        started = clock()
        for _ in range(4):
            np.exp(small)
        large.sum()
        seconds.append(clock() - started)
    return float(np.median(seconds[2:]))


def drift(mine: float | None, theirs: float | None) -> float | None:
    """How many times as long the probe took; None where the two are alike, or not both known.

    >>> drift(1.3, 1.0), drift(1.05, 1.0), drift(1.0, None)
    (1.3, None, None)
    """
    if not mine or not theirs or abs(math.log(mine / theirs)) <= math.log1p(ALIKE):
        return None
    return mine / theirs
