"""How soon each way finds the front of a made-up table: what is paid, told and compared."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from joint_cases import made_up_ground, made_up_table
from paretune.benchmarks import joint_arms, time_to_front_ways
from paretune.benchmarks.joint_table import Ground, Yardstick, table_seconds, unshared
from paretune.benchmarks.time_to_front import compared, main, paragraph, ratio, soonest
from paretune.benchmarks.time_to_front_ways import NAIVE, OURS, WAYS, Course, Kept, Race, Way
from paretune.errors import StudyError
from paretune.search.engines.replay import Replay, VirtualClock
from paretune.search.records import Ask, Record

ALL_KEPT = Way("random", "all")


@pytest.fixture(scope="module")
def ground() -> Ground:
    return made_up_ground()


@pytest.fixture(scope="module")
def table(ground: Ground) -> list[Record]:
    return made_up_table(ground)


@pytest.fixture(scope="module")
def whole(ground: Ground, table: list[Record]) -> float:
    return Yardstick.of(table, ground.rows).volume(table)


def test_without_a_store_every_record_pays_for_all_of_its_stages(table: list[Record]):
    apart = unshared(table)
    assert table_seconds(apart) > 3 * table_seconds(table)
    clock = VirtualClock()
    replay = Replay(apart, clock)
    for record, own in zip(table[:20], apart, strict=False):
        alone = Replay(table, clock).answer(Ask(1, record.configuration, 0, 0), None)
        told = replay.answer(Ask(1, record.configuration, 0, 0), None)
        assert told.seconds == pytest.approx(alone.seconds)
        assert len({stage.key for stage in own.stages}) == len(record.stages)


def test_stages_that_are_kept_are_still_shared(table: list[Record]):
    kept = frozenset(stage.key for stage in table[0].stages)
    apart = unshared(table, kept)
    assert kept == {stage.key for stage in apart[0].stages}
    assert table_seconds(table) < table_seconds(apart) < table_seconds(unshared(table))


@pytest.mark.parametrize("kept", ["all", "nothing"])
def test_a_sampler_reckons_with_what_the_store_keeps(
    ground: Ground, table: list[Record], monkeypatch: pytest.MonkeyPatch, kept: Kept
):
    problems, row = [], joint_arms.sampler("random")

    def make(problem, seed):
        problems.append(problem)
        return row.make(problem, seed)

    monkeypatch.setattr(joint_arms, "sampler", lambda name: replace(row, make=make))
    Race(ground, table, 0.0, least=3).run(Way("greybox", kept, costed=True), 0, {})
    jobs = [problems[0].job(record.configuration, None) for record in table[:9]]
    names = [{piece.name for piece in job.pieces} for job in jobs]
    stages = [{s.key for s in r.stages} for r in (table if kept == "all" else unshared(table))]
    assert all(told <= there for told, there in zip(names, stages, strict=False))
    assert (len(set.union(*names)) < sum(map(len, names))) is (kept == "all")
    assert (len({job.session for job in jobs}) == len(jobs)) is (kept == "nothing")


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_trials_take_longer_when_nothing_is_kept(
    ground: Ground, table: list[Record], sampler: str
):
    race = Race(ground, table, 0.0, least=20)
    kept, nothing = (race.run(Way(sampler, k), 1, {}) for k in ("all", "nothing"))
    assert kept.volumes == nothing.volumes
    assert all(a <= b for a, b in zip(kept.seconds, nothing.seconds, strict=True))
    assert nothing.seconds[-1] > 1.5 * kept.seconds[-1]


def test_tpe_asks_again_and_naive_tpe_pays_again(
    ground: Ground, table: list[Record], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(time_to_front_ways, "DRAWS", 40)
    race = Race(ground, table, goal=1e9)
    naive, careful, stored = (
        race.run(Way("tpe", k), 0, {}) for k in ("nothing", "baseline", "all")
    )
    assert len(naive.volumes) == len(careful.volumes) == len(stored.volumes) == 40
    steps = [np.diff(course.seconds) for course in (naive, careful, stored)]
    free = [int((step == 0.0).sum()) for step in steps]
    assert free[1] == free[2] > free[0]
    assert naive.seconds[-1] > careful.seconds[-1] > stored.seconds[-1]
    assert stored.seconds[-1] <= table_seconds(table) + 1e-6
    assert naive.seconds[0] == careful.seconds[0] == stored.seconds[0]


def test_a_search_ends_with_its_goal_and_not_before_its_least(
    ground: Ground, table: list[Record], whole: float
):
    for way in (ALL_KEPT, WAYS[NAIVE]):
        soon = Race(ground, table, 0.3 * whole).run(way, 0, {})
        assert soon.volumes[-1] >= 0.3 * whole > max([*soon.volumes[:-1], 0.0])
        assert soon.volumes == sorted(soon.volumes)
        late = Race(ground, table, 0.3 * whole, least=20).run(way, 0, {})
        assert len(late.volumes) == max(20, len(soon.volumes))
        assert late.seconds[: len(soon.seconds)] == soon.seconds


def test_what_was_paid_for_is_noted_when_it_was_there(ground: Ground, table: list[Record]):
    race = Race(ground, table, 0.0, least=20)
    kept, nothing = (race.run(Way("tpe", k), 0, {}) for k in ("all", "nothing"))
    trained = {s.training for r in table for s in r.stages} - {None}
    assert 1 < len(kept.trainings) <= len(trained) < len(nothing.trainings)
    assert {at for _, at in kept.trainings} <= set(kept.seconds)
    assert kept.asking > 0.0


def test_a_table_with_holes_is_refused(ground: Ground, table: list[Record]):
    with pytest.raises(StudyError, match="the table lacks"):
        Race(ground, table[:20], 0.0, least=10).run(ALL_KEPT, 0, {})


def test_a_course_tells_when_and_how_much():
    course = Course([1.0, 4.0, 9.0], [0.1, 0.1, 0.5])
    assert [course.at(s) for s in (0.5, 4.0, 100.0)] == [0.0, 0.1, 0.5]
    assert [course.until(v) for v in (0.1, 0.3, 0.6)] == [1.0, 9.0, None]
    assert [course.after(n) for n in (2, 3, 7)] == [0.1, 0.5, 0.5]


def test_a_ratio_is_the_geometric_mean_of_pairs_with_students_interval():
    told = ratio([2.0, 8.0], [1.0, 1.0], [9.0, 9.0])
    assert told["mean"] == pytest.approx(4.0)
    # logarithms ln 2 and ln 8: standard error ln 2, t(.975, 1) = 12.706
    assert told["high"] == pytest.approx(4.0 * 2.0**12.706, rel=1e-3)
    assert ratio([2.0, None], [1.0, 1.0], [9.0, 8.0])["at_least"] is True
    assert ratio([2.0, None], [1.0, 1.0], [9.0, 8.0])["mean"] == pytest.approx(4.0)
    assert ratio([2.0, 2.0], [1.0, None], [9.0, 9.0]) is None
    assert ratio([2.0], [1.0], [2.0])["low"] is None


def test_no_search_is_sooner_than_the_trainings_that_a_goal_needs(
    ground: Ground, table: list[Record], whole: float
):
    bounds = [soonest(ground, table, share * whole) for share in (0.1, 0.5, 0.9)]
    assert bounds == sorted(bounds)
    assert bounds[0] == table[0].seconds
    reached = Race(ground, table, 0.5 * whole).run(WAYS["TPE with store"], 0, {})
    assert reached.until(0.5 * whole) >= bounds[1]


def test_all_ways_are_compared_at_the_same_goals(
    ground: Ground, table: list[Record], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(time_to_front_ways, "DRAWS", 60)
    ways = {
        NAIVE: WAYS[NAIVE],
        "TPE with store": WAYS["TPE with store"],
        OURS: WAYS["TPE with store"],
    }
    result = compared(ground, table, 2, 20, ways)
    json.dumps(result, allow_nan=False)
    goal = f"{NAIVE} after 20 trials"
    assert result["ratios"][goal][OURS]["mean"] == pytest.approx(1.0)
    assert result["ratios"][goal][NAIVE]["mean"] > 1.5
    assert 0.0 < result["goals"][goal] < result["whole"]
    text = paragraph(result)
    for name in ways:
        assert f"| {name} | " in text
    assert "geometric means over 2 seeds" in text.lower()


def test_a_missing_study_is_said_without_a_traceback(tmp_path, capsys: pytest.CaptureFixture[str]):
    assert main(["--run", str(tmp_path), "--study", str(tmp_path / "no.yaml")]) == 2
    assert "no.yaml" in capsys.readouterr().err
