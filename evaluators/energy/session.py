"""Energy of one answer: blocks of repeats between two readings of a meter, idle draw subtracted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from ..metric import Power
from .meter import Meter

BLOCKS: Final = 5


def measure_power(
    meter: Meter,
    answer: Callable[[], object],
    *,
    blocks: int = BLOCKS,
    clock: Callable[[], float] = time.monotonic,
) -> Power:
    """Joules above idle that one repeat takes.

    Args:
        meter: from `find_meter`.
        answer: one repeat, warm; from `timing.answering`.
        blocks: how often the meter is read: the standard error is over them; at least 2.
        clock: monotonic seconds.
    """
    if meter.source is None:
        return Power(None, None, meter.name, reason=meter.reason)
    idle = meter.idle_watts()
    figures = [_block(meter, answer, idle, clock) for _ in range(blocks)]
    mean = sum(figures) / blocks
    if mean <= 0:
        reason = f"{meter.name} sees no draw above its idle {idle:.1f} W; is the host idle?"
        return Power(None, None, meter.name, reason=reason)
    variance = sum((figure - mean) ** 2 for figure in figures) / (blocks - 1)
    return Power(
        joules_per_repeat=mean,
        source=meter.source,
        meter=meter.name,
        stderr=math.sqrt(variance / blocks),
        n=blocks,
        idle_watts=idle,
        assumptions=meter.assumptions(),
    )


def _block(
    meter: Meter,
    answer: Callable[[], object],
    idle: float,
    clock: Callable[[], float],
) -> float:
    before, started = meter.joules(), clock()
    repeats, spent = 0, 0.0
    while spent < meter.block_s or repeats == 0:
        answer()
        repeats += 1
        spent = clock() - started
    gross = meter.joules() - before
    return (gross - idle * spent) / repeats
