"""Waits: seconds in which a process did nothing but wait for others, told from its own work.

What a trial costs and how long it may take leave them out. One count per process, as a worker does
one thing at a time; the process that limits it reads along.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import Array, c_double


class Waits:
    """The count of one process.

    Args:
        cells: seconds of the waits that are over, and when the present one began (0: there is
            none); shared memory where another process reads along, None: memory of its own.
    """

    def __init__(self, cells: Array[c_double] | None = None) -> None:
        self.cells = (c_double * 2)() if cells is None else cells

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the seconds of the block; such blocks are never inside each other."""
        began = self.cells[1] = time.monotonic()
        try:
            yield
        finally:
            # in this order: who reads in between sees too much for a moment, never too little
            self.cells[0] += time.monotonic() - began
            self.cells[1] = 0.0

    def seconds(self) -> float:
        """Seconds waited so far, the present wait's included."""
        began, over = self.cells[1], self.cells[0]
        # this clock is the host's: another process may have read the beginning off it
        return float(over + (time.monotonic() - began if began else 0.0))

    def stopwatch(self) -> Callable[[], float]:
        """A clock of own work: seconds from now on, less those that were waited."""
        started, before = time.monotonic(), self.seconds()
        return lambda: time.monotonic() - started - (self.seconds() - before)


WAITS = Waits()
"""This process's own."""
