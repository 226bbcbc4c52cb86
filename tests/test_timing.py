"""Timing without a stopwatch: a model of sleep under an injected clock."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from paretune.evaluators.compute.latency import METRICS
from paretune.evaluators.compute.probe import drift, probe_seconds
from paretune.evaluators.compute.quantile import median_interval, quantile
from paretune.evaluators.compute.timing import (
    Patience,
    load_timings,
    save_timings,
    time_runner,
)
from paretune.evaluators.metric import Evidence, Timings
from paretune.spaces.paper import Paper, Workload
from paretune.spaces.profile import Head, Profile
from paretune.spaces.task import Batch

BATCH = Batch(*(np.zeros((2, 4), dtype=np.int64) for _ in range(4)))
PAPER = Paper(Profile("bert", 8, 10, 8, 2, (), Head("classification", 2)), runtime="eager")


@dataclass
class Sleeper:
    """A runner that takes as long as it is told, on a clock of its own."""

    durations: list[float] = field(default_factory=list)
    usual: float = 0.1
    per_token: float = 0.01
    now: float = 0.0
    answers: int = 0

    def clock(self) -> float:
        return self.now

    def logits(self, batch):
        self.answers += 1
        self.now += self.durations.pop(0) if self.durations else self.usual
        return np.zeros((len(batch.input_ids), 2))

    def generate(self, batch, tokens):
        self.answers += 1
        self.now += self.usual + self.per_token * (tokens - 1)
        return np.zeros((len(batch.input_ids), tokens))

    def files(self):
        return []

    def close(self):
        pass


def figures(timings: Timings, workload: Workload):
    evidence = Evidence(PAPER, workload, timings=timings)
    return {row.name: row.evaluate(evidence) for row in METRICS}


def test_a_sleeping_model_takes_as_long_as_it_sleeps():
    sleeper = Sleeper()
    timings = time_runner(sleeper, BATCH, Workload(batch=2), clock=sleeper.clock)
    found = figures(timings, Workload(batch=2))
    assert found["latency_p50"].value == pytest.approx(0.1)
    assert found["latency_p95"].value == pytest.approx(0.1)
    assert found["latency_p50"].stderr == pytest.approx(0, abs=1e-9)
    assert found["latency_p50"].source == "measured"
    assert dict(found["latency_p50"].conditions)["runtime"] == "eager"


def test_latency_times_throughput_is_the_batch():
    sleeper = Sleeper(usual=0.25)
    timings = time_runner(sleeper, BATCH, Workload(batch=2), clock=sleeper.clock)
    found = figures(timings, Workload(batch=2))
    assert found["latency_p50"].value * found["throughput"].value == pytest.approx(2)


def test_slow_first_answers_are_thrown_away():
    sleeper = Sleeper(durations=[5.0, 1.0, 0.1])
    timings = time_runner(sleeper, BATCH, Workload(), clock=sleeper.clock)
    assert max(timings.seconds) == pytest.approx(0.1)
    assert timings.warmup == 4  # the fourth is the first that is like the one before


def test_steady_repeats_end_the_session_early():
    sleeper = Sleeper()
    timings = time_runner(sleeper, BATCH, Workload(), clock=sleeper.clock)
    assert len(timings.seconds) == 20
    assert sleeper.answers == 20 + timings.warmup


def test_unsteady_repeats_go_on_to_the_limit():
    uneven = [0.1, 0.2] * 200
    sleeper = Sleeper(durations=uneven)
    timings = time_runner(
        sleeper, BATCH, Workload(), patience=Patience(repeats=50), clock=sleeper.clock
    )
    assert len(timings.seconds) == 50


def test_the_budget_ends_the_session_after_three_repeats_at_least():
    sleeper = Sleeper(usual=10.0)
    timings = time_runner(
        sleeper, BATCH, Workload(), patience=Patience(budget_s=1.0), clock=sleeper.clock
    )
    assert timings.warmup == 1
    assert len(timings.seconds) == 3


def test_a_session_outlasts_its_budget_where_more_repeats_are_needed():
    sleeper = Sleeper(usual=10.0)
    patience = Patience(budget_s=1.0, least=20)
    timings = time_runner(sleeper, BATCH, Workload(), patience=patience, clock=sleeper.clock)
    assert len(timings.seconds) == 20
    assert figures(timings, Workload())["latency_p95"].value == pytest.approx(10.0)


def test_writing_is_split_into_first_token_and_the_others():
    sleeper = Sleeper(usual=0.3, per_token=0.02)
    workload = Workload(output_tokens=11)
    timings = time_runner(sleeper, BATCH, workload, clock=sleeper.clock)
    found = figures(timings, workload)
    assert found["ttft_p50"].value == pytest.approx(0.3)
    assert found["tpot_p50"].value == pytest.approx(0.02)
    assert found["latency_p50"].value == pytest.approx(0.5)


def test_a_processor_shared_with_others_shows():
    sleeper = Sleeper()
    timings = time_runner(
        sleeper, BATCH, Workload(), clock=sleeper.clock, cpu_clock=lambda: sleeper.now * 0.4
    )
    assert timings.cpu_share == pytest.approx(0.4)
    assert dict(figures(timings, Workload())["latency_p50"].conditions)["cpu_share"] == 0.4


def test_the_probe_takes_its_time_and_goes_into_the_conditions():
    assert 0 < probe_seconds() < 1
    found = figures(Timings((0.1,) * 20, 1, "cpu", probe_seconds=0.002), Workload())
    assert dict(found["latency_p50"].conditions)["probe_ms"] == 2.0
    found = figures(Timings((0.1,) * 20, 1, "gpu"), Workload())
    assert "probe_ms" not in dict(found["latency_p50"].conditions)


@pytest.mark.parametrize(
    ("mine", "theirs", "by"),
    [(1.0, 1.0, None), (1.09, 1.0, None), (1.0, 1.09, None), (1.2, 1.0, 1.2), (1.0, 1.25, 0.8)],
)
def test_two_probes_are_alike_within_a_tenth(mine: float, theirs: float, by: float | None):
    assert drift(mine, theirs) == by
    assert drift(None, theirs) is None


def test_a_model_that_writes_nothing_has_no_time_to_first_token():
    found = figures(Timings((0.1,) * 20, 1, "cpu"), Workload())
    assert found["ttft_p50"].value is None
    assert "writes no tokens" in found["ttft_p50"].reason


def test_a_95th_percentile_of_few_repeats_is_missing_with_its_reason():
    found = figures(Timings((0.1, 0.2, 0.3), 1, "cpu"), Workload())
    assert found["latency_p95"].value is None
    assert "needs 20 repeats, there are 3" in found["latency_p95"].reason


def test_without_a_session_there_is_no_figure():
    evidence = Evidence(PAPER, Workload())
    assert all(row.evaluate(evidence).value is None for row in METRICS)


def test_raw_samples_come_back_from_their_file(tmp_path: Path):
    timings = Timings((0.1, 0.2), 3, "cpu", (0.05, 0.06), (0.05, 0.14))
    assert load_timings(tmp_path, save_timings(tmp_path, timings)) == timings


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_the_standard_error_of_a_quantile_is_what_repetition_shows(share):
    rng = np.random.default_rng(0)
    samples = rng.lognormal(size=(400, 80))
    found = [quantile(row, share) for row in samples]
    spread = np.std([value for value, _ in found])
    told = np.median([stderr for _, stderr in found])
    assert 0.75 < told / spread < 1.25


def test_the_interval_of_the_median_holds_it_as_often_as_it_says():
    rng = np.random.default_rng(1)
    intervals = [median_interval(row) for row in rng.exponential(size=(2000, 25))]
    held = np.mean([low <= np.log(2) <= high for low, high in intervals])
    assert held >= 0.95 - 0.015


@pytest.mark.parametrize("n", [0, 1, 5])
def test_too_few_samples_leave_the_median_open(n):
    assert median_interval([1.0] * n) == (-float("inf"), float("inf"))
