import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from types import SimpleNamespace

import pytest
from paretune.errors import BadRequest, RunError, StorageFailed, WorkFailed
from paretune.evaluators.metric import StageCost
from paretune.evaluators.waits import WAITS
from paretune.search.budget import Budget
from paretune.search.driver import Done, Driver
from paretune.search.engines import slot
from paretune.search.engines.attempt import attempt
from paretune.search.engines.local import run_here, run_processes
from paretune.search.engines.replay import Replay, VirtualClock
from paretune.search.engines.slot import Limits
from paretune.search.events import Event, log_to, paced
from paretune.search.records import Ask, Failure, Record, Rung
from paretune.search.run import read_run
from paretune.search.storage import StudyStorage
from paretune.spaces.configuration import Configuration

HERE = Path(__file__).parent


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    import search_cases

    return search_cases


@pytest.fixture
def begin(toy, tmp_path):
    """Opens the run of this test with some rules; closed at the end."""
    opened = []

    def open_(clock=None, **changes):
        clocks = {"clock": clock} if clock else {}
        storage = StudyStorage.open(tmp_path / "run", toy.header(), **clocks)
        opened.append(storage)
        return Driver(storage, toy.rules(**changes)), storage

    yield open_
    for storage in opened:
        storage.close()


def states(storage):
    return {
        number: (r.state, r.failure.kind if r.failure else None, r.attempts)
        for number, r in storage.records.items()
    }


def test_an_attempt_turns_whatever_goes_wrong_into_data(toy):
    def run(work):
        record = attempt(work, Ask(3, toy.BASELINE, 0, 0), None, lambda *_: None)
        assert record.number == 3
        assert record.state == "failed"
        return record.failure.kind, record.failure.message

    def memory(ask, prior, report):
        raise MemoryError

    def mistake(ask, prior, report):
        raise ValueError("a mistake")

    assert run(memory) == ("out_of_memory", "out of memory")
    assert run(mistake)[0] == "crashed"
    assert "ValueError: a mistake" in run(mistake)[1]
    assert run(lambda *_: Record(4, toy.BASELINE, "final"))[1] == "the work returned another trial"
    assert "neither" in run(lambda *_: Record(3, toy.BASELINE, "final"))[1]


def test_a_failed_attempt_keeps_what_lower_rungs_said(toy):
    ask = Ask(3, toy.BASELINE, 1, 0)
    prior = toy.work(replace(ask, rung=0), None, lambda *_: None, rungs=2)

    def memory(ask, prior, report):
        raise MemoryError

    record = attempt(memory, ask, prior, lambda *_: None)
    assert record.rungs == prior.rungs
    assert record.seconds >= prior.seconds


def test_a_failed_attempt_does_not_pay_for_what_it_waited(toy):
    def work(ask, prior, report):
        with WAITS.waiting():
            time.sleep(0.1)
        raise MemoryError

    record = attempt(work, Ask(3, toy.BASELINE, 1, 0), None, lambda *_: None)
    assert record.seconds <= record.finished - record.started - 0.1


