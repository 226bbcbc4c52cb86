"""Selecting from a stored run under other limits."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from paretune.errors import StudyError, UnknownName
from paretune.evaluators.measurement import Measurement, missing
from paretune.search.front import front_of
from paretune.search.records import Record, Rung
from paretune.search.run import ObjectiveRow, Run
from paretune.search.select import best_first, recommend, select
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


def test_a_trial_that_breaks_a_limit_as_confirmed_comes_after_those_that_keep_it(run, monkeypatch):
    monkeypatch.setattr(
        "paretune.search.select.broken_when_confirmed",
        lambda run, number, limits: ("accuracy >= 0.9",) if number == 2 else (),
    )
    chosen = select(run)
    assert chosen.number in {1, 3}
    assert chosen.rivals[-1] == 2
    assert "does not keep" not in chosen.sentence
    monkeypatch.setattr(
        "paretune.search.select.broken_when_confirmed", lambda *_: ("accuracy >= 0.9",)
    )
    assert select(run).number == 2
    assert "does not keep accuracy >= 0.9" in select(run).sentence


def test_a_preferred_metric_is_what_the_choice_is_best_at(run):
    assert select(run, prefer="accuracy").number == 1
    assert select(run, prefer="model_bytes").number == 3


def test_a_limit_against_the_baseline_is_kept(run):
    chosen = select(run, ["accuracy >= 0.98 * baseline", "model_bytes <= 50 MB"])
    assert chosen.number == 2
    assert chosen.limits[0].bound == pytest.approx(0.784)


def test_a_wish_takes_the_place_of_the_studys_limit_on_the_same_side_of_the_same_metric(run):
    from dataclasses import replace

    tight = replace(run, constraints=("model_bytes <= 25 MB",))
    assert select(tight).number == 3
    assert select(tight, ["model_bytes <= 1 GB"], "accuracy").number == 1
    both = select(tight, ["model_bytes >= 1 MB", "accuracy >= 0.1"], "accuracy")
    assert both.number == 3
    assert [limit.text for limit in both.limits] == [
        "model_bytes <= 25 MB",
        "model_bytes >= 1 MB",
        "accuracy >= 0.1",
    ]


def test_unfinished_trials_and_missing_figures_are_never_chosen(run):
    with pytest.raises(StudyError, match=r"nearest is trial 3, where model_bytes is 20\.0 MB"):
        select(run, ["model_bytes <= 2 MB"])


def test_the_sentence_says_gains_losses_and_doubt(run):
    sentence = select(run).sentence
    assert sentence.startswith("Trial 2 gives the best balance of the objectives of 4 trials")
    assert " of 4 trials, the knee of the front; against the baseline" in sentence
    assert "knee" not in select(run, prefer="accuracy").sentence
    assert (
        "accuracy 79.0 % (1.0 points less, 95 % interval -3.8 to +1.8: no clear difference)"
        in sentence
    )
    assert "model_bytes 30.0 MB (67 % less)" in sentence
    assert "worse than the baseline" not in sentence, "no clear difference"


def test_the_sentence_says_plainly_where_the_choice_is_worse_than_the_baseline(run):
    from dataclasses import replace

    slow = (trial(1, 0.70, 40e6, latency=0.03), *run.records[4:])
    rows = (*run.objectives, ObjectiveRow("latency_p50", "second", "minimize"))
    sentence = select(replace(run, records=slow, objectives=rows)).sentence
    assert sentence.endswith(" It is worse than the baseline in accuracy, latency_p50.")


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


def test_a_trial_that_the_baseline_dominates_is_not_chosen(run):
    from dataclasses import replace

    small = replace(run, baseline=trial(0, 0.795, 25e6, purpose="baseline"))
    # trial 2 (0.79, 30 MB) was the knee; the baseline is better and smaller
    chosen = select(small)
    assert chosen.number in {1, 3}
    assert 2 not in chosen.rivals
    assert select(small, prefer="model_bytes").number == 3


def test_where_nothing_beats_the_baseline_the_baseline_is_the_choice(run):
    from dataclasses import replace

    best = replace(run, baseline=trial(0, 0.81, 1e6, purpose="baseline"))
    chosen = select(best)
    assert chosen.number == 0
    assert chosen.comparisons == ()
    assert "None of 4 trials beats the baseline at anything" in chosen.sentence
    assert select(best, prefer="accuracy").number == 0


def test_modelled_figures_are_not_ranked_among_measured_ones(run):
    from dataclasses import replace

    guess = Measurement(0.001, "second", "modelled")
    figures = {**run.records[1].measurements, "latency_p50": guess}
    records = list(run.records)
    records[1] = replace(records[1], rungs=(Rung(0, figures, 1.0),))
    mixed = replace(run, records=tuple(records))
    front = front_of(mixed, ["accuracy", "latency_p50"])
    assert 2 not in {record.number for record in front.judged}
    assert front.excluded["latency_p50 modelled, not measured"] == 1
    assert select(mixed, prefer="latency_p50").number != 2
    assert 2 in {record.number for record in front_of(mixed).judged}


@pytest.mark.parametrize("size", [90e6, 25e6, 1e6])
def test_a_search_confirms_what_selection_chooses(run, size):
    from dataclasses import replace

    held = replace(run, baseline=trial(0, 0.80, size, purpose="baseline"))
    records = {r.number: r for r in (held.baseline, *held.records)}

    class Knows:
        storage = SimpleNamespace(records=records, confirmations={})
        study = SimpleNamespace(objective_rows=lambda: held.objectives)

        def violations(self, record):
            return {}

    assert recommend(Knows()) == select(held).number
    assert best_first(front_of(held))[0].number == select(held).number
