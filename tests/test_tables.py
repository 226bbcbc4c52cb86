"""Tables of a run: the front on any stored metrics, units for people, a run in words."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from paretune.errors import UnknownName
from paretune.evaluators.measurement import Measurement, missing
from paretune.evaluators.metric import Predictions
from paretune.evaluators.quality.predictions import save_predictions
from paretune.reports.export.export import record_of
from paretune.reports.history import failures, growth, sharing
from paretune.reports.tables import (
    front_csv,
    front_json,
    front_note,
    front_rows,
    selection_json,
    status,
    status_in_words,
    trials_table,
)
from paretune.reports.words import confirmed_in_words, confirmed_quality, headline, over_seeds
from paretune.search.against import (
    broken_when_confirmed,
    confirmed_gaps,
    contradicted,
    gap,
    gaps,
)
from paretune.search.front import front_of, pooled_trials, written_limits
from paretune.search.run import Run
from paretune.search.select import select
from paretune.search.units import readable, scale_of
from report_cases import made_up_run, run_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return made_up_run(tmp_path_factory.mktemp("run"), confirmed=(0, 31))


def changed(run, number, **figures):
    """The run with some figures of one trial set anew."""
    records = []
    for record in run.records:
        if record.number == number:
            last = record.rungs[-1]
            taken = {**last.measurements, **figures}
            rung = replace(last, measurements=taken)
            record = replace(record, rungs=(*record.rungs[:-1], rung))
        records.append(record)
    return replace(run, records=tuple(records))


def dominates(a, b):
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def losses(record):
    values = [record.value(n) for n in ("accuracy", "latency_p50", "model_bytes")]
    return (-values[0], values[1], values[2])


def test_the_front_is_what_nobody_dominates(run):
    front = front_of(run)
    for record, on in zip(front.judged, front.on, strict=True):
        beaten = any(dominates(losses(other), losses(record)) for other in front.judged)
        assert on == (not beaten), record.number


def test_failed_and_paused_trials_and_those_beyond_a_limit_are_never_on_a_front(run):
    front = front_of(run)
    floor = 0.9 * run.baseline.value("accuracy")
    assert all(r.state == "final" and r.value("accuracy") >= floor for r in front.records)
    counts = {"failed": 6, "paused": 7}
    assert {k: v for k, v in front.excluded.items() if k in counts} == counts
    beyond = [r for r in run.records if r.state == "final" and r.value("accuracy") < floor]
    assert front.excluded["not accuracy >= 0.9 * baseline"] == len(beyond)


def test_every_trial_is_judged_or_counted_as_excluded(run):
    front = front_of(run, ["energy", "flops"])
    assert len(front.judged) + sum(front.excluded.values()) == len(run.records) + 1


def test_a_missing_figure_excludes_a_trial_only_from_fronts_over_that_metric(run):
    on = front_of(run).records[0].number
    gap = changed(run, on, latency_p50=missing("second", "there was no timing session"))
    assert front_of(gap).excluded["no latency_p50"] == 1
    assert on in {r.number for r in front_of(gap, ["accuracy", "model_bytes"]).judged}
    assert "1 no latency_p50" in front_note(gap)


def test_any_stored_metrics_may_be_the_objectives(run):
    numbers = [row["number"] for row in front_json(run, ["energy"])["trials"]]
    known = {r.number: r.value("energy") for r in front_of(run, ["energy"]).judged}
    assert numbers == [min(known, key=known.__getitem__)]


def test_a_metric_that_was_not_stored_is_refused_with_the_nearest(run):
    with pytest.raises(UnknownName, match="did you mean 'latency_p50'"):
        front_json(run, ["accuracy", "latency_p5"])
    with pytest.raises(UnknownName, match="peak_memory"):
        front_rows(run, ["peak_memory"])


def test_a_baseline_that_nobody_beats_is_on_the_front_but_never_the_knee(run):
    best = replace(run.baseline.rungs[-1].measurements["accuracy"], value=0.99)
    rung = replace(
        run.baseline.rungs[-1], measurements={**run.baseline.measurements, "accuracy": best}
    )
    strong = replace(run, baseline=replace(run.baseline, rungs=(rung,)), constraints=())
    rows = {row["number"]: row for row in front_json(strong)["trials"]}
    assert rows[0]["baseline"]
    assert not rows[0]["knee"]
    assert sum(row["knee"] for row in rows.values()) == 1


def test_front_json_is_what_the_command_line_promises(run):
    data = json.loads(json.dumps(front_json(run), allow_nan=False))
    assert data["objectives"] == ["accuracy", "latency_p50", "model_bytes"]
    for row in data["trials"]:
        record = next(r for r in run.records if r.number == row["number"])
        assert row["configuration"] == record.configuration.to_json()
        assert row["metrics"]["accuracy"] == record.measurements["accuracy"].to_json()
        assert row["metrics"]["peak_memory"]["value"] is None
        assert 0 < row["on_front_probability"] <= 1


def test_a_point_far_better_is_on_the_front_for_certain(run):
    number = front_of(run).records[0].number
    sure = changed(run, number, latency_p50=Measurement(1e-5, "second", "exact"))
    assert front_of(sure).probability[number] == 1.0


def test_front_rows_begin_with_the_best_of_the_first_objective(run):
    rows = front_rows(run)
    accuracies = [float(row["accuracy"].split()[0]) for row in rows[:-1]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert {row["trial"] for row in rows[:-1]} == {r.number for r in front_of(run).records}
    assert [row["mark"].split(", ")[0] for row in rows].count("recommended") == 1
    assert rows[-1]["trial"] == 0
    assert rows[-1]["mark"].startswith("baseline, beaten")


def test_a_timing_that_had_not_its_processor_alone_is_told(run):
    on = front_of(run).records[0].number
    figure = Measurement(
        1e-5, "second", "measured", conditions=(("cpu_share", 0.6), ("threads", 1))
    )
    busy = changed(run, on, latency_p50=figure)
    told = f"timed beside other work, so latencies are doubtful: trial {on}"
    assert told not in front_note(run)
    assert told in front_note(busy)
    for share, threads in ((0.97, 1), (0.6, 2)):
        pairs = (("cpu_share", share), ("threads", threads))
        quiet = changed(run, on, latency_p50=replace(figure, conditions=pairs))
        assert told not in front_note(quiet)


def test_a_limit_that_confirmation_overturns_is_told(run):
    (repeat,) = (r for r in run.confirmations[31] if r.seed == 0)
    slow = Measurement(0.5, "second", "measured", stderr=0.001, n=60, over="repeats")
    rung = replace(repeat.rungs[-1], measurements={**repeat.measurements, "latency_p50": slow})
    again = replace(repeat, rungs=(rung,))
    limited = replace(
        run,
        constraints=("latency_p50 <= 100 ms", "accuracy >= 0.5 * baseline"),
        confirmations={**run.confirmations, 31: (again,)},
    )
    limits = written_limits(limited)
    assert broken_when_confirmed(run, 31, limits) == ()
    assert broken_when_confirmed(limited, 31, limits) == ("latency_p50 <= 100 ms",)
    assert broken_when_confirmed(limited, 3, limits) == ()
    marks = {row["trial"]: row["mark"] for row in front_rows(limited)}
    assert marks.get(31, "breaks a limit as tested").endswith("breaks a limit as tested")
    assert not any("breaks" in mark for number, mark in marks.items() if number != 31)


def test_front_csv_holds_figures_errors_and_choices(run):
    rows = list(csv.DictReader(io.StringIO(front_csv(run))))
    front = {str(r.number): r for r in front_of(run).records}
    assert [row["trial"] for row in rows] == list(front)
    for row in rows:
        record = front[row["trial"]]
        assert float(row["accuracy"]) == record.value("accuracy")
        assert float(row["latency_p50_stderr"]) == record.measurements["latency_p50"].stderr
        assert row["finetuning"] == record.configuration.get("finetuning").method


def test_an_empty_front_is_a_table_without_rows(run):
    begun = replace(run, records=(), baseline=None, reference=None)
    assert front_rows(begun) == []
    assert status(begun)["front"] == []
    assert growth(begun).reason
    assert front_json(replace(run, constraints=("accuracy >= 0.999",)))["trials"] == []
    assert front_csv(replace(run, constraints=("accuracy >= 0.999",))) == "trial\n"


def test_status_counts_states_and_tells_what_was_spent(run):
    said = status_in_words(run)
    assert status(run)["spent"]["hours"]["value"] == pytest.approx(0.35)
    json.dumps(status(run), allow_nan=False)
    assert said["trials"] == {"final": 47, "failed": 6, "paused": 7}
    assert (said["baseline"], said["budget"]["trials"]) == ("final", "63 trials and the baseline")
    assert said["failures"] == {"out_of_memory": 2, "timeout": 2, "diverged": 2}
    assert said["spent"]["wall time"] == "21.0 min (measured)"
    json.dumps(said, allow_nan=False)


def test_status_of_a_stopped_run_says_how_to_go_on(run):
    said = status_in_words(replace(run, standing="stopped"))
    assert said["state"] == f"stopped; `paretune resume {run.folder}` goes on"
    assert status_in_words(replace(run, standing="ended: all"))["state"] == "ended: all"


def test_the_table_of_trials_has_a_row_for_each_and_numbers_that_agree(run):
    table = trials_table(run).set_index("number")
    assert len(table) == 61
    assert table.loc[0, "purpose"] == "baseline"
    assert set(table.index[table["on_front"]]) == {r.number for r in front_of(run).records}
    assert np.isnan(table.loc[4, "accuracy"])
    assert table.loc[4, "failure"] == "out_of_memory"


def test_a_selection_is_data_with_its_reason(run):
    chosen = select(run, ["model_bytes <= 30 MB"], "accuracy")
    data = json.loads(json.dumps(selection_json(run, chosen), allow_nan=False))
    assert data["number"] == chosen.number
    assert data["limits"] == ["accuracy >= 0.9 * baseline", "model_bytes <= 30 MB"]
    assert data["sentence"] == chosen.sentence


def test_the_headline_sells_accuracy_for_speed_only_where_the_difference_counts(run):
    fast = Measurement(0.002, "second", "measured", stderr=1e-5, n=60, over="repeats")
    small = Measurement(30e6, "byte", "exact")
    worse = Measurement(0.70, "fraction", "measured", stderr=0.005, n=400, over="items")
    searched = replace(run, confirmations={})
    sold = changed(searched, 31, latency_p50=fast, model_bytes=small, accuracy=worse)
    record = next(r for r in sold.records if r.number == 31)
    words = headline(sold, record)
    assert words.startswith("12 points of accuracy buy 8.6 \u00d7 lower median latency")
    assert words.endswith(". It is worse than the baseline in accuracy.")
    same = replace(worse, value=run.baseline.value("accuracy") - 0.004, stderr=0.02)
    kept = changed(searched, 31, latency_p50=fast, model_bytes=small, accuracy=same)
    words = headline(kept, next(r for r in kept.records if r.number == 31))
    assert "worse" not in words
    assert "accuracy differs by \u22120.4 \u00b1 5.4 points, within its error" in words


def test_stored_answers_make_the_comparison_paired(run, tmp_path):
    rng = np.random.default_rng(0)
    labels, items = rng.integers(0, 2, 400), np.arange(400)
    right = rng.random(400) < 0.8
    files = []
    for correct in (right, right & (items % 100 != 0)):
        logits = np.eye(2)[np.where(correct, labels, 1 - labels)]
        predictions = Predictions(items, labels, logits)
        files.append(save_predictions(tmp_path / "samples", predictions))
    mine = next(r for r in run.records if r.number == 31)
    pair = [
        replace(r, files={"predictions": f})
        for r, f in zip((run.baseline, mine), files, strict=True)
    ]
    plain, paired = (
        gaps(run, mine, run.baseline)[0],
        gaps(replace(run, folder=tmp_path), *pair[::-1])[0],
    )
    assert (plain.paired, paired.paired) == (False, True)
    assert paired.half < plain.half / 3


def test_confirmed_quality_is_that_of_the_model_that_was_searched(run):
    own, further = run.confirmations[31]
    trial = next(r for r in run.records if r.number == 31)
    assert own.seed == trial.seed != further.seed
    assert confirmed_quality(run, 31)["accuracy"] == own.measurements["accuracy"]
    values = sorted(r.value("accuracy") for r in (own, further))
    assert over_seeds(run, 31)["accuracy"] == tuple(values)
    assert confirmed_quality(run, 5) == over_seeds(run, 5) == {}


def test_a_model_that_only_further_seeds_confirm_has_no_confirmed_quality(run):
    further = replace(run, confirmations={31: run.confirmations[31][1:]})
    assert confirmed_quality(further, 31) == over_seeds(further, 31) == {}


def answered(run, folder):
    """The run with answers to the test split stored: trial 31 is wrong on 40 items more."""
    labels, items = np.random.default_rng(0).integers(0, 2, 400), np.arange(400)
    right = np.random.default_rng(1).random(400) < 0.8
    confirmations = {}
    for number, correct in ((0, right), (31, right & (items % 8 != 0))):
        logits = np.eye(2)[np.where(correct, labels, 1 - labels)]
        name = save_predictions(folder / "samples", Predictions(items, labels, logits))
        figure = Measurement(float(correct.mean()), "fraction", "measured", 0.02, 400, "items")
        first, second = run.confirmations[number]
        rung = replace(first.rungs[0], measurements={**first.measurements, "accuracy": figure})
        first = replace(first, rungs=(rung,), files={"predictions": name})
        confirmations[number] = (first, second)
    return replace(run, folder=folder, confirmations=confirmations)


def test_a_confirmed_point_is_compared_with_the_baseline_on_the_same_test_items(run, tmp_path):
    seen = answered(run, tmp_path)
    (found, difference) = confirmed_gaps(seen, 31)["accuracy"]
    assert (found.paired, found.confirmed, found.verdict) == (True, True, "worse")
    assert difference.mean == pytest.approx(found.mine - found.theirs)
    assert found.low < difference.mean < found.high < 0
    assert confirmed_gaps(seen, 0) == {}
    assert set(confirmed_gaps(run, 31)) == {"latency_p50"}, "no answers are stored, speed is"
    record = next(r for r in seen.records if r.number == 31)
    assert "on the test split)" in headline(seen, record)
    words = confirmed_in_words(seen, 31)["accuracy"]
    assert "against the baseline on 400 items" in words
    assert "over 2 seeds" in words


def repeated(run, number, *accuracies):
    """The run with a trial made again under further seeds, with these accuracies on validation."""
    record = next(r for r in run.records if r.number == number)
    made = []
    for seed, accuracy in enumerate(accuracies, 1):
        figure = replace(record.measurements["accuracy"], value=accuracy)
        figures = {**record.measurements, "accuracy": figure}
        rung = replace(record.rungs[-1], measurements=figures)
        made.append(replace(record, rungs=(rung,), seed=seed, purpose="repeat"))
    return replace(run, near_ties={number: tuple(made)})


def test_a_trial_of_several_seeds_is_told_by_their_mean_how_many_and_how_far_apart(run):
    best = Measurement(1e-6, "second", "exact")
    first = next(r for r in run.records if r.number == 31).value("accuracy")
    again = repeated(changed(run, 31, latency_p50=best), 31, first - 0.03, first + 0.015)
    row = next(row for row in front_rows(again) if row["trial"] == 31)
    assert row["accuracy"].startswith(readable(first - 0.005, "fraction").split()[0])
    assert row["accuracy"].endswith("% over 3 seeds")
    assert "seeds" not in row["latency_p50"]
    told = next(row for row in front_json(again)["trials"] if row["number"] == 31)
    accuracy = told["metrics"]["accuracy"]
    assert accuracy["value"] == pytest.approx(first - 0.005)
    conditions = accuracy["conditions"]
    assert (conditions["seeds"], conditions["lowest"]) == (3, first - 0.03)
    assert trials_table(again).set_index("number").loc[31, "accuracy"] == accuracy["value"]
    assert again.records == changed(run, 31, latency_p50=best).records, "raw figures stay"


def test_what_is_exported_is_the_model_of_the_search_not_a_mean(run):
    chosen = select(run).record
    again = repeated(run, chosen.number, chosen.value("accuracy") + 0.002)
    mean = select(again).record
    assert mean.value("accuracy") == pytest.approx(chosen.value("accuracy") + 0.001)
    assert record_of(again, "recommended") == chosen


def test_the_seeds_of_a_mean_are_part_of_its_difference_by_item(run, tmp_path):
    seen = answered(run, tmp_path)
    files = [seen.confirmations[n][0].files for n in (0, 31)]
    figures = [seen.confirmations[n][0].measurements["accuracy"] for n in (0, 31)]
    at = changed(seen, 31, accuracy=figures[1])
    records = tuple(replace(r, files=files[1]) if r.number == 31 else r for r in at.records)
    last = replace(run.baseline.rungs[-1], measurements={"accuracy": figures[0]})
    at = replace(at, records=records, baseline=replace(run.baseline, rungs=(last,), files=files[0]))
    plain = next(r for r in records if r.number == 31)
    again = repeated(at, 31, figures[1].value + 0.02)
    mean = next(r for r in pooled_trials(again) if r.number == 31)
    one, several = (gap(again, "accuracy", record, at.baseline) for record in (plain, mean))
    assert one.paired
    assert several.paired
    assert several.mine == pytest.approx(one.mine + 0.01)
    assert several.half == pytest.approx(math.hypot(one.half, 1.96 * 0.01), rel=0.02)


def test_the_test_split_is_marked_where_it_turns_what_the_search_said(run, tmp_path):
    seen = changed(answered(run, tmp_path), 31, latency_p50=Measurement(1e-6, "second", "exact"))
    better = replace(run.baseline.measurements["accuracy"], value=0.95)
    turned = changed(seen, 31, accuracy=better)
    trial = next(r for r in turned.records if r.number == 31)
    assert contradicted(turned, trial) == ("accuracy",)
    row = next(row for row in front_rows(turned) if row["trial"] == 31)
    assert "worse as tested" in row["mark"]
    told = next(row for row in front_json(turned)["trials"] if row["number"] == 31)
    assert told["confirmed"]["contradicts"] == ["accuracy"]
    # a search that said worse is borne out
    lost = changed(seen, 31, accuracy=replace(better, value=0.5))
    assert contradicted(lost, next(r for r in lost.records if r.number == 31)) == ()


def test_front_json_holds_what_the_test_split_said(run, tmp_path):
    seen = answered(run, tmp_path)
    best = Measurement(1e-6, "second", "exact")
    told = front_json(changed(seen, 31, latency_p50=best))["trials"]
    confirmed = next(row for row in told if row["number"] == 31)["confirmed"]
    assert all("confirmed" not in row for row in told if row["number"] not in (0, 31))
    assert confirmed["seeds"] == 2
    assert confirmed["difference"]["n"] == 400
    assert confirmed["difference"]["low"] < confirmed["difference"]["mean"] < 0
    accuracy, difference = confirmed["accuracy"]["value"], confirmed["difference"]["mean"]
    baseline = seen.confirmations[0][0].value("accuracy")
    assert difference == pytest.approx(accuracy - baseline)
    low, high = confirmed["over_seeds"]["accuracy"]
    assert low < high
    assert accuracy in (low, high)


def test_hypervolume_never_falls_and_stays_within_its_box(run):
    curve = growth(run)
    assert list(curve.share) == sorted(curve.share)
    assert 0 <= curve.share[0] < curve.share[-1] <= 1
    assert list(curve.seconds) == sorted(curve.seconds)


def test_without_a_reference_point_there_is_no_curve_but_a_reason(run):
    curve = growth(replace(run, reference=None))
    assert curve.trials == ()
    assert "initial design" in curve.reason


def test_trials_without_times_still_give_a_curve_over_trials(run):
    untimed = tuple(replace(record, started=None, finished=None) for record in run.records)
    curve = growth(replace(run, records=untimed))
    assert curve.share
    assert curve.seconds == ()


def test_shared_stages_are_counted_with_the_seconds_that_they_saved(run):
    shared = sharing(run)
    records = [
        run.baseline,
        *run.records,
        *(r for rows in run.confirmations.values() for r in rows),
    ]
    stages = [stage for record in records for stage in record.stages]
    assert shared.found == sum(stage.cached for stage in stages)
    assert shared.saved_seconds == pytest.approx(sum(s.seconds for s in stages if s.cached))


def test_failures_are_listed_by_kind_with_their_trials(run):
    assert [number for number, _ in failures(run)["out_of_memory"]] == [4, 37]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (22_713_216, "byte", "22.7 MB"),
        (0.0171, "second", "17.1 ms"),
        (7300.0, "second", "2.03 h"),
        (0.8315, "fraction", "83.2 %"),
        (0.0021, "joule", "2.10 mJ"),
        (4.6e9, "FLOP", "4.60 GFLOP"),
        (22.7e6, "count", "22.7 million"),
        (0.0417, "kWh", "41.7 Wh"),
        (0, "byte", "0 B"),
        (1.0451, "bit/byte", "1.05 bits/byte"),
        (3.2, "furlong", "3.20 furlong"),
        (None, "byte", "-"),
    ],
)
def test_figures_are_shown_in_the_unit_that_suits_them(value, unit, text):
    assert readable(value, unit) == text


def test_one_scale_serves_all_values_of_a_metric():
    assert scale_of([900, 23e6, 91e6], "byte").label == "MB"


def test_the_front_is_printed_without_pandas_plotly_or_optuna(tmp_path):
    folder = run_folder(tmp_path)
    code = (
        "import sys\nfrom paretune.cli import main\n"
        f"try:\n    main(['front', {str(folder)!r}])\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "print(sorted({'pandas', 'plotly', 'optuna', 'torch', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
