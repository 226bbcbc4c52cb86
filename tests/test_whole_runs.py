"""Whole runs of the command line on a tiny model: killed at random, and on a cluster."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

KILLS = 20


@pytest.fixture
def study(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    """A study file of ten trials that share trainings, over two rungs."""
    rng = random.Random(0)
    lines = ["text,label"]
    for i in range(160):
        noise = " ".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(6))
        lines.append(f"the film was {('good', 'bad')[i % 2]} {noise},{('pos', 'neg')[i % 2]}")
    (tmp_path / "films.csv").write_text("\n".join(lines))
    path = tmp_path / "study.yaml"
    data = {
        "model": str(tiny_models["bert"]),
        "task": {"name": str(tmp_path / "films.csv"), "max_length": 16},
        "workload": {"prompt_tokens": 16},
        "objectives": ["accuracy", "model_bytes"],
        "space": {
            "finetuning": {"methods": ["full", "head", "lora"], "full": {"learning_rate": 5e-4}},
            "structure": {"methods": ["none", "ffn"], "ffn": {"when": "after"}},
            "precision": {"methods": ["fp32", "int8", "int4"]},
            "runtime": {"methods": ["eager", "onnxruntime"]},
        },
        "fidelity": {"rungs": [0.5, 1.0]},
        "budget": {"trials": 10},
        "confirm": {"seeds": 0},
        "engine": {"workers": 2},
    }
    path.write_text(yaml.safe_dump(data))
    return path


def command(cache: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PARETUNE_CACHE": str(cache)}
    return subprocess.Popen(
        [sys.executable, "-m", "paretune", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(run: Path) -> dict[int, Any]:
    """Configuration and figures of every trial that the database holds as ended."""
    from paretune.search.run import read_run

    if not begun(run):
        return {}
    read = read_run(run)
    ended = [r for r in (*read.records, read.baseline) if r and r.state in ("final", "failed")]
    return {r.number: (r.configuration.digest, r.state, r.value("accuracy")) for r in ended}


def begun(run: Path) -> bool:
    """From here on a run is resumed; one that died before is given to `search` again."""
    return (run / "study.yaml").is_file()


def integrity(run: Path) -> str:
    with closing(sqlite3.connect(run / "study.db")) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


@pytest.mark.slow
def test_twenty_kills_lose_no_finished_trial_and_repeat_none(study: Path, tmp_path: Path):
    rng = random.Random(1)
    run, cache = tmp_path / "run", tmp_path / "cache"
    before: dict[int, Any] = {}
    for kill in range(KILLS):
        words = ["resume", str(run)] if begun(run) else ["search", str(study), "--run", str(run)]
        child = command(cache, *words)
        wait = rng.uniform(1.0, 25.0)
        deadline = time.monotonic() + wait
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)  # the driver alone: its workers must follow it
        child.communicate()
        after = finished(run)
        assert {n: after.get(n) for n in before} == before, f"kill {kill} lost a trial"
        if (run / "study.db").is_file():
            assert integrity(run) == "ok"
        before = after
    child = command(cache, "resume", str(run))
    out, error = child.communicate()
    assert child.returncode == 0, out + error
    after = finished(run)
    assert {n: after[n] for n in before} == before
    digests = [digest for n, (digest, _, _) in after.items() if n]
    assert len(digests) == len(set(digests)), "a configuration was made twice"
    assert all(state == "final" for _, state, _ in after.values())


@pytest.mark.cluster
def test_a_cluster_makes_the_same_records_and_the_same_page(study: Path, tmp_path: Path):
    cache = tmp_path / "cache"
    runs = {name: tmp_path / name for name in ("optuna", "ray")}
    for engine, run in runs.items():
        words = ["search", str(study), "--run", str(run), "--engine", engine, "--workers", "1"]
        child = command(cache, *words, "--set", "sampler=random", "--json")
        out, error = child.communicate()
        assert child.returncode == 0, error
        assert json.loads(out)["failed"] == 0
    assert finished(runs["ray"]) == finished(runs["optuna"])
    assert (runs["ray"] / "report.html").is_file()
