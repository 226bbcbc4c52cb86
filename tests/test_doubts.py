"""What speaks against a run's figures, and that everybody who shows them says it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from paretune.reports.compare import compare, note
from paretune.reports.page.write import page
from paretune.reports.tables import front_json, front_note, status, status_in_words
from paretune.search import session
from paretune.search.doubts import doubts, doubts_between, nothing_learnt, timing_doubts
from paretune.search.events import Event
from paretune.search.front import front_of
from paretune.search.records import Record
from paretune.search.run import Run
from paretune.search.select import select
from report_cases import made_up_run

NAMES = ("accuracy", "latency_p50", "model_bytes")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made_up_run(tmp_path_factory.mktemp("run"), confirmed=(0, 31))


def with_conditions(record: Record, metric: str, **pairs: Any) -> Record:
    """The record with further conditions of one figure."""
    figure = record.measurements[metric]
    known = tuple(sorted({**dict(figure.conditions), **pairs}.items()))
    rung = replace(
        record.rungs[-1],
        measurements={**record.measurements, metric: replace(figure, conditions=known)},
    )
    return replace(record, rungs=(*record.rungs[:-1], rung))


def unlearnt(run: Run, share: float) -> Run:
    assert run.baseline is not None
    return replace(run, baseline=with_conditions(run.baseline, "accuracy", majority_share=share))


def probed(run: Run, number: int, mine: float, baseline: float, **more: Any) -> Run:
    """The run with probes beside the timings of the baseline and of one trial."""
    assert run.baseline is not None
    records = tuple(
        with_conditions(r, "latency_p50", probe_ms=mine, **more) if r.number == number else r
        for r in run.records
    )
    first = with_conditions(run.baseline, "latency_p50", probe_ms=baseline)
    return replace(run, records=records, baseline=first)


def test_a_baseline_within_its_error_of_the_most_frequent_class_has_learnt_nothing(
    run: Run,
) -> None:
    assert run.baseline is not None
    figure = run.baseline.measurements["accuracy"]
    assert figure.value is not None
    assert figure.stderr is not None
    low = figure.value - 1.96 * figure.stderr
    assert nothing_learnt(unlearnt(run, low - 0.01).baseline) is None
    for share in (low + 0.001, figure.value, 0.99):
        said = nothing_learnt(unlearnt(run, share).baseline)
        assert said is not None
        assert f"{100 * share:.1f} % of the items are of the most frequent class" in said


def test_a_baseline_of_which_no_share_is_known_is_not_doubted(run: Run) -> None:
    assert run.baseline is not None
    assert nothing_learnt(run.baseline) is None
    assert nothing_learnt(None) is None
    failed = replace(unlearnt(run, 0.99).baseline or run.baseline, state="failed")
    assert nothing_learnt(failed) is None


def test_status_front_and_page_say_that_the_baseline_has_learnt_nothing(run: Run) -> None:
    told = "has learnt nothing that shows"
    assert status_in_words(run)["warnings"] == "none"
    bad = unlearnt(run, 0.9)
    assert told in status(bad)["warnings"][0]
    assert told in status_in_words(bad)["warnings"]
    assert told in front_note(bad)
    assert told in front_json(bad)["warnings"][0]
    head = page(bad).split('id="front-heading"')[0]
    assert told in head
    assert told not in page(run)


def test_a_listener_is_warned_once_as_soon_as_the_baseline_is_judged(run: Run) -> None:
    storage: Any = SimpleNamespace(records={})
    heard: list[Event] = []
    listen = session._warned(storage, heard.append)
    listen(Event("asked", "baseline", 0))
    baseline = unlearnt(run, 0.9).baseline
    assert baseline is not None
    storage.records[0] = baseline
    for _ in range(2):
        listen(Event("told", "final", 0))
    assert [event.kind for event in heard] == ["asked", "told", "warning", "told"]
    assert heard[2].text == nothing_learnt(baseline)


@pytest.mark.parametrize(
    ("mine", "pace"),
    [(1.05, ""), (0.95, ""), (1.3, "trial 31 (1.30 times as slow)"), (0.8, "(1.25 times as fast)")],
)
def test_latencies_of_another_machine_than_the_baseline_s_are_doubtful(
    run: Run, mine: float, pace: str
) -> None:
    moved = probed(run, 31, mine, 1.0)
    found = timing_doubts(moved, moved.records, NAMES)
    assert [pace in told for told in found] == [True] * bool(pace)


def test_what_was_not_timed_has_no_doubts(run: Run) -> None:
    slow = probed(run, 31, 2.0, 1.0)
    assert timing_doubts(slow, slow.records, ["accuracy", "model_bytes"]) == []
    others = [record for record in slow.records if record.number != 31]
    assert timing_doubts(slow, others, NAMES) == []


def test_the_baseline_s_own_timing_is_told_whoever_is_shown(run: Run) -> None:
    assert run.baseline is not None
    busy = with_conditions(run.baseline, "latency_p50", cpu_share=0.5)
    assert "doubtful: the baseline" in doubts(replace(run, baseline=busy), [], NAMES)[0]


def test_confirmations_are_compared_with_the_baseline_s_confirmation(run: Run) -> None:
    again = {
        number: tuple(with_conditions(r, "latency_p50", probe_ms=at) for r in repeats)
        for (number, repeats), at in zip(sorted(run.confirmations.items()), (1.0, 1.5), strict=True)
    }
    (told,) = timing_doubts(replace(run, confirmations=again), run.records, NAMES)
    assert "timed when confirmed while the machine itself was slower or faster" in told
    assert told.endswith("trial 31 (1.50 times as slow)")


def test_runs_on_machines_of_another_pace_do_not_compare_in_latency(run: Run) -> None:
    one, other = probed(run, 31, 1.0, 1.0), replace(probed(run, 31, 1.0, 1.3), folder=Path("b"))
    assert doubts_between([one, one], NAMES) == []
    assert doubts_between([one, other], ["accuracy"]) == []
    assert compare([one, replace(one, folder=Path("a"))])["warnings"] == []
    (told,) = compare([one, other])["warnings"]
    assert told.endswith(f"b (1.30 times as slow as {run.folder})")
    assert told in note(compare([one, other]))


def test_selection_and_the_page_s_head_doubt_the_recommended_latency(run: Run) -> None:
    number = select(run).number
    slow = probed(run, number, 1.4, 1.0, cpu_share=0.5)
    assert select(slow).number == number
    sentence = select(slow).sentence
    assert f"Timed beside other work, so latencies are doubtful: trial {number}." in sentence
    assert f"trial {number} (1.40 times as slow)." in sentence
    head = page(slow).split('id="front-heading"')[0]
    assert f"trial {number} (1.40 times as slow)." in head
    assert "times as slow" in front_note(slow)
    assert number in {record.number for record in front_of(slow).records}