def test_waiting_for_others_times_no_trial_out(toy, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(slot, "time", SimpleNamespace(time=lambda: clock.now))
    worker = slot.Slot(pickle.dumps(toy.waits_a_minute), Limits(seconds=10))
    worker.give(Ask(0, toy.BASELINE, 0, 0), None)
    try:
        while not (news := list(worker.news())):
            wait(worker.handles())
        assert [event.text for event in news] == ["waited"]
        clock.now = 65.0
        assert list(worker.news()) == []
        clock.now = 75.0
        (record,) = worker.news()
        assert record.failure.kind == "timeout"
    finally:
        worker.stop()


def test_workers_find_what_one_process_finds(toy, tmp_path, begin):
    driver, storage = begin()
    events = []
    done = run_processes(driver, toy.work, workers=2, listen=events.append)
    assert isinstance(done, Done)
    assert len(storage.records) == 8
    _, alone = toy.finish(tmp_path / "alone")
    # random draws do not lean on what came back, so two workers ask what one asks
    assert [toy.plain(r) for _, r in sorted(storage.records.items())] == alone
    for number in range(8):
        said = [event.kind for event in events if event.number == number]
        assert said == ["asked", "step", "told"]


def test_every_way_to_fail_is_stored_and_the_search_goes_on(toy, begin):
    driver, storage = begin(
        baseline=None,
        enqueue=tuple(toy.lora(rank) for rank in (6, 1, 2, 3, 4, 5)),
        budget=Budget(trials=7),
        make_sampler=lambda seed: toy.sampler(12),
    )
    limits = Limits(seconds=12, memory_bytes=400_000_000)
    run_processes(driver, toy.troubled, workers=2, limits=limits)
    found = states(storage)
    assert found[0] == ("final", None, 1)
    assert found[1] == ("final", None, 2)  # killed once, then fine
    assert found[2] == ("failed", "timeout", 2)
    assert found[3] == ("failed", "out_of_memory", 1)
    assert found[4] == ("failed", "diverged", 1)
    assert found[5] == ("failed", "crashed", 2)
    assert "ValueError: a mistake" in storage.records[5].failure.message
    assert "12 s" in storage.records[2].failure.message


def test_a_full_disk_stops_a_search_and_fails_no_trial(toy, begin):
    driver, storage = begin()
    with pytest.raises(StorageFailed, match=r"stage: No space left on device; free space there"):
        run_processes(driver, toy.full_disk)
    assert [r.state for _, r in sorted(storage.records.items())] == ["final", "final", "running"]
    run_here(Driver(storage, toy.rules()), toy.work)
    assert {r.state for r in storage.records.values()} == {"final"}


def test_a_worker_that_cannot_begin_is_an_error_and_not_a_failed_trial(toy, begin, monkeypatch):
    driver, _ = begin()
    monkeypatch.setattr("pickle.dumps", lambda work: b"no pickle at all")
    with pytest.raises(WorkFailed, match="before it began"):
        run_processes(driver, toy.work)


def test_workers_have_the_threads_they_were_given(toy, begin, monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    told = tmp_path / "threads"
    module = tmp_path / "telling.py"
    module.write_text(
        "import os, search_cases\n"
        "def work(path, ask, prior, report):\n"
        "    path.write_text(os.environ['OMP_NUM_THREADS'])\n"
        "    return search_cases.work(ask, prior, report)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import telling

    driver, _ = begin(budget=Budget(trials=1))
    run_processes(driver, partial(telling.work, told), limits=Limits(threads=3))
    assert told.read_text() == "3"
    assert os.environ["OMP_NUM_THREADS"] == "1"


SCRIPT = """
import sys, time
sys.path.insert(0, {here!r})
from pathlib import Path
import search_cases as toy
from paretune.search.driver import Driver
from paretune.search.engines.local import run_processes
from paretune.search.storage import StudyStorage

def slow(ask, prior, report):
    time.sleep(1.5 if ask.number == 0 else 0)
    return toy.work(ask, prior, report)

if __name__ == "__main__":
    storage = StudyStorage.open(Path({folder!r}), toy.header())
    told = lambda event: print(event.kind, event.number, flush=True)
    done = run_processes(Driver(storage, toy.rules(initial=0)), slow, listen=told)
    print(done.reason, flush=True)
    storage.close()
"""


def interrupted(folder, times):
    script = folder.with_suffix(".py")
    script.write_text(SCRIPT.format(here=str(HERE), folder=str(folder)))
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "asked 0\n"
        for press in range(times):
            process.send_signal(signal.SIGINT)
            said = process.stdout.readline() if press == 0 else "message None\n"
            assert said == "message None\n"
        rest = process.stdout.read().splitlines()
    assert process.returncode == 0
    return rest


def test_ctrl_c_once_finishes_what_is_under_way(toy, tmp_path):
    said = interrupted(tmp_path / "run", times=1)
    assert said[-1] == "interrupted"
    assert "told 0" in said
    run = read_run(tmp_path / "run")
    assert run.baseline.state == "final"
    assert not run.records


def test_ctrl_c_twice_stops_now_and_loses_nothing(toy, tmp_path):
    said = interrupted(tmp_path / "run", times=2)
    assert said[-1] == "interrupted"
    assert "told 0" not in said
    _, records = toy.finish(tmp_path / "run")
    assert [record["state"] for record in records] == ["final"] * 8


def test_workers_die_with_a_driver_that_is_killed(toy, tmp_path):
    psutil = pytest.importorskip("psutil")
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(here=str(HERE), folder=str(tmp_path / "run")))
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    while not (workers := psutil.Process(process.pid).children(recursive=True)):
        assert process.poll() is None
    process.kill()
    process.wait()
    process.stdout.close()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert workers
    assert not alive


def test_progress_within_a_step_is_told_once_in_a_while_its_beginning_and_end_always():
    told, now = [], [0.0]
    report = paced(lambda *said: told.append(said), seconds=1.0, clock=lambda: now[0])
    for done in range(401):
        now[0] = done / 100
        report("judge", done, 400)
    assert told == [("judge", done, 400) for done in (0, 100, 200, 300, 400)]
    report("measure", 0, 0)
    assert told[-1] == ("measure", 0, 0)


def test_the_log_has_a_line_of_json_for_every_event_but_progress(toy, begin, tmp_path):
    driver, _ = begin(budget=Budget(trials=2))
    run_here(driver, toy.work, log_to(tmp_path / "log.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["asked", "told", "asked", "told"]
    with pytest.raises(StorageFailed, match="free some space"):
        log_to(tmp_path)(Event("message", "x"))


def test_a_replay_answers_from_records_and_its_clock_counts_their_costs(toy, tmp_path, begin):
    toy.finish(tmp_path / "then")
    then = read_run(tmp_path / "then")
    known = [then.baseline, *then.records]
    clock = VirtualClock()
    replay = Replay(known, clock)
    driver, storage = begin(clock=clock)
    replay.run(driver)
    assert not replay.missing
    assert clock.seconds == sum(record.seconds for record in known)
    assert [r.rungs for r in storage.records.values()] == [
        tuple(replace(rung, seconds=r.seconds) for rung in r.rungs) for r in known
    ]
    assert storage.spent_seconds() == clock.seconds


def test_a_replay_pays_for_a_shared_stage_once(toy):
    clock = VirtualClock()
    stage = StageCost("key", "train.finetune", 10.0, True, False, "lora")
    first = replace(toy.work(Ask(1, toy.lora(1), 0, 0), None, lambda *_: None), stages=(stage,))
    other = toy.work(Ask(2, toy.lora(1, "int8"), 0, 0), None, lambda *_: None)
    other = replace(other, stages=(replace(stage, cached=True),), seconds=1.0)
    replay = Replay([first, other], clock)
    # asked the other way round: the one that found it made pays now
    assert replay.answer(Ask(1, other.configuration, 0, 0), None).seconds == 11.0
    assert replay.answer(Ask(2, first.configuration, 0, 0), None).seconds == 1.0


def test_a_replay_with_two_workers_takes_less_time(toy, tmp_path, begin):
    toy.finish(tmp_path / "then")
    then = read_run(tmp_path / "then")
    clock = VirtualClock()
    driver, storage = begin(clock=clock)
    Replay([then.baseline, *then.records], clock).run(driver, workers=2)
    assert len(storage.records) == 8
    assert clock.seconds < sum(record.seconds for record in [then.baseline, *then.records])


def test_a_replay_collects_what_was_never_run(toy, tmp_path, begin):
    toy.finish(tmp_path / "then")
    then = read_run(tmp_path / "then")
    clock = VirtualClock()
    replay = Replay([then.baseline, *then.records], clock)
    driver, storage = begin(clock=clock, budget=Budget(trials=10))
    replay.run(driver)
    assert [storage.records[n].configuration for n in (8, 9)] == replay.missing
    assert states(storage)[8] == ("failed", "illegal", 1)


def test_a_replay_repeats_rungs(toy, tmp_path, begin):
    def promote(records):
        return [record.number for record in records if record.state == "paused"]

    settings = {"rungs": 2, "promote": promote, "budget": Budget(trials=4)}
    toy.finish(tmp_path / "then", toy.rules(**settings), toy.work_of_two_rungs)
    then = read_run(tmp_path / "then")
    clock = VirtualClock()
    driver, storage = begin(clock=clock, **settings)
    Replay([then.baseline, *then.records], clock).run(driver)
    for record in then.records:
        again = storage.records[record.number]
        assert [r.measurements for r in again.rungs] == [r.measurements for r in record.rungs]


def test_a_replay_pays_at_every_rung_for_what_that_rung_made():
    def stage(key, step, seconds):
        return StageCost(key, step, seconds, step == "train.finetune", False)

    stages = (
        stage("quarter", "train.finetune", 10.0), stage("early", "eager.deploy", 1.0),
        stage("whole", "train.finetune", 30.0), stage("late", "eager.deploy", 1.0),
    )  # fmt: skip
    rungs = (Rung(0, {}, 13.0), Rung(1, {}, 35.0))
    then = Record(1, Configuration(), "final", rungs=rungs, stages=stages, seconds=48.0)
    replay = Replay([then], VirtualClock())
    first = replay.answer(Ask(1, then.configuration, 0, 0), None)
    assert first.seconds == 13.0
    assert [s.key for s in first.stages] == ["quarter", "early"]
    whole = replay.answer(Ask(1, then.configuration, 1, 0), first)
    assert whole.seconds == 48.0
    assert whole.stages == stages
    again = replay.answer(Ask(2, then.configuration, 1, 0), None)
    assert again.seconds == 4.0
    assert all(s.cached for s in again.stages)


def test_a_replay_charges_a_failed_rung_for_itself():
    stages = (
        StageCost("quarter", "train.finetune", 10.0, True, False),
        StageCost("early", "eager.deploy", 1.0, False, False),
        StageCost("whole", "train.finetune", 30.0, True, False),
    )
    failure = Failure("crashed", "no")
    rungs = (Rung(0, {}, 13.0),)
    then = Record(1, Configuration(), "failed", rungs=rungs, failure=failure, seconds=48.0)
    for named, kept in ((stages, 30.0), (stages[:2], 0.0)):
        replay = Replay([replace(then, stages=named)], VirtualClock())
        first = replay.answer(Ask(1, then.configuration, 0, 0), None)
        assert (first.seconds, [s.key for s in first.stages]) == (13.0, ["quarter", "early"])
        fell = replay.answer(Ask(1, then.configuration, 1, 0), first)
        assert (fell.seconds, fell.failure) == (48.0, failure)
        again = replay.answer(Ask(2, then.configuration, 1, 0), first)
        assert again.seconds == 48.0 - kept, "what it made is found"


@pytest.fixture
def ray_here(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(HERE))  # the workers import the work by name


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_finds_what_one_process_finds(toy, tmp_path, begin, ray_here):
    from paretune.search.engines.ray import Cluster, run_cluster

    _, alone = toy.finish(tmp_path / "alone")
    driver, storage = begin()
    events = []
    done = run_cluster(driver, toy.work, Cluster(workers=2), listen=events.append)
    assert "7 trials and the baseline" in done.reason
    assert [toy.plain(r) for _, r in sorted(storage.records.items())] == alone
    assert [e.kind for e in events if e.number == 3] == ["asked", "told"]


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_clusters_workers_fail_like_those_of_one_machine(toy, begin, ray_here):
    from paretune.search.engines.ray import Cluster, run_cluster

    driver, storage = begin(
        baseline=None,
        enqueue=tuple(toy.lora(rank) for rank in (6, 1, 2, 4)),
        budget=Budget(trials=5),
        make_sampler=lambda seed: toy.sampler(12),
    )
    run_cluster(driver, toy.troubled, Cluster(workers=2), Limits(seconds=20))
    found = states(storage)
    assert found[1] == ("final", None, 2)
    assert found[2] == ("failed", "timeout", 2)
    assert found[3] == ("failed", "diverged", 1)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_lost_database_stops_a_search_on_a_cluster(toy, begin, ray_here, monkeypatch):
    from paretune.search.engines.ray import Cluster, run_cluster

    driver, _ = begin()

    def lost(record):
        raise StorageFailed("the disk is full")

    monkeypatch.setattr(driver, "tell", lost)
    with pytest.raises(StorageFailed, match="disk is full"):
        run_cluster(driver, toy.work, Cluster(workers=1))


@pytest.mark.filterwarnings("ignore")
def test_an_actor_that_is_lost_says_why(toy, begin, tmp_path):
    tune = pytest.importorskip("paretune.search.engines.tune", exc_type=ImportError)
    driver, storage = begin()
    searcher = tune.DriverSearcher(driver, 1, lambda event: None, lambda: False)
    searcher.suggest("a")
    searcher.on_trial_complete("a", error=True)
    (tmp_path / "error.txt").write_text(
        "Failure # 1\n\x1b[36mray::setup()\x1b[39m\nImportError: no peft here\n"
    )
    trial = SimpleNamespace(trial_id="a", error_file=str(tmp_path / "error.txt"))
    tune.LostActors(searcher).on_trial_error(0, [trial], trial)
    failure = storage.records[0].failure
    assert failure.kind == "crashed"
    assert failure.message.startswith("the worker was lost: ray::setup()")
    assert failure.last_words == "ImportError: no peft here"


@pytest.mark.filterwarnings("ignore")
def test_actors_use_the_drivers_store_whatever_their_node_has(toy, monkeypatch, tmp_path):
    tune = pytest.importorskip("paretune.search.engines.tune", exc_type=ImportError)
    from paretune.search.engines.ray import _variables

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARETUNE_CACHE", "shared")
    told = _variables()
    assert told["PARETUNE_CACHE"] == str(tmp_path / "shared")
    monkeypatch.setenv("PARETUNE_CACHE", "/of/the/node")
    ask = Ask(0, toy.BASELINE, 0, 0)
    actor = object.__new__(tune.SlotActor)
    actor.setup({"ask": json.dumps(ask.to_json()), "prior": "null"}, variables=told)
    assert os.environ["PARETUNE_CACHE"] == told["PARETUNE_CACHE"]


def test_several_nodes_without_a_shared_store_are_refused(toy, monkeypatch, begin):
    from paretune.search.engines import ray as engine

    class TwoNodes:
        def is_initialized(self):
            return True

        def nodes(self):
            return [{"Alive": True}, {"Alive": True}, {"Alive": False}]

    monkeypatch.setattr(engine, "_ray", TwoNodes)
    driver, _ = begin()
    with pytest.raises(RunError, match="2 nodes"):
        engine.run_cluster(driver, toy.work, engine.Cluster())


def test_a_search_on_a_cluster_without_ray_says_what_to_install(toy, monkeypatch, begin):
    from paretune.search.engines import ray as engine

    monkeypatch.setitem(sys.modules, "ray", None)
    driver, _ = begin()
    with pytest.raises(BadRequest, match=r"pip install paretune\[ray\]"):
        engine.run_cluster(driver, toy.work, engine.Cluster())
