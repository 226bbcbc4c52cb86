"""Progress: what a person sees while a search runs; a live display, or plain lines off a terminal.

`standing` is the tested part: the figures. What draws them is dumb.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from ..spaces.names import in_short
from .budget import IN_WORDS, Budget, Spent
from .events import Event, Listener, ignore
from .pareto import hypervolume
from .records import Record
from .run import ObjectiveRow
from .units import readable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from .driver import Driver
    from .rules import Knowledge


HEARTBEAT_SECONDS: Final = 30.0
"""Silence after which a line says what is under way."""


@dataclass(frozen=True)
class Standing:
    """How a search stands.

    Args:
        done, failed, paused: search trials by state.
        best: objective name to its best figure so far, with unit.
        hypervolume: of the final trials, None before the reference point is frozen.
        cached, stages: stages that trials found made, of all that they rest on.
        left: what remains of each budget, in words.
    """

    done: int
    failed: int
    paused: int
    best: tuple[tuple[str, str], ...]
    hypervolume: float | None
    cached: int
    stages: int
    left: tuple[str, ...]


class Losses(Protocol):
    """A record's objective figures, lower is better; None where one is missing."""

    def __call__(self, record: Record) -> Sequence[float] | None:
        """The figures."""
        ...


def standing(
    records: Sequence[Record],
    rows: Sequence[ObjectiveRow],
    losses: Losses,
    reference: Sequence[float] | None,
    budget: Budget,
    spent: Spent,
) -> Standing:
    """The figures of a search's progress.

    Args:
        records: every trial.
        rows: the objectives.
        losses: of a record.
        reference: as losses, None while it is not frozen.
        budget, spent: limits and what was used.
    """
    states = [record.state for record in records if record.purpose == "search"]
    final = [loss for r in records if r.state == "final" and (loss := losses(r)) is not None]
    points = np.array(final).reshape(-1, len(rows))
    volume = None
    if reference is not None and len(points):
        volume = hypervolume(points, np.array(reference))
    stages = [stage for record in records for stage in record.stages]
    return Standing(
        done=states.count("final"),
        failed=states.count("failed"),
        paused=states.count("paused"),
        best=tuple(_best(row, points[:, i]) for i, row in enumerate(rows) if len(points)),
        hypervolume=volume,
        cached=sum(stage.cached for stage in stages),
        stages=len(stages),
        left=tuple(_left(budget, spent)),
    )


@contextmanager
def follow(knowledge: Knowledge, driver: Driver, *, quiet: bool) -> Iterator[Listener]:
    """A listener that shows a search on standard error while the block runs.

    Args:
        knowledge, driver: of the search.
        quiet: shows nothing.
    """
    if quiet:
        yield ignore
    elif sys.stderr.isatty():
        with _Display(knowledge, driver).live() as listener:
            yield listener
    else:
        yield _Lines(knowledge)


@dataclass
class _Lines:
    """One line per thing that happened."""

    knowledge: Knowledge
    clock: Callable[[], float] = time.monotonic
    purposes: dict[int, str] = field(default_factory=dict)
    doing: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.started = self.spoke = self.clock()

    def __call__(self, event: Event) -> None:
        now = self.clock()
        text = self._step(event, now) if event.kind == "step" else self._text(event)
        if text:
            self.spoke = now
            print(f"{now - self.started:7.1f} s  {text}", file=sys.stderr, flush=True)

    def _step(self, event: Event, now: float) -> str:
        """What is under way, once in a while; nothing in between."""
        assert event.number is not None
        self.doing[event.number] = _step_in_words(event)
        if now - self.spoke < HEARTBEAT_SECONDS:
            return ""
        return ", ".join(f"trial {n}: {what}" for n, what in sorted(self.doing.items()))

    def _text(self, event: Event) -> str:
        if event.number is None:
            return f"warning: {event.text}" if event.kind == "warning" else event.text
        number, trial = event.number, self.knowledge.storage.records[event.number]
        if event.kind == "asked":
            self.purposes[number] = event.text
        purpose = self.purposes.get(number)
        repeat = purpose in ("confirm", "repeat")
        where = ", test split" if purpose == "confirm" else ""
        name = f"trial {number}" + (f"{where}, seed {event.seed}," if repeat else "")
        if event.kind == "asked":
            what = "the baseline" if trial.purpose == "baseline" else in_short(trial.configuration)
            return f"{name} begins: {what}{self._share(event) if event.text == 'search' else ''}"
        self.doing.pop(number, None)
        record = self._repeat(event, purpose) if repeat else trial
        return f"{name} {event.text}{_figures(self.knowledge, record) if record else ''}"

    def _share(self, event: Event) -> str:
        """At which share of full fidelity, where a study has several."""
        rungs = self.knowledge.study.fidelity.rungs
        return f", rung {rungs[event.rung or 0]:.0%}" if len(rungs) > 1 else ""

    def _repeat(self, event: Event, purpose: str | None) -> Record | None:
        made = self.knowledge.storage.confirmations.get(event.number or 0, ())
        which = (purpose, event.seed)
        return next((record for record in made if (record.purpose, record.seed) == which), None)


