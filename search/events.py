"""Events: what happens during a search, for the live display and the run's log."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import StorageFailed

Kind = Literal["asked", "step", "told", "message", "warning"]

Report = Callable[[str, int, int], None]
"""Told `(what, done, total)` by the work of one trial."""


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Args:
        kind: `asked` and `told` mark a trial's work; `step` is progress within it; `message` is
            for a person to read, and so is `warning`, which is not to be missed.
        text: the step's name, the trial's state, or the message.
        number: the trial, None where it is about the search.
        done, total: progress of a step; 0 of 0 where it cannot be told.
        at: unix time.
        seed: of the work that is `asked` or `told`. rung: of the work that is `asked`.
    """

    kind: Kind
    text: str
    number: int | None = None
    done: int = 0
    total: int = 0
    at: float = field(default_factory=time.time)
    seed: int | None = None
    rung: int | None = None


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener of a search that nobody watches."""


def paced(
    report: Report, seconds: float = 1.0, clock: Callable[[], float] = time.monotonic
) -> Report:
    """Passes on where a step begins and ends, and of what lies between one report in a while.

    Args:
        report: told less.
        seconds: between two reports of one step.
        clock: seconds that pass.
    """
    said, at = "", -math.inf

    def tell(what: str, done: int, total: int) -> None:
        nonlocal said, at
        if what == said and done != total and clock() - at < seconds:
            return
        said, at = what, clock()
        report(what, done, total)

    return tell


def log_to(path: Path) -> Listener:
    """A listener that adds a line of JSON for every event but progress within a step.

    Raises:
        StorageFailed: by the listener, when the file cannot be written.
    """

    def listen(event: Event) -> None:
        if event.kind == "step" and event.done:
            return
        told = asdict(event)
        idle = {name for name in ("done", "total") if not told[name]}
        line = json.dumps({k: v for k, v in told.items() if v is not None and k not in idle})
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise StorageFailed(
                f"cannot write {path}: {error}; free some space or make it writable, then resume"
            ) from error

    return listen
