"""What a process waits for others is told from its own work, on an injected clock."""

import fcntl
from pathlib import Path
from types import SimpleNamespace

import pytest
from paretune.evaluators import host, waits
from paretune.evaluators.host import HostLock
from paretune.evaluators.waits import WAITS, Waits
from paretune.search.stages import POLL_SECONDS, StageCostFacts, StageStore


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(waits, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_own_work_is_what_passes_less_what_is_waited(clock):
    count = Waits()
    with count.waiting():
        clock.now += 9
    spent = count.stopwatch()
    clock.now += 2
    with count.waiting():
        clock.now += 5
    clock.now += 1
    assert spent() == 3
    assert count.seconds() == 14


def test_another_process_reads_a_wait_that_is_under_way(clock):
    count = Waits()
    reader = Waits(count.cells)
    with count.waiting():
        clock.now += 4
        assert reader.seconds() == 4
        clock.now += 1
    clock.now += 7
    assert reader.seconds() == 5


@pytest.mark.parametrize(("hold", "locks"), [("training", 3), ("measuring", 2)])
def test_what_is_waited_for_the_host_counts(clock, monkeypatch, tmp_path: Path, hold, locks):
    def slow(handle, how):
        clock.now += 1

    monkeypatch.setattr(host.fcntl, "flock", slow)
    before = WAITS.seconds()
    with getattr(HostLock(tmp_path), hold)():
        clock.now += 10
    assert WAITS.seconds() - before == locks


def test_what_is_waited_for_another_maker_of_a_stage_counts(tmp_path: Path):
    store = StageStore(tmp_path)
    other = (tmp_path / "locks" / "k.lock").open("w")
    fcntl.flock(other, fcntl.LOCK_EX)
    before = WAITS.seconds()
    _, _, found = store.make("k", "step", lambda folder: StageCostFacts(1.0), other.close)
    assert not found
    assert WAITS.seconds() - before >= POLL_SECONDS
