"""HostLock: training and measuring share a host without spoiling each other's figures.

A read/write lock across processes. Training holds the shared side step by step; a measurement takes
the exclusive side with priority: while one waits, trainers stop at their next turn. The locks are
the kernel's (`flock`), so they die with the process that holds them.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .waits import WAITS

POLL_SECONDS: Final = 0.05


class Turns:
    """A trainer's hold on the host, from `HostLock.training`."""

    def __init__(self, gate: int, host: int) -> None:
        self._gate = gate
        self._host = host

    def turn(self) -> float:
        """Lets a waiting measurement go first; called between two training steps.

        Returns:
            Seconds waited, to be left out of the training time.
        """
        try:
            fcntl.flock(self._gate, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            started = time.monotonic()
            fcntl.flock(self._host, fcntl.LOCK_UN)
            self.enter()
            return time.monotonic() - started
        fcntl.flock(self._gate, fcntl.LOCK_UN)
        return 0.0

    def enter(self, patience_s: float | None = None) -> None:
        """Takes the shared side, behind every measurement that waits.

        Args:
            patience_s: goes on without it after so many seconds; None: waits for it.
        """
        with WAITS.waiting():
            if not _shared(self._gate, patience_s):
                return
            try:
                fcntl.flock(self._host, fcntl.LOCK_SH)
            finally:
                fcntl.flock(self._gate, fcntl.LOCK_UN)


class HostLock:
    """The lock of one host.

    Two files: `host` is what is held; `gate` is held by a measurement from when it begins to wait,
    and passed by trainers on their way in. That is the priority.

    Args:
        folder: where the two files lie; the same for every process of the host.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def training(self, patience_s: float | None = None) -> Iterator[Turns]:
        """Holds the shared side; call `turn()` between steps.

        A process must not hold it twice: a measurement that waits in between would stop both.

        Args:
            patience_s: goes on without it after so many seconds, for who must not be held up by a
                measurement that hangs; None: waits for it.
        """
        with self._file("gate") as gate, self._file("host") as host:
            turns = Turns(gate, host)
            turns.enter(patience_s)
            yield turns

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Holds the host alone: waits until every trainer has come to its next turn.

        A process must not measure while it trains: it would wait for itself.
        """
        with self._file("gate") as gate, self._file("host") as host:
            with WAITS.waiting():
                fcntl.flock(gate, fcntl.LOCK_EX)
                fcntl.flock(host, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _file(self, name: str) -> Iterator[int]:
        # one open file per hold: flock belongs to the open file, and closing it lets go
        self._folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(
            self._folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
        )
        try:
            yield handle
        finally:
            os.close(handle)


def _shared(handle: int, patience_s: float | None) -> bool:
    """Takes a lock's shared side; false where that took too long."""
    if patience_s is None:
        fcntl.flock(handle, fcntl.LOCK_SH)
        return True
    end = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(POLL_SECONDS)
        else:
            return True
