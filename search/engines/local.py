"""Local: a search on this machine, in worker processes or in this very process."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Final

from ..driver import Done, Source
from ..events import Event, Listener, ignore
from ..records import Ask, Record
from .attempt import Work, attempt
from .interrupts import interrupts
from .slot import Limits, Slot

WAKE_SECONDS: Final = 0.5
"""How often limits are looked at while nothing happens."""

INTERRUPTED: Final = Done("interrupted")


def run_processes(
    source: Source,
    work: Work,
    workers: int = 1,
    limits: Limits | None = None,
    listen: Listener = ignore,
) -> Done:
    """Works until nothing is left to ask.

    Ctrl-C once: no further asks, what is under way is finished. Twice: stops now; what was under
    way is asked again by the next driver.

    Args:
        source: hands out asks and takes records.
        work: picklable; sent to every worker process once.
        workers: processes.
        limits: of every trial.
        listen: told what happens.

    Returns:
        Why it ended.
    """
    slots = [Slot(pickle.dumps(work), limits or Limits()) for _ in range(workers)]
    try:
        with interrupts(listen) as interrupted:
            return _loop(source, slots, listen, interrupted)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        for slot in slots:
            slot.stop()


def run_here(source: Source, work: Work, listen: Listener = ignore) -> Done:
    """Works in this process, one ask after the other: nothing to pickle, nothing to wait for.

    Args:
        source: hands out asks and takes records.
        work: called with every ask.
        listen: told what happens.

    Returns:
        Why it ended.
    """
    try:
        with interrupts(listen) as interrupted:
            while not interrupted():
                ask = source.next()
                if not isinstance(ask, Ask):
                    assert isinstance(ask, Done), "one worker never waits for another"
                    return ask
                listen(Event("asked", ask.purpose, ask.number, seed=ask.seed, rung=ask.rung))
                record = attempt(work, ask, source.prior(ask), _reporter(ask, listen))
                _tell(source, record, listen)
    except KeyboardInterrupt:
        pass
    return INTERRUPTED


def _loop(
    source: Source, slots: list[Slot], listen: Listener, interrupted: Callable[[], bool]
) -> Done:
    while True:
        ended = INTERRUPTED if interrupted() else _fill(source, slots, listen)
        busy = [slot for slot in slots if slot.busy]
        if not busy:
            assert ended is not None, "the driver waits for work that nobody does"
            return ended
        while not any([_hear(source, slot, listen) for slot in busy]):
            wait([handle for slot in busy for handle in slot.handles()], WAKE_SECONDS)
            source.beat()


def _fill(source: Source, slots: list[Slot], listen: Listener) -> Done | None:
    """Gives every free slot something to do; says why where nothing will come any more."""
    for slot in slots:
        if slot.busy:
            continue
        ask = source.next()
        if not isinstance(ask, Ask):
            return ask if isinstance(ask, Done) else None
        listen(Event("asked", ask.purpose, ask.number, seed=ask.seed, rung=ask.rung))
        slot.give(ask, source.prior(ask))
    return None


def _hear(source: Source, slot: Slot, listen: Listener) -> bool:
    """Passes on what a slot has to say; true when it is free again."""
    for message in slot.news():
        if isinstance(message, Event):
            listen(message)
        else:
            _tell(source, message, listen)
    return not slot.busy


def _tell(source: Source, record: Record, listen: Listener) -> None:
    stored = source.tell(record)
    failure = f": {stored.failure.kind}" if stored.failure else ""
    listen(Event("told", f"{stored.state}{failure}", stored.number, seed=stored.seed))


def _reporter(ask: Ask, listen: Listener) -> Callable[[str, int, int], None]:
    def report(what: str, done: int, total: int) -> None:
        listen(Event("step", what, ask.number, done, total))

    return report
