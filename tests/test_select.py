"""Selecting from a stored run under other limits."""

from pathlib import Path

import pytest
from paretune.errors import StudyError, UnknownName
from paretune.evaluators.measurement import Measurement, missing
from paretune.search.records import Record, Rung
from paretune.search.run import ObjectiveRow, Run
from paretune.search.select import amount, select
from paretune.spaces.configuration import Configuration

METRICS = {
    "accuracy": {"unit": "fraction", "direction": "maximize"},
    "model_bytes": {"unit": "byte", "direction": "minimize"},
    "latency_p50": {"unit": "second", "direction": "minimize"},
}


def trial(number, accuracy, size, latency=0.01, state="final", purpose="search", stderr=0.01):
    figures = {
        "accuracy": Measurement(accuracy, "fraction", "measured", stderr=stderr, n=400)
        if accuracy is not None
        else missing("fraction", "not taken"),
        "model_bytes": Measurement(size, "byte", "exact"),
        "latency_p50": Measurement(latency, "second", "measured"),
    }
    return Record(number, Configuration(), state, purpose=purpose, rungs=(Rung(0, figures, 1.0),))


@pytest.fixture
def run():
    records = (
        trial(1, 0.80, 80e6),
        trial(2, 0.79, 30e6),
        trial(3, 0.60, 20e6),
        trial(4, 0.78, 35e6),
        trial(5, 0.99, 1e6, state="paused"),
        trial(6, None, 1e6),
    )
    names = ("accuracy", "model_bytes")
    rows = tuple(ObjectiveRow(n, METRICS[n]["unit"], METRICS[n]["direction"]) for n in names)
    baseline = trial(0, 0.80, 90e6, purpose="baseline")
    return Run(
        folder=Path("."),
        name="toy",
        study={},
        objectives=rows,
        metrics=METRICS,
        constraints=(),
        records=records,
        baseline=baseline,
        confirmations={},
        reference=None,
        environment={},
        bill={},
        refused={},
    )


def test_the_knee_of_the_front_is_chosen_without_a_wish(run):
    chosen = select(run)
    assert chosen.number == 2
    assert set(chosen.rivals) == {1, 3}
    assert chosen.kept == 4


def test_a_preferred_metric_is_what_the_choice_is_best_at(run):
    assert select(run, prefer="accuracy").number == 1
    assert select(run, prefer="model_bytes").number == 3


def test_a_limit_against_the_baseline_is_kept(run):
    chosen = select(run, ["accuracy >= 0.98 * baseline", "model_bytes <= 50 MB"])
    assert chosen.number == 2
    assert chosen.limits[0].bound == pytest.approx(0.784)


def test_where_stands_in_place_of_the_studys_own_limits(run):
    from dataclasses import replace

    tight = replace(run, constraints=("model_bytes <= 25 MB",))
    assert select(tight).number == 3
    assert select(tight, ["model_bytes <= 1 GB"], "accuracy").number == 1


def test_unfinished_trials_and_missing_figures_are_never_chosen(run):
    with pytest.raises(StudyError, match="nearest is trial 3, where model_bytes is 20 MB"):
        select(run, ["model_bytes <= 2 MB"])


def test_the_sentence_says_gains_losses_and_doubt(run):
    sentence = select(run).sentence
    assert sentence.startswith("Trial 2 gives the best balance of the objectives of 4 trials")
    assert "accuracy 0.79 (-1.0 points" in sentence
    assert "no clear difference" in sentence
    assert "model_bytes 30 MB (-67 %)" in sentence


def test_an_interval_is_given_only_where_errors_are_known(run):
    chosen = select(run, prefer="latency_p50")
    by_name = {c.metric: c for c in chosen.comparisons}
    assert by_name["latency_p50"].low is None
    assert by_name["model_bytes"].low == by_name["model_bytes"].high
    accuracy = by_name["accuracy"]
    assert accuracy.high - accuracy.low == pytest.approx(2 * 1.96 * 2**0.5 * 0.01, rel=1e-3)


def test_without_a_baseline_the_choice_stands_alone(run):
    from dataclasses import replace

    alone = replace(run, baseline=None)
    assert select(alone).comparisons == ()
    with pytest.raises(StudyError, match="needs the baseline's accuracy"):
        select(alone, ["accuracy >= 0.9 * baseline"])


def test_unknown_metrics_say_the_nearest(run):
    with pytest.raises(UnknownName, match="did you mean 'accuracy'"):
        select(run, prefer="acuracy")
    with pytest.raises(UnknownName, match="latency_p50"):
        select(run, ["latency <= 5 ms"])


def test_other_objectives_make_another_front(run):
    assert select(run, objectives=["model_bytes"]).number == 6


def test_amounts_are_read_with_a_prefix():
    assert amount(1.5e9, "FLOP") == "1.5 GFLOP"
    assert amount(0.0, "byte") == "0 byte"
    assert amount(2.0, "USD") == "2 USD"
