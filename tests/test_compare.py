"""Runs beside each other: one box, one reference point, who beats whom."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from paretune.cli import main
from paretune.errors import BadRequest, UnknownName
from paretune.evaluators.measurement import Measurement
from paretune.reports.compare import compare, note, rows
from paretune.search.front import front_of
from paretune.search.run import Run
from report_cases import made_up_run

HALVED = ("latency_p50", "model_bytes")


def changed(run: Run, folder: str, figure: Callable[[str, Measurement], Measurement]) -> Run:
    """The same run in another folder, every trial's figures changed."""
    records = tuple(
        replace(
            record,
            rungs=tuple(
                replace(r, measurements={n: figure(n, m) for n, m in r.measurements.items()})
                for r in record.rungs
            ),
        )
        for record in run.records
    )
    return replace(run, folder=Path(folder), records=records)


def better(run: Run, folder: str) -> Run:
    """The same run with every trial half as slow and half as large."""

    def halved(name: str, figure: Measurement) -> Measurement:
        return replace(figure, value=figure.value / 2) if name in HALVED else figure

    return changed(run, folder, halved)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    at = tmp_path_factory.mktemp("compare")
    front = [record.number for record in front_of(made_up_run(at / "first")).records]
    return made_up_run(at / "one", confirmed=tuple(front[:3]))


def test_a_run_that_is_better_everywhere_beats_every_point_of_the_other(run: Run):
    found = compare([run, better(run, "two")])
    mine, theirs = found["runs"]
    assert found["objectives"] == ["accuracy", "latency_p50", "model_bytes"]
    assert mine["beaten_by"] == {"two": 1.0}
    assert theirs["beaten_by"] == {str(run.folder): 0.0}
    assert 0 < mine["hypervolume"] < theirs["hypervolume"] < 1
    assert (mine["among_all"], theirs["among_all"]) == (0, theirs["points"])
    assert theirs["best"]["latency_p50"] == pytest.approx(mine["best"]["latency_p50"] / 2)


def test_equal_runs_hold_the_same_and_beat_nothing(run: Run):
    one, other = compare([run, replace(run, folder=Path("two"))], ["accuracy", "flops"])["runs"]
    assert one["hypervolume"] == other["hypervolume"]
    assert one["left_out"] == 0
    assert set(one["beaten_by"].values()) == {0.0}
    assert one["points"] == len(front_of(run, ["accuracy", "flops"]).records)


def test_the_hypervolume_of_one_objective_is_the_share_between_worst_and_best(run: Run):
    one, other = compare([run, better(run, "two")], ["model_bytes"])["runs"]
    assert other["hypervolume"] == 1.0
    assert one["hypervolume"] == pytest.approx(0.1 / 1.1)


def test_tested_figures_are_those_of_confirmed_points(run: Run):
    found = compare([run, better(run, "two")], tested=True)
    assert found["split"] == "test"
    row = found["runs"][0]
    assert row["points"] == len(run.confirmations) == 3
    assert row["left_out"] == len(front_of(run).records) - 3 > 0
    assert f"3 of {3 + row['left_out']} points were confirmed" in note(found)


@pytest.mark.parametrize(
    ("runs", "wanted", "tested", "words"),
    [
        (1, None, False, "give at least two"),
        (2, None, True, "no confirmed point"),
        (0, None, False, "other items"),
    ],
)
def test_what_cannot_be_compared_is_refused(run: Run, runs, wanted, tested, words):
    bare = replace(run, folder=Path("bare"), confirmations={})
    other = {"task": {"name": "films"}}
    given = {
        1: [run],
        2: [run, bare],
        0: [run, replace(run, folder=Path("films"), study={**run.study, **other})],
    }[runs]
    with pytest.raises(BadRequest, match=words):
        compare(given, wanted, tested=tested)


READ = {"model": "m", "train": "a", "calibration": "b", "validation": "c", "test": "d"}


def read(run: Run, folder: str, words: str = "films", **digests: str) -> Run:
    """The same run in another folder, with digests of what it read and what its study calls it."""
    study = {**run.study, "task": {"name": words}}
    return replace(run, folder=Path(folder), study=study, data={**READ, **digests})


