"""Progress: the figures of a search that is going on, and the two ways in which they are shown."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from paretune.evaluators.measurement import Measurement
from paretune.evaluators.metric import StageCost
from paretune.search.budget import Budget, Spent
from paretune.search.events import Event
from paretune.search.front import losses_of
from paretune.search.progress import _Display, _Lines, follow, standing
from paretune.search.records import Failure, Purpose, Record, Rung, State
from paretune.search.run import ObjectiveRow
from paretune.spaces.configuration import Configuration

ROWS = (
    ObjectiveRow("accuracy", "fraction", "maximize"),
    ObjectiveRow("model_bytes", "byte", "minimize"),
)
SPENT = Spent(trials=4, minutes=2.0, trainings=1, kwh=0.25, money=None)


def record(
    number: int,
    accuracy: float | None = None,
    size: float = 100.0,
    state: State = "final",
    purpose: Purpose = "search",
    **more: Any,
) -> Record:
    figures = {"model_bytes": Measurement(size, "byte", "exact")}
    if accuracy is not None:
        figures["accuracy"] = Measurement(accuracy, "fraction", "measured")
    rungs = () if state in ("running", "failed") else (Rung(0, figures, 1.0),)
    return Record(number, Configuration(), state, purpose=purpose, rungs=rungs, **more)


def losses(item: Record) -> list[float] | None:
    return losses_of(item, ROWS)


def stood(records: list[Record], reference: list[float] | None = None, **budget: Any):
    return standing(records, ROWS, losses, reference, Budget(**budget), SPENT)


RECORDS = [
    record(0, 0.9, 400.0, purpose="baseline"),
    record(1, 0.8, 200.0),
    record(2, 0.7, 100.0),
    record(3, 0.95, 300.0, state="paused"),
    record(4, state="failed", failure=Failure("crashed", "a\nb")),
    record(5, state="running"),
]


def test_search_trials_are_counted_by_state_and_the_baseline_is_none_of_them():
    now = stood(RECORDS)
    assert (now.done, now.paused, now.failed) == (2, 1, 1)


def test_the_best_figures_are_of_final_trials_in_the_metrics_own_direction_and_unit():
    assert dict(stood(RECORDS).best) == {"accuracy": "90.0 %", "model_bytes": "100 B"}


def test_there_is_no_best_before_a_trial_has_ended():
    now = stood([RECORDS[5]])
    assert now.best == ()
    assert now.hypervolume is None


def test_the_hypervolume_is_taken_below_the_reference_once_it_is_known():
    assert stood(RECORDS).hypervolume is None
    # boxes below (-0.6, 500): 0.3 x 100, and 0.2 x 200 and 0.1 x 100 beyond it
    assert stood(RECORDS, [-0.6, 500.0]).hypervolume == pytest.approx(30 + 40 + 10)


def test_a_final_trial_without_a_figure_stands_nowhere():
    now = stood([record(1, None)], [-0.6, 500.0])
    assert (now.done, now.best, now.hypervolume) == (1, (), None)


def test_stages_that_were_found_made_are_counted():
    stages = tuple(StageCost(str(i), "train", 1.0, True, cached=i > 0) for i in range(3))
    now = stood([record(1, 0.8, stages=stages)])
    assert (now.cached, now.stages) == (2, 3)


def test_what_is_left_is_said_of_budgets_that_have_a_limit_and_are_known():
    now = stood(RECORDS, trials=10, minutes=1.5, kwh=1.0, money=5.0)
    assert now.left == ("6 trials", "0 minutes", "0.75 kWh")


@dataclass
class Known:
    """As much of a search as the displays look at."""

    records: dict[int, Record] = field(default_factory=dict)
    confirmations: dict[int, tuple[Record, ...]] = field(default_factory=dict)

    @property
    def storage(self) -> Any:
        return self

    @property
    def study(self) -> Any:
        budget = SimpleNamespace(spec=lambda: Budget(trials=10))
        fidelity = SimpleNamespace(rungs=(0.25, 1.0))
        return SimpleNamespace(objective_rows=lambda: ROWS, budget=budget, fidelity=fidelity)

    def losses(self, item: Record) -> list[float] | None:
        return losses(item)

    def reference_losses(self) -> list[float]:
        return [-0.6, 500.0]

    def spent(self) -> Spent:
        return SPENT


@pytest.fixture
def known() -> Any:
    return Known({item.number: item for item in RECORDS})


def lines(known: Any, capsys: pytest.CaptureFixture[str], *events: Event) -> list[str]:
    show = _Lines(known)
    for event in events:
        show(event)
    out, err = capsys.readouterr()
    assert out == ""
    return [line.split(" s  ", 1)[1] for line in err.splitlines()]


def test_off_a_terminal_there_is_a_line_for_what_happens_and_none_for_steps(
    known: Any, capsys: pytest.CaptureFixture[str]
):
    assert lines(
        known,
        capsys,
        Event("asked", "baseline", 0),
        Event("step", "train", 0, 3, 10),
        Event("told", "final", 0),
        Event("asked", "search", 4, rung=1),
        Event("told", "failed: crashed", 4),
        Event("message", "all of the budget was begun: 4 trials and the baseline"),
    ) == [
        "trial 0 begins: the baseline",
        "trial 0 final: accuracy 90.0 %, model_bytes 400 B",
        "trial 4 begins: as it is, rung 100%",
        "trial 4 failed: crashed: b",
        "all of the budget was begun: 4 trials and the baseline",
    ]


def test_a_repeat_shows_its_own_figures_not_the_trial_s(
    known: Any, capsys: pytest.CaptureFixture[str]
):
    known.confirmations[1] = (record(1, 0.77, purpose="confirm", seed=3),)
    events = [Event("asked", "confirm", 1, seed=3), Event("told", "final", 1, seed=3)]
    assert lines(known, capsys, *events) == [
        "trial 1, test split, seed 3, begins: as it is",
        "trial 1, test split, seed 3, final: accuracy 77.0 %, model_bytes 100 B",
    ]


def test_what_is_under_way_is_said_when_nothing_else_was_for_a_while(
    known: Any, capsys: pytest.CaptureFixture[str]
):
    time = [0.0]
    show = _Lines(known, clock=lambda: time[0])
    show(Event("asked", "search", 5))
    for at, number, done in ((29.0, 5, 2), (30.0, 4, 3), (31.0, 5, 4), (60.0, 5, 9)):
        time[0] = at
        show(Event("step", "train.finetune", number, done, 10))
    show(Event("told", "failed", 4))
    time[0] = 95.0
    show(Event("step", "train.finetune", 5, 10, 10))
    said = [line.strip() for line in capsys.readouterr().err.splitlines()]
    assert [line for line in said if "train" in line] == [
        "30.0 s  trial 4: train.finetune 3/10, trial 5: train.finetune 2/10",
        "60.0 s  trial 4: train.finetune 3/10, trial 5: train.finetune 9/10",
        "95.0 s  trial 5: train.finetune 10/10",
    ]


def test_the_live_display_shows_figures_work_under_way_and_the_last_message(known: Any):
    from rich.console import Console

    display = _Display(known, known)
    display.hear(Event("asked", "search", 5))
    display.hear(Event("step", "train.finetune", 5, 3, 10))
    display.hear(Event("asked", "search", 6))
    display.hear(Event("told", "final", 6))
    display.hear(Event("warning", "nothing was learnt"))
    display.hear(Event("message", "finishing what is under way"))
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(display.draw())
    text = console.export_text()
    for part in (
        "2 final, 1 paused, 1 failed",
        "accuracy 90.0 %, model_bytes 100 B",
        "hypervolume  80",
        "0 of 0 found made",
        "6 trials",
        "trial 5: train.finetune 3/10",
        "warning: nothing was learnt",
        "finishing what is under way",
    ):
        assert part in text
    assert "trial 6" not in text


def test_a_quiet_search_shows_nothing(known: Any, capsys: pytest.CaptureFixture[str]):
    with follow(known, known, quiet=True) as show:
        show(Event("told", "final", 1))
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_lines_are_shown(known: Any, capsys: pytest.CaptureFixture[str]):
    with follow(known, known, quiet=False) as show:
        show(Event("told", "final", 1))
    assert "trial 1 final: accuracy 80.0 %" in capsys.readouterr().err
