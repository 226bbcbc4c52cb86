"""Which points are repeated, and which of a front are confirmed."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from paretune.evaluators.measurement import Measurement
from paretune.search import confirm
from paretune.search.driver import Done, Wait
from paretune.search.pooled import pooled, seed_range, seeds_of
from paretune.search.records import Ask, Record, Rung
from paretune.search.run import ObjectiveRow
from paretune.search.select import current_front
from paretune.spaces.configuration import Choice, Configuration

LOSSES = np.array([[0.1, 90e6], [0.2, 50e6], [0.3, 49e6], [0.4, 10e6]])


def test_the_ends_of_a_front_are_not_the_first_to_be_dropped(monkeypatch):
    records = [Record(number, Configuration(), "final") for number in range(1, 5)]
    front = SimpleNamespace(judged=records, on=np.ones(4, dtype=bool), losses=LOSSES)
    monkeypatch.setattr(confirm, "current_front", lambda knowledge: front)
    monkeypatch.setattr(confirm, "recommend", lambda knowledge: 2)
    study = SimpleNamespace(seed=0, confirm=SimpleNamespace(points=3, seeds=0))
    storage = SimpleNamespace(records={record.number: record for record in records})
    wanted = confirm.confirmations(SimpleNamespace(study=study, storage=storage))
    assert sorted(wanted) == [(1, 0), (2, 0), (4, 0)]


ROWS = (
    ObjectiveRow("accuracy", "fraction", "maximize"),
    ObjectiveRow("model_bytes", "byte", "minimize"),
)
SIZES = {0: 90e6, 1: 50e6, 2: 30e6, 3: 29e6, 4: 10e6}
ACCURACIES = {0: 0.80, 1: 0.79, 2: 0.78, 3: 0.779, 4: 0.30}


def judged(number: int, accuracy: float, seed: int = 0, purpose: str = "search") -> Record:
    configuration = Configuration.of(finetuning=Choice.of("lora", rank=4 + number))
    figures = {
        "accuracy": Measurement(accuracy, "fraction", "measured", 0.004, 400, "items"),
        "model_bytes": Measurement(SIZES[number], "byte", "exact"),
    }
    rung = Rung(0, figures, 1.0)
    return Record(number, configuration, "final", seed, purpose, (rung,))  # type: ignore[arg-type]


class Ended:
    """A search that has ended: trials 2 and 3 are a near-tie, 4 is settled."""

    def __init__(self, near_ties: int) -> None:
        records = {n: judged(n, a, 0, "search" if n else "baseline") for n, a in ACCURACIES.items()}
        self.storage = SimpleNamespace(records=records, confirmations={}, beat=lambda: None)
        self.storage.confirm = self.keep
        wanted = SimpleNamespace(near_ties=near_ties, points=12, seeds=0)
        rungs = SimpleNamespace(rungs=(1.0,))
        self.study = SimpleNamespace(
            seed=0, confirm=wanted, fidelity=rungs, objective_rows=lambda: ROWS
        )

    def violations(self, record: Record) -> dict[str, float]:
        return {}

    def keep(self, record: Record) -> None:
        made = self.storage.confirmations.get(record.number, ())
        self.storage.confirmations[record.number] = (*made, record)


def by_seed(number: int, seed: int) -> float:
    return ACCURACIES[number] + 0.001 * (-1) ** seed


def repeated_all(ended: Ended, accuracy=by_seed) -> list[tuple[int, int]]:
    """Every repeat that the confirmer asks for, made."""
    further = partial(confirm.near_tie, ended)
    repeater = confirm.Confirmer(ended.storage, further(), 0, further, "repeat")
    asked = []
    while isinstance(ask := repeater.next(), Ask):
        assert isinstance(repeater.next(), Wait), "one at a time"
        asked.append((ask.number, ask.seed))
        made = judged(ask.number, accuracy(ask.number, ask.seed), ask.seed, ask.purpose)
        repeater.tell(replace(made, state="running"))
    assert isinstance(repeater.next(), Done)
    return asked


def test_nothing_is_repeated_unless_asked_for():
    assert confirm.near_tie(Ended(0)) == []


def test_what_is_undecided_is_repeated_within_the_bound_each_under_a_new_seed():
    ended = Ended(5)
    asked = repeated_all(ended)
    assert len(asked) == len(set(asked)) == 5
    assert {2, 3} <= {number for number, _ in asked} <= {1, 2, 3}, "4 and the baseline are settled"
    for number in {number for number, _ in asked}:
        seeds = [seed for n, seed in asked if n == number]
        assert seeds == list(range(1, len(seeds) + 1))


def test_an_interrupted_repetition_goes_on_as_it_would_have():
    whole, broken = Ended(4), Ended(2)
    asked = repeated_all(whole)
    begun = repeated_all(broken)
    broken.study.confirm.near_ties = 4
    assert [*begun, *repeated_all(broken)] == asked


def test_figures_of_the_test_split_decide_no_repeat():
    ended = Ended(1)
    before = confirm.near_tie(ended)
    ended.keep(judged(3, 0.1, 0, "confirm"))
    assert confirm.near_tie(ended) == before


def test_repeats_decide_the_front_by_their_means():
    ended = Ended(6)
    repeated_all(ended, lambda n, seed: 0.70 if n == 2 else by_seed(n, seed))
    front = current_front(ended)
    again = next(record for record in front.judged if record.number == 2)
    assert again.value("accuracy") < 0.779
    assert 2 not in {record.number for record in front.records}


def test_a_trial_that_no_seed_changes_is_not_repeated_twice():
    asked = repeated_all(Ended(6), lambda number, seed: ACCURACIES[number])
    assert len(asked) == len({number for number, _ in asked})


def test_a_repeat_that_failed_counts_and_is_no_figure():
    ended = Ended(1)
    ((number, seed),) = confirm.near_tie(ended)
    ended.keep(replace(judged(number, 0.1, seed, "repeat"), state="failed"))
    assert confirm.near_tie(ended) == []
    front = current_front(ended)
    assert next(r for r in front.judged if r.number == number) == ended.storage.records[number]


def test_means_keep_the_items_error_and_add_that_of_the_seeds():
    found = pooled(judged(2, 0.78), [judged(2, 0.72, 1), judged(2, 0.75, 2)])
    accuracy, size = found.measurements["accuracy"], found.measurements["model_bytes"]
    assert accuracy.value == pytest.approx(0.75)
    assert accuracy.stderr == pytest.approx(np.hypot(0.004, 0.03 / np.sqrt(3)))
    assert (seeds_of(accuracy), seed_range(accuracy)) == (3, (0.72, 0.78))
    assert (size, seeds_of(size)) == (judged(2, 0.78).measurements["model_bytes"], 1)