def test_data_are_the_same_by_what_was_read_whatever_the_study_calls_them(run: Run):
    one = read(run, "one")
    assert compare([one, read(run, "two", "films.csv")])["differ"] == []
    assert compare([one, read(run, "two", train="x")])["differ"] == ["task"]
    with pytest.raises(BadRequest, match="the runs' validation data differ, so that accuracy"):
        compare([one, read(run, "two", validation="x")])
    with pytest.raises(BadRequest, match="the runs' test data differ"):
        compare([one, read(run, "two", test="x")], tested=True)
    assert compare([one, read(run, "two", validation="x")], ["flops"])["differ"] == ["task"]


def test_between_models_whose_tokens_differ_the_studys_words_say_what_was_read(run: Run):
    one, tokens = read(run, "one"), {"model": "n", "validation": "x"}
    assert compare([one, read(run, "two", **tokens)])["differ"] == ["model"]
    with pytest.raises(BadRequest, match="validation data differ"):
        compare([one, read(run, "two", "songs", **tokens)])


def test_modelled_and_measured_figures_are_not_held_against_each_other(run: Run):
    def measured(figure: Measurement) -> Measurement:
        return replace(figure, source="measured")

    other = changed(run, "two", lambda name, m: measured(m) if name == "energy" else m)
    with pytest.raises(BadRequest, match="measured in one run and modelled in another"):
        compare([run, other], ["accuracy", "energy"])
    assert compare([run, other], ["accuracy", "flops"])["runs"]


def test_other_workloads_are_compared_and_told(run: Run):
    other = replace(run, folder=Path("two"), study={**run.study, "workload": {"batch": 8}})
    found = compare([run, other])
    assert found["differ"] == ["workload"]
    assert "the studies differ in workload" in note(found)


def test_a_metric_that_one_run_lacks_is_an_unknown_name(run: Run):
    with pytest.raises(UnknownName, match="carbon"):
        compare([run, better(run, "two")], ["carbon"])


def test_the_verb_prints_rows_and_json(run: Run, tmp_path: Path, capsys):
    other = made_up_run(tmp_path / "other", seed=1)
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(run.folder), str(other.folder), "--json"])
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["run"] for row in told["runs"]] == [str(run.folder), str(other.folder)]
    assert [row["front"] for row in rows(told)] == [row["points"] for row in told["runs"]]


def by_seed(run: Run, seed: int) -> Run:
    """The same study under another seed; its latencies differ by the seed in per cent."""

    def slower(name: str, figure: Measurement) -> Measurement:
        factor = 1 + seed / 100
        return replace(figure, value=figure.value * factor) if name == "latency_p50" else figure

    other = changed(run, f"seed{seed}", slower)
    return replace(other, baseline=None, study={**run.study, "seed": seed})


def test_runs_that_differ_by_seed_are_told_by_what_half_of_them_attain(run: Run):
    runs = [by_seed(run, seed) for seed in (1, 2, 9)]
    found = compare(runs, ["accuracy", "latency_p50"])
    volumes = [row["hypervolume"] for row in found["runs"]]
    over = found["over_seeds"]
    assert over["mean"] == pytest.approx(sum(volumes) / 3)
    # each of these fronts is wholly better than the next one, so the middle one is the median
    attained = [over["attained"][name]["hypervolume"] for name in ("best", "median", "worst")]
    assert attained == pytest.approx(volumes)
    middle = front_of(runs[1], ["accuracy", "latency_p50"]).records
    told = {tuple(row) for row in over["attained"]["median"]["front"]}
    assert told == {(r.value("accuracy"), r.value("latency_p50")) for r in middle}
    assert f"attained {volumes[0]:.3f} by at least one, {volumes[1]:.3f} by half" in note(found)


def test_attainment_is_told_for_two_or_three_objectives_and_other_seeds_alone(run: Run):
    runs = [by_seed(run, seed) for seed in (1, 2)]
    assert "attained" in compare(runs)["over_seeds"]
    assert set(compare(runs, ["latency_p50"])["over_seeds"]) == {"mean", "deviation"}
    other = replace(runs[1], study={**runs[1].study, "sampler": "random"})
    assert "over_seeds" not in compare([runs[0], other])
    same = replace(runs[1], study=runs[0].study)
    assert "over_seeds" not in compare([runs[0], same])
