"""Whose time is whose: a step's clock and name are its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from paretune.search import workshop
from paretune.search.stages import StageStore
from paretune.search.workshop import Workshop
from paretune.spaces.candidate import Candidate
from paretune.spaces.load import Load
from paretune.spaces.lower import Graph, Node
from paretune.spaces.models import inspect_model, profile_of
from paretune.spaces.paper import Paper
from paretune.spaces.steps import Phase
from paretune.spaces.training import FinetuneStep


class Clock:
    """Seconds that pass only where a test says so."""

    now = 0.0

    def passes(self, seconds: float) -> float:
        self.now += seconds
        return seconds


@dataclass(frozen=True)
class SlowLoad:
    """A load of three seconds."""

    load: Load
    clock: Clock
    name = "load"
    version = 1
    draws = False
    reads: frozenset[str] = frozenset({"model"})
    phase: Phase = Phase.LOAD

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def on_paper(self, paper: Paper) -> Paper:
        return self.load.on_paper(paper)

    def apply(self, candidate: Candidate | None, bench: Any, seed: int) -> Candidate:
        self.clock.passes(3)
        return self.load.apply(candidate, bench, seed)


@dataclass(frozen=True)
class Scripted(FinetuneStep):
    """A training that does what a test says."""

    script: Callable[[Any], object] = lambda bench: None
    called: str = "teacher"

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.called

    def run(self, candidate: Candidate, until_step: int, bench: Any, seed: int) -> Candidate:
        self.script(bench)
        return candidate


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    fake = SimpleNamespace(perf_counter=lambda: clock.now)
    monkeypatch.setattr(workshop, "time", fake)
    return clock


def test_what_is_made_or_waited_for_inside_a_step_is_not_its_time(
    tiny_models: dict[str, Path], tmp_path: Path, clock: Clock
):
    source = inspect_model(str(tiny_models["bert"]))
    paper = Paper(profile_of(source, "classification", 3))
    told: list[tuple[str, int, int]] = []

    def teaches(bench: Any) -> None:
        clock.passes(7)

    def learns(bench: Any) -> None:
        clock.passes(1)
        bench.training_turn()
        bench.candidate("teacher")
        bench.candidate("load")  # not stored: made again, in the middle of this step
        bench.progress(1, 2)
        clock.passes(1)

    load = SlowLoad(Load(source, paper.profile), clock)
    nodes = (
        Node("load", load, "model", (), paper, paper),
        Node("teacher", Scripted(teaches), "finetuning", ("load",), paper, paper, 1),
        Node(
            "student",
            Scripted(learns, "student"),
            "recovery",
            ("load", "teacher"),
            paper,
            paper,
            1,
        ),
    )
    store = StageStore(tmp_path, limit_bytes=0)
    shop = Workshop(
        Graph(nodes),
        store,
        None,  # type: ignore[arg-type]  # no step reads data
        0,
        turn=lambda: clock.passes(5),
        report=lambda *row: told.append(row),
    )
    shop.candidate("student")
    seconds = {stage.key: stage.seconds for stage in shop.costs()}
    assert seconds == {"load": 3, "teacher": 7, "student": 2}
    assert ("student", 1, 2) in told
    names = [name for name, done, total in told if not total]
    assert names.index("teacher") < names.index("student")
    # nothing of this graph makes room
    assert {note.key for note in store.entries()} == {"teacher", "student"}
