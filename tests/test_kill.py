import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

CHILD = Path(__file__).with_name("kill_child.py")


def outcomes(step):
    memory = Path("/dev/shm")
    root = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="paretune-kill-", dir=root) as folder:
        command = [sys.executable, "-W", "error", str(CHILD), folder, str(step)]
        out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    first, *rest = [json.loads(line) for line in out.stdout.splitlines()]
    return first, rest


def judge(whole, kills):
    assert {r["state"] for r in whole["records"]} == {"final", "paused"}
    for kill in kills:
        assert kill["intact"] == "ok", kill["at"]
        assert kill["repeated"] == [], kill["at"]
        assert kill["after"] == whole, kill["at"]
        assert kill["read"] == whole["records"][1:], kill["at"]


def test_the_undisturbed_search_makes_every_trial_and_rung_once():
    first, _ = outcomes(10_000)
    calls = [tuple(call) for call in first["calls"]]
    assert len(calls) == len(set(calls))
    assert [call for call in calls if call[0] == 2][:2] == [(2, 0, 0), (2, 0, 1)]


def test_a_search_killed_at_some_writes_goes_on_as_if_nothing_had_happened():
    first, kills = outcomes(41)
    assert len(kills) > 4
    judge(first["whole"], kills)


@pytest.mark.slow
def test_a_search_killed_at_any_write_goes_on_as_if_nothing_had_happened():
    first, kills = outcomes(1)
    assert len(kills) > 100
    judge(first["whole"], kills)
