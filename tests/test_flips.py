"""Rank flips: what an early judgement got wrong, before recovery and at lower rungs."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from paretune.evaluators.measurement import Measurement
from paretune.reports.flips import recovery_flips, rung_flips
from paretune.reports.matched import Matched
from paretune.reports.tables import status, status_in_words
from paretune.search.records import Record, Rung
from paretune.search.run import Run
from paretune.spaces.configuration import Choice, Configuration
from report_cases import header

HEAL = Choice.of("finetune", share=0.1)
CUTS = tuple(Choice.of("ffn", keep=round(0.3 + 0.05 * i, 2)) for i in range(10))


def figures(accuracy: float, stderr: float | None) -> dict[str, Measurement]:
    return {
        "accuracy": Measurement(accuracy, "fraction", "measured", stderr, 400, "items"),
        "latency_p50": Measurement(0.01 + accuracy, "second", "measured", 1e-4, 50, "repeats"),
        "model_bytes": Measurement(1e6, "byte", "exact"),
    }


def run_of(records: list[Record], rungs: tuple[float, ...] = (1.0,)) -> Run:
    about = header()
    return Run(
        Path("nowhere"), about.name, {**about.study, "fidelity": {"rungs": list(rungs)}},
        about.objectives, about.metrics, (), records=tuple(records), baseline=None,
        confirmations={}, reference=None, environment={}, bill={}, refused={},
    )  # fmt: skip


def recovered(
    before: np.ndarray, after: np.ndarray, stderr: float | None = 0.01, heal: Choice = HEAL
) -> Run:
    """A run of some cuts, each without recovery and with it."""
    records = []
    for cut, *pair in zip(CUTS, before, after, strict=False):
        for recovery, value in zip((None, heal), pair, strict=True):
            told = {"structure": cut, **({"recovery": recovery} if recovery else {})}
            rung = Rung(0, figures(float(value), stderr), 1.0)
            records.append(
                Record(len(records) + 1, Configuration.of(**told), "final", rungs=(rung,))
            )
    return run_of(records)


def flips_of(run: Run, metric: str) -> list[dict[str, Any]]:
    return recovery_flips(Matched(run, metric))


def test_a_pair_that_recovery_turns_round_is_counted():
    (row,) = flips_of(
        recovered(np.array([0.7, 0.6, 0.5]), np.array([0.70, 0.75, 0.65])), "accuracy"
    )
    assert row["recovery"] == "recovery.finetune"
    assert (row["contexts"], row["pairs"], row["flipped"]) == (1, 3, 1)
    assert row["clear"] == 1, "10 and 5 points, where 1.96 standard errors are 2.8"
    assert 0 < row["by noise"] < 1


def test_a_flip_within_the_error_is_not_clear():
    told = recovered(np.array([0.70, 0.69]), np.array([0.75, 0.76]))
    (row,) = flips_of(told, "accuracy")
    assert (row["flipped"], row["clear"]) == (1, 0)


def test_equals_have_no_order_to_lose():
    (row,) = flips_of(recovered(np.array([0.7, 0.7]), np.array([0.7, 0.8])), "accuracy")
    assert (row["pairs"], row["flipped"]) == (0, 0)


def test_where_recovery_changes_no_difference_flips_are_those_of_noise():
    rng, seen, expected, clear = np.random.default_rng(0), 0, 0.0, 0
    truth = np.linspace(0.6, 0.7, len(CUTS))
    for _ in range(40):
        before, after = (truth + rng.normal(0, 0.02, len(CUTS)) for _ in range(2))
        (row,) = flips_of(recovered(before, after + 0.1, stderr=0.02), "accuracy")
        seen, expected, clear = (
            seen + row["flipped"], expected + row["by noise"], clear + row["clear"],
        )  # fmt: skip
    assert expected == pytest.approx(seen, rel=0.15)
    assert clear < 0.02 * seen


def test_pairs_differ_in_structure_or_precision_alone():
    told = recovered(np.array([0.7, 0.6]), np.array([0.6, 0.7]))
    moved = [
        replace(r, configuration=r.configuration.replace(runtime=Choice.of("onnxruntime")))
        for r in told.records[2:]
    ]
    assert flips_of(replace(told, records=(*told.records[:2], *moved)), "accuracy") == []


def test_without_errors_nothing_is_said_of_noise_and_failed_trials_are_left_out():
    told = recovered(np.array([0.7, 0.6, 0.5]), np.array([0.6, 0.7, 0.8]), stderr=None)
    (row,) = flips_of(told, "accuracy")
    assert (row["pairs"], row["flipped"], row["clear"], row["by noise"]) == (3, 3, None, None)
    lost = replace(told.records[-1], state="failed", rungs=())
    (row,) = flips_of(replace(told, records=(*told.records[:-1], lost)), "accuracy")
    assert row["pairs"] == 1


def test_bytes_are_not_recovered():
    assert flips_of(recovered(np.array([0.7, 0.6]), np.array([0.6, 0.7])), "model_bytes") == []


def staged(*accuracies: tuple[float, ...]) -> list[Record]:
    records = []
    for number, told in enumerate(accuracies, 1):
        rungs = tuple(
            Rung(i, {**figures(a, 0.02), "latency_p50": figures(0.5, None)["latency_p50"]}, 1.0)
            for i, a in enumerate(told)
        )
        choice = Choice.of("lora", rank=number)
        state = "final" if len(told) == 2 else "paused"
        records.append(Record(number, Configuration.of(finetuning=choice), state, rungs=rungs))
    return records


def test_status_says_how_well_a_rung_foretold_the_next():
    run = run_of(staged((0.6, 0.6), (0.5, 0.8), (0.4,)), (0.25, 1.0))
    told = [{"low": 0.25, "high": 1.0, "trials": 2, "pairs": 1, "flipped": 1, "lost": 1}]
    assert rung_flips(run) == status(run)["rungs"] == told
    assert status_in_words(run)["rungs"] == [
        "25% to 100%: 1 of 1 ranked pairs turned round, 1 of 2 trials left the front"
    ]


def test_a_rung_that_few_finished_says_nothing_yet():
    run = run_of(staged((0.6, 0.6), (0.4,)), (0.25, 1.0))
    assert status_in_words(run)["rungs"][0].endswith("finished both: 1, too few to tell")


def test_a_run_without_rungs_says_nothing_of_them():
    run = run_of(staged((0.6,)))
    assert status(run)["rungs"] == []
    assert "rungs" not in status_in_words(run)
