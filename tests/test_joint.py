"""Joint search against the usual habit, on a table that is made up: nothing is trained here."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from joint_cases import EXAMPLE, made_up_ground, made_up_table
from paretune.benchmarks import joint_arms
from paretune.benchmarks.joint import (
    MOMENTS,
    SHOWN,
    Outcome,
    against_best,
    caught_up,
    compared,
    difference,
    main,
    paragraph,
    replayed,
)
from paretune.benchmarks.joint_arms import Search, alone_space, arm_of, arms_of, best_finetuning
from paretune.benchmarks.joint_table import (
    Ground,
    Yardstick,
    every_configuration,
    read_table,
    shared_costs,
    table_seconds,
    timing_seconds,
)
from paretune.errors import RunError, StudyError, UnknownName, WorkFailed
from paretune.evaluators.metric import StageCost
from paretune.search.budget import Budget
from paretune.search.engines.replay import Replay, VirtualClock
from paretune.search.jobs import Jobs
from paretune.search.records import Record
from paretune.search.rules import Knowledge
from paretune.search.storage import StudyStorage
from paretune.search.study import Study, load_study
from paretune.spaces.configuration import Choice, Configuration
from paretune.spaces.lower import lower

ARMS = [
    "joint", "habit", "alone-finetuning", "alone-structure", "alone-recovery", "alone-precision",
    "alone-runtime",
]  # fmt: skip
MINUTES = 3.5


@pytest.fixture(scope="module")
def ground() -> Ground:
    return made_up_ground()


@pytest.fixture(scope="module")
def table(ground: Ground) -> list[Record]:
    return made_up_table(ground)


@pytest.fixture(scope="module")
def outcomes(ground: Ground, table: list[Record]) -> dict[str, Outcome]:
    return {arm: replayed(ground, table, arm, 1, MINUTES) for arm in ARMS}


def told(ground: Ground, table: list[Record], folder: Path, arm: str, minutes: float):
    """The records of one replay, in the order of their numbers, and what was settled on."""
    clock = VirtualClock()
    storage = StudyStorage.open(folder, ground.header(), clock=clock)
    try:
        search = Search(ground, storage, Replay(table, clock).run, 0, minutes)
        settled = arm_of(ground, arm)(search)
        return [record for _, record in sorted(storage.records.items())], settled
    finally:
        storage.close()


def test_the_example_is_a_few_hundred_configurations_on_five_trainings(ground: Ground):
    whole = replace(ground, study=load_study(EXAMPLE))
    found = every_configuration(whole)
    assert len(found) == 359  # and the baseline
    assert len({c.digest for c in found}) == 359
    subject = ground.material.subject
    trainings = [lower(c, subject).trainings for c in found]
    assert len(set(trainings)) == 5
    assert len(set(trainings[:4])) == 4  # one of each but the baseline's comes first


def test_a_range_has_no_table(ground: Ground):
    study = load_study(EXAMPLE, ["space.finetuning.lora.rank=[4, 32]"])
    with pytest.raises(StudyError, match=r"finetuning\.lora\.rank is a range"):
        every_configuration(replace(ground, study=study))


@pytest.mark.parametrize("arm", ARMS)
def test_the_same_seed_gives_the_same_search(
    ground: Ground, table: list[Record], outcomes: dict[str, Outcome], arm: str
):
    assert replayed(ground, table, arm, 1, MINUTES) == outcomes[arm]


def test_the_sampler_of_the_example_gives_the_same_search_again(
    ground: Ground, table: list[Record]
):
    study = Study.from_dict({**ground.study.to_json(), "sampler": "greybox"})
    ground, memories = replace(ground, study=study), {}
    found = [replayed(ground, table, "habit", 1, 2.0, memories=memories) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0].volumes == sorted(found[0].volumes)


@pytest.mark.parametrize("arm", ARMS)
def test_hypervolume_never_falls(outcomes: dict[str, Outcome], arm: str):
    volumes = outcomes[arm].volumes
    assert len(volumes) == len(MOMENTS)
    assert volumes == sorted(volumes)
    assert volumes[-1] > 0


@pytest.mark.parametrize("arm", ["joint", "habit"])  # one slot alone is tried out before
def test_nothing_is_asked_after_the_time_and_nothing_later_counts(
    ground: Ground, table: list[Record], tmp_path: Path, arm: str
):
    records, _ = told(ground, table, tmp_path, arm, MINUTES)
    ends = [record.finished for record in records]
    assert all(record.started <= MINUTES * 60 for record in records)
    assert max(ends) >= MINUTES * 60 > sorted(ends)[-2]  # one worker: only the last one overruns
    timely = replayed(ground, table, arm, 0, MINUTES).trials
    assert timely == sum(end <= MINUTES * 60 for end in ends)


def test_the_habit_first_changes_the_fine_tuning_alone_and_then_never(
    ground: Ground, table: list[Record], tmp_path: Path
):
    records, settled = told(ground, table, tmp_path, "habit", 6.0)
    alone = [len(record.configuration.choices) == 1 for record in records]
    first = records[: alone.index(False)]
    second = records[alone.index(False) :]
    assert len({record.configuration.get("finetuning") for record in first}) == 5
    assert settled == best_finetuning(first) == Choice.of(
        "lora", alpha_ratio=2.0, learning_rate=2e-3, merge="merge", rank=16, targets="all-linear"
    )  # fmt: skip
    assert len(second) > 5
    assert {record.configuration.get("finetuning") for record in second} == {settled}


def test_the_habit_settles_at_half_time_on_what_it_has_seen(
    ground: Ground, table: list[Record], tmp_path: Path
):
    records, settled = told(ground, table, tmp_path, "habit", 1.5)
    begun = [r for r in records if len(r.configuration.choices) == 1]
    assert len(begun) < 5
    assert all(record.started <= 45.0 for record in begun)
    assert settled in {record.configuration.get("finetuning") for record in begun}


def test_joint_search_changes_several_parts_at_once(
    ground: Ground, table: list[Record], tmp_path: Path
):
    records, settled = told(ground, table, tmp_path, "joint", MINUTES)
    assert settled is None
    assert len({r.configuration.get("finetuning") for r in records}) > 1
    assert {slot for r in records for slot, _ in r.configuration} == set(ground.study.space)


def test_every_slot_with_a_choice_is_an_arm_of_its_own(ground: Ground):
    assert list(arms_of(ground)) == ARMS
    data = ground.study.to_json()
    fixed = {**data["space"], "precision": {"methods": ["int8"]}, "runtime": {"methods": ["eager"]}}
    fixed["finetuning"] = {"methods": ["full"], "full": {"learning_rate": 2e-4}}
    fewer = replace(ground, study=Study.from_dict({**data, "space": fixed}))
    assert list(arms_of(fewer)) == ["joint", "alone-structure", "alone-recovery", "alone-precision"]
    with pytest.raises(UnknownName, match="did you mean 'alone-runtime'"):
        arm_of(ground, "runtime")


@pytest.mark.parametrize("slot", ["finetuning", "structure", "precision"])
def test_an_arm_alone_changes_its_slot_and_nothing_else(
    ground: Ground, table: list[Record], tmp_path: Path, slot: str
):
    records, settled = told(ground, table, tmp_path, f"alone-{slot}", 10.0)
    baseline = ground.material.subject.baseline
    changes = [
        {s for s in ground.study.space if r.configuration.get(s) != baseline.get(s)}
        for r in records
    ]
    assert settled is None
    assert changes[0] == set()
    assert set().union(*changes) == {slot}
    tried = {r.configuration for r in records} - {baseline}
    assert tried == set(every_configuration(ground, alone_space(ground, slot)))


@pytest.mark.parametrize("costed", [True, False])
def test_samplers_are_told_what_candidates_take_unless_the_ground_says_no(
    ground: Ground, table: list[Record], tmp_path: Path, monkeypatch, costed: bool
):
    told_, row = [], joint_arms.sampler("random")

    def make(problem, seed):
        told_.append(problem)
        return row.make(problem, seed)

    monkeypatch.setattr(joint_arms, "sampler", lambda name: replace(row, make=make))
    told(replace(ground, costed=costed), table, tmp_path, "joint", 0.8)
    assert {problem.job is not None for problem in told_} == {costed}


def test_a_job_names_what_the_store_keeps(ground: Ground):
    subject = ground.material.subject
    storage = cast("StudyStorage", SimpleNamespace(records={}, notes={}))
    knowledge = Knowledge(ground.study, ground.material, ground.space, storage)
    job = knowledge.problem(Budget(minutes=1.0)).job
    assert knowledge.problem(Budget(trials=9)).job is None
    assert knowledge.problem(Budget(trials=9, minutes=1.0)).trial_seconds > 0.0
    for configuration in every_configuration(ground)[::7]:
        kept = [node for node in lower(configuration, subject) if node.kept]
        found = job(configuration, None)
        assert [piece.name for piece in found.pieces] == [node.key for node in kept]
        assert [piece.kind for piece in found.pieces] == [node.step.name for node in kept]
        assert all(piece.size >= 1.0 for piece in found.pieces)
    int8 = Choice.of("int8", embeddings="int8", head="fp32")
    rounded = job(Configuration.of(**dict(subject.baseline), precision=int8), None)
    assert rounded.pieces == job(subject.baseline, None).pieces
    assert rounded.session != job(subject.baseline, None).session


def test_the_rungs_of_a_job_add_up_to_the_whole(ground: Ground):
    subject = replace(ground.material.subject, rungs=(0.25, 1.0))
    jobs = Jobs(subject, 64, first_rung=lambda c: 0, timed=lambda rung: rung == 1)
    low, high = (jobs(subject.baseline, rung) for rung in (0, 1))
    whole = Jobs(ground.material.subject, 64, lambda c: 0, lambda rung: True)(subject.baseline)
    assert low.session is None
    assert high.pieces[:1] == low.pieces
    assert sum(piece.size for piece in high.pieces) == pytest.approx(whole.pieces[0].size)
    assert low.pieces[0].size == pytest.approx(0.25 * whole.pieces[0].size)


def test_too_little_time_for_one_fine_tuning_is_said(ground: Ground, table: list[Record]):
    failed = [replace(record, rungs=()) for record in table[:1]]
    with pytest.raises(RunError, match="give more --minutes"):
        best_finetuning(failed)


def test_a_configuration_that_was_never_run_is_reported(ground: Ground, table: list[Record]):
    holes = [record for record in table if record.configuration.get("runtime") is None]
    missing = replayed(ground, holes, "joint", 0, 2.0).missing
    assert missing
    assert all(configuration.get("runtime") for configuration in missing)


@pytest.mark.parametrize("arm", ARMS)
def test_a_replay_can_keep_to_what_an_incomplete_table_holds(
    ground: Ground, table: list[Record], arm: str
):
    holes = [record for record in table if record.configuration.get("runtime") is None]
    done = replayed(ground, holes, arm, 0, 2.0, held=True)
    assert done.missing == ()
    assert done.trials > 2 or arm.startswith("alone")


def test_a_replay_with_gaps_is_called_no_comparison(ground: Ground, table: list[Record]):
    holes = [record for record in table if record.configuration.get("runtime") is None]
    assert paragraph(compared(ground, holes, 1, 1.5)).startswith("**No comparison yet**")
    kept = compared(ground, holes, 1, 1.5, held=True)
    assert kept["missing"] == []
    assert "flatters joint search" in paragraph(kept)


def test_all_arms_are_compared_by_seed(ground: Ground, table: list[Record]):
    result = compared(ground, table, 2, MINUTES)
    json.dumps(result, allow_nan=False)
    assert list(result["arms"]) == ARMS
    shares = {arm: np.array(told["by_seed"]) for arm, told in result["arms"].items()}
    gap = np.mean(shares["joint"] - shares["habit"], axis=0)
    assert result["difference"]["mean"] == pytest.approx(gap.tolist())
    best = np.max([shares[arm].mean(axis=0) for arm in ARMS[1:]], axis=0)
    assert result["best_other"]["difference"]["mean"] == pytest.approx(
        (shares["joint"].mean(axis=0) - best).tolist()
    )
    assert result["attainable"]["everything"] >= np.max(list(shares.values()))
    assert result["missing"] == []
    text = paragraph(result)
    assert "| 100% |" in text
    assert "2 seeds" in text
    for arm in ARMS:
        assert f"| {arm} | " in text


def test_the_interval_is_students_of_the_paired_difference():
    volumes = [[0.0] * 20, [0.0] * 19 + [2.0]]
    ours = [Outcome([v + 1.0 for v in row], 1, 1, None) for row in volumes]
    theirs = [Outcome([v] * 20, 1, 1, None) for v in (0.0, 1.0)]
    rows = [np.array([[o.volumes[-1]] for o in outcomes]) for outcomes in (ours, theirs)]
    gap = difference(*rows)
    assert gap["mean"] == pytest.approx([1.5])
    # two differences of 1 and 2: t(.975, 1) = 12.706, standard error .5
    assert gap["half_95"][-1] == pytest.approx(12.706 * 0.5, rel=1e-4)
    assert gap["wins"] == [2]
    assert caught_up(ours, theirs) == MOMENTS[0]


def test_joint_search_is_held_against_the_best_of_the_others_at_every_moment():
    found = against_best({
        "joint": np.array([[2.0, 3.0], [4.0, 5.0]]),
        "early": np.array([[2.0, 2.0], [2.0, 2.0]]),
        "late": np.array([[0.0, 4.0], [0.0, 6.0]]),
    })  # fmt: skip
    assert found["arm"] == ["early", "late"]
    assert found["difference"]["mean"] == [1.0, -1.0]
    assert found["ratio"] == pytest.approx([1.5, 0.8])
    nothing = {"joint": np.ones((2, 1)), "other": np.zeros((2, 1))}
    assert against_best(nothing)["ratio"] == [None]
    assert against_best({"joint": np.ones((2, 1))}) is None


def test_results_of_two_arms_can_still_be_told():
    stored = EXAMPLE.parents[1] / "benchmarks" / "results" / "joint.json"
    result = json.loads(stored.read_text())
    text = paragraph(result)
    assert "| habit | 0.0011 ± 0.0001 |" in text
    assert "| +0.0038 ± 0.0000 |" in text
    assert len(result["moments"]) == len(SHOWN)


def test_the_reference_lies_a_tenth_beyond_the_baseline(ground: Ground, table: list[Record]):
    yardstick = Yardstick.of(table, ground.rows)
    base = table[0]
    assert yardstick.reference["accuracy"] == pytest.approx(0.9 * base.value("accuracy"))
    assert yardstick.reference["latency_p50"] == pytest.approx(1.1 * base.value("latency_p50"))
    assert yardstick.volume([base]) == pytest.approx(0.1**3)
    with pytest.raises(WorkFailed, match="the baseline has no figures"):
        Yardstick.of(table[1:], ground.rows)


def test_a_timing_session_is_paid_once_in_every_replay():
    blank = Configuration()
    stage = StageCost("train", "train.finetune", 10.0, True, False, "t")
    files = {"timings": "same"}
    first = Record(1, blank, "final", files=files, stages=(stage,), seconds=17.0)
    cached = replace(stage, cached=True)
    second = Record(2, blank, "final", files=files, stages=(cached,), seconds=2.0)
    told = shared_costs([first, second], {1: 5.0})
    assert [s.seconds for s in told[1].stages] == [10.0, 5.0]
    assert [s.cached for s in told[0].stages] == [False, False]
    assert table_seconds(told) == pytest.approx(10.0 + 5.0 + 2.0 + 2.0)


def test_waiting_and_starting_are_not_billed_to_one_configuration():
    rows = [Record(n, Configuration(), "final", seconds=2.0) for n in range(1, 60)]
    waited = Record(60, Configuration(), "final", seconds=90.0)
    start = Record(0, Configuration(), "final", purpose="baseline", seconds=30.0)
    told = shared_costs([start, *rows, waited], {})
    assert told[0].seconds == 30.0
    assert told[-1].seconds == pytest.approx(2.0)


def test_timing_sessions_are_read_from_a_run_s_log(tmp_path: Path):
    events = [
        {"kind": "asked", "text": "baseline", "at": 1.0},
        {"kind": "step", "text": "measure speed", "at": 2.0},
        {"kind": "step", "text": "measure speed", "number": 3, "at": 4.0},
        {"kind": "told", "text": "final", "at": 5.5},
        {"kind": "told", "text": "final", "number": 2, "at": 6.0},
        {"kind": "told", "text": "final", "number": 3, "at": 6.5},
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(event) + "\n" for event in events))
    assert timing_seconds(log) == {0: 3.5, 3: 2.5}


def test_a_table_is_read_from_its_run(ground: Ground, table: list[Record], tmp_path: Path):
    records, _ = told(ground, table, tmp_path, "joint", 1.0)
    (tmp_path / "log.jsonl").write_text("")
    there = read_table(tmp_path)
    assert there[0].purpose == "baseline"
    assert {r.configuration.digest for r in there} == {r.configuration.digest for r in records}


def test_a_missing_run_is_said_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        main(["replay"])
    assert main(["replay", "--run", str(tmp_path), "--study", str(tmp_path / "no.yaml")]) == 2
    assert "no.yaml" in capsys.readouterr().err
