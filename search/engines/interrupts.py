"""Ctrl-C: once to finish what is under way, twice to stop now."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ..events import Event, Listener


@contextmanager
def interrupts(listen: Listener) -> Iterator[Callable[[], bool]]:
    """Counts Ctrl-C: the first is remembered, the second raises KeyboardInterrupt.

    Yields:
        Whether it was pressed.
    """
    pressed: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        if len(pressed) > 1:
            raise KeyboardInterrupt
        listen(Event("message", "finishing what is under way; press Ctrl-C again to stop now"))

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread hears signals
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
