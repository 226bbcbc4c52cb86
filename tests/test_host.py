"""Three processes on one host: trainers share it, a measurement has it alone."""

import select
import subprocess
import sys
from pathlib import Path

import pytest
from paretune.evaluators.host import HostLock

PATIENCE = 60
"""Seconds after which a test gives up; no figure depends on it."""

SOON = 0.3
"""Seconds in which a process that may go on would have gone on."""

HEAD = """
import sys
from pathlib import Path
from paretune.evaluators.host import HostLock
def say(word): print(word, flush=True)
def hear(): return sys.stdin.readline().strip()
lock = HostLock(Path(sys.argv[1]))
say("ready")
"""

TRAIN = """
with lock.training() as turns:
    say("in")
    while hear() == "turn":
        turns.turn()
        say("turned")
say("out")
"""

MEASURE = """
with lock.measuring():
    say("in")
    hear()
say("out")
"""


class Other:
    """Another process that trains or measures, and what it says."""

    def __init__(self, folder: Path, work: str):
        command = [sys.executable, "-c", HEAD + work, str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        assert self.hears("ready")

    def hears(self, word: str) -> bool:
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        return bool(ready) and self.process.stdout.readline().decode().strip() == word

    def silent(self) -> bool:
        ready, _, _ = select.select([self.process.stdout], [], [], SOON)
        return not ready

    def send(self, word: str) -> None:
        self.process.stdin.write(f"{word}\n".encode())

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start(tmp_path: Path):
    others = []

    def started(work: str) -> Other:
        others.append(Other(tmp_path, work))
        return others[-1]

    yield started
    for other in others:
        other.end()


def test_two_trainers_share_the_host(start):
    first = start(TRAIN)
    assert first.hears("in")
    second = start(TRAIN)
    assert second.hears("in")
    first.send("turn")
    assert first.hears("turned")


def test_a_measurement_waits_for_every_trainers_turn_and_they_wait_for_it(start):
    first, second = start(TRAIN), start(TRAIN)
    assert first.hears("in")
    assert second.hears("in")
    meter = start(MEASURE)
    assert meter.silent()
    first.send("turn")
    assert first.silent()
    assert meter.silent()  # the second has not come to its turn
    second.send("turn")
    assert meter.hears("in")
    assert first.silent()
    assert second.silent()
    meter.send("done")
    assert first.hears("turned")
    assert second.hears("turned")


def test_a_trainer_that_comes_later_stands_behind_a_waiting_measurement(start):
    first = start(TRAIN)
    assert first.hears("in")
    meter = start(MEASURE)
    assert meter.silent()
    late = start(TRAIN)
    assert late.silent()
    first.send("stop")
    assert meter.hears("in")
    assert late.silent()
    meter.send("done")
    assert late.hears("in")


def test_two_measurements_follow_each_other(start):
    first = start(MEASURE)
    assert first.hears("in")
    second = start(MEASURE)
    assert second.silent()
    first.send("done")
    assert second.hears("in")


@pytest.mark.parametrize("work", [TRAIN, MEASURE], ids=["train", "measure"])
def test_a_process_that_dies_lets_go(start, work):
    victim = start(work)
    assert victim.hears("in")
    meter = start(MEASURE)
    assert meter.silent()
    victim.end()
    assert meter.hears("in")


def test_who_has_no_patience_goes_on_without_the_host(start, tmp_path: Path):
    meter = start(MEASURE)
    assert meter.hears("in")
    with HostLock(tmp_path).training(patience_s=0.1):
        pass
    late = start(MEASURE)
    assert late.silent()
    meter.send("done")
    assert late.hears("in")


def test_who_has_patience_has_a_quiet_host_at_once(start, tmp_path: Path):
    with HostLock(tmp_path).training(patience_s=0.0):
        meter = start(MEASURE)
        assert meter.silent()
    assert meter.hears("in")


def test_a_turn_costs_no_time_when_nobody_waits(tmp_path: Path):
    with HostLock(tmp_path).training() as turns:
        assert turns.turn() == 0.0
    with HostLock(tmp_path).measuring():
        pass
