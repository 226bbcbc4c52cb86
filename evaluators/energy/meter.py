"""Meter: what joules are read from. A meter that is absent is an object that says why.

A meter is a counter of joules since it was made, and knows the draw of what it sees when nothing
runs. Hardware counters are `measured`; a model of the processor's draw is `modelled`, and states
what it took for granted; the two are never ranked beside each other.
"""

from __future__ import annotations

from typing import Literal, Protocol

Facts = tuple[tuple[str, str | int | float], ...]
MeterSource = Literal["measured", "modelled"]


class Meter(Protocol):
    """A counter of joules.

    Attributes:
        name: what is read.
        source: `measured` or `modelled`; None: nothing can be read, `reason` says why.
        block_s: seconds that two readings should lie apart: long beside the counter's refresh.
    """

    name: str
    source: MeterSource | None
    reason: str | None
    block_s: float

    def joules(self) -> float:
        """Energy since the meter was made, idle draw included; never falls."""
        ...

    def idle_watts(self) -> float:
        """Draw of what the meter sees when nothing runs; may take a second."""
        ...

    def assumptions(self) -> Facts:
        """What the figures take for granted, as sorted pairs; empty for hardware counters."""
        ...


class NoMeter:
    """The meter of a machine that has none."""

    name = "none"
    source: MeterSource | None = None
    block_s = 0.0

    def __init__(self, reason: str) -> None:
        self.reason: str | None = reason

    def joules(self) -> float:
        """Always refused: read `source` first.

        Raises:
            RuntimeError: there is nothing to read.
        """
        raise RuntimeError(f"no energy can be read: {self.reason}")

    def idle_watts(self) -> float:
        """As `joules`.

        Raises:
            RuntimeError: there is nothing to read.
        """
        return self.joules()

    def assumptions(self) -> Facts:
        """None."""
        return ()