@dataclass
class _Display:
    """The live display: a table of figures and what each trial under way is doing."""

    knowledge: Knowledge
    driver: Driver
    doing: dict[int, str] = field(default_factory=dict)
    said: str = ""
    warnings: list[str] = field(default_factory=list)

    @contextmanager
    def live(self) -> Iterator[Listener]:
        """Draws until the block ends."""
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        with Live(get_renderable=self.draw, console=console, refresh_per_second=2, transient=False):
            yield self.hear

    def hear(self, event: Event) -> None:
        """Takes in an event."""
        if event.kind == "warning":
            self.warnings.append(event.text)
        elif event.number is None:
            self.said = event.text
        elif event.kind == "told":
            self.doing.pop(event.number, None)
        else:
            self.doing[event.number] = _step_in_words(event)

    def draw(self) -> RenderableType:
        """The display as it is now."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        known = self.knowledge
        now = standing(
            list(known.storage.records.values()),
            known.study.objective_rows(),
            known.losses,
            known.reference_losses(),
            known.study.budget.spec(),
            self.driver.spent(),
        )
        table = Table.grid(padding=(0, 2))
        for name, value in _rows(now):
            table.add_row(Text(name, style="bold"), Text(value))
        doing = [Text(f"trial {n}: {what}") for n, what in sorted(self.doing.items())]
        warned = [Text(f"warning: {text}", style="bold yellow") for text in self.warnings]
        return Group(table, *warned, *doing, Text(self.said, style="dim"))


def _step_in_words(event: Event) -> str:
    return f"{event.text} {event.done}/{event.total}" if event.total else event.text


def _rows(now: Standing) -> Iterator[tuple[str, str]]:
    yield "trials", f"{now.done} final, {now.paused} paused, {now.failed} failed"
    if now.best:
        yield "best", ", ".join(f"{name} {value}" for name, value in now.best)
    if now.hypervolume is not None:
        yield "hypervolume", f"{now.hypervolume:.5g}"
    yield "stages", f"{now.cached} of {now.stages} found made"
    if now.left:
        yield "left", ", ".join(now.left)


def _best(row: ObjectiveRow, losses: Any) -> tuple[str, str]:
    value = row.sign * float(losses.min())
    return row.name, readable(value, row.unit)


def _left(budget: Budget, spent: Spent) -> Iterator[str]:
    for name in IN_WORDS:
        limit, used = getattr(budget, name), getattr(spent, name)
        if limit is not None and used is not None:
            yield f"{max(limit - used, 0):.3g} {IN_WORDS[name]}"


def _figures(knowledge: Knowledge, record: Record) -> str:
    if record.failure is not None:
        return f": {record.failure.last_words}"
    rows = knowledge.study.objective_rows()
    known = [(row, record.value(row.name)) for row in rows]
    figures = ", ".join(f"{row.name} {readable(v, row.unit)}" for row, v in known if v is not None)
    return f": {figures}" if figures else ""
