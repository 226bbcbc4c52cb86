from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import socket
import time
from pathlib import Path

import pytest
from paretune.errors import BadRequest, StorageFailed
from paretune.search.stages import StageCostFacts, StageStore


def write_number(folder: Path) -> StageCostFacts:
    (folder / "number.txt").write_text("42")
    return StageCostFacts(seconds=1.5, trains=True, training="t")


def test_a_stage_is_made_once_and_found_afterwards(tmp_path: Path):
    store = StageStore(tmp_path)
    folder, note, found = store.make("k1", "train.finetune", write_number)
    assert (folder / "number.txt").read_text() == "42"
    assert (note.seconds, note.trains, found) == (1.5, True, False)
    again, note, found = StageStore(tmp_path).make("k1", "train.finetune", write_number)
    assert (again, note.seconds, found) == (folder, 1.5, True)


def test_a_stage_whose_making_fails_leaves_nothing(tmp_path: Path):
    store = StageStore(tmp_path)

    def fails(folder: Path) -> StageCostFacts:
        (folder / "half.txt").write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.make("k1", "step", fails)
    assert store.find("k1") is None
    assert list((tmp_path / "making").iterdir()) == []


def test_a_stage_with_a_truncated_file_is_made_again(tmp_path: Path):
    store = StageStore(tmp_path)
    folder, _, _ = store.make("k1", "step", write_number)
    (folder / "number.txt").write_text("4")
    assert store.find("k1") is None
    _, _, found = store.make("k1", "step", write_number)
    assert not found
    assert (folder / "number.txt").read_text() == "42"


def test_costs_outlive_eviction_and_the_oldest_use_goes_first(tmp_path: Path):
    store = StageStore(tmp_path)
    for i, key in enumerate(["k1", "k2", "k3"]):
        folder, _, _ = store.make(key, "step", write_number)
        os.utime(folder / "stage.json", (i, i))
    os.utime(tmp_path / "stages" / "k1" / "stage.json")
    store.release()
    assert store.evict(limit_bytes=4) == ["k2"]
    assert [note.key for note in store.entries()] == ["k3", "k1"]
    cost = store.cost("k2")
    assert cost is not None
    assert cost.seconds == 1.5


def test_what_a_dead_maker_left_is_swept(tmp_path: Path):
    store = StageStore(tmp_path)
    dead = multiprocessing.get_context("spawn").Process(target=time.time)
    dead.start()
    dead.join()
    host = socket.gethostname()
    names = [f"{host}-{dead.pid}-x", f"{host}-{os.getpid()}-x", f"other-host-{dead.pid}-x"]
    for name in names:
        (tmp_path / "making" / name).mkdir()
    store.sweep()
    assert {p.name for p in (tmp_path / "making").iterdir()} == set(names[1:])


def test_what_another_host_left_days_ago_is_swept(tmp_path: Path):
    store = StageStore(tmp_path)
    left = tmp_path / "making" / "other-host-1-x"
    left.mkdir()
    days_ago = time.time() - 3 * 86400
    os.utime(left, (days_ago, days_ago))
    store.sweep()
    assert not left.exists()


def test_a_training_outlives_the_artifacts_that_are_written_from_it(tmp_path: Path):
    store = StageStore(tmp_path)

    def quickly(folder: Path) -> StageCostFacts:
        (folder / "weights.bin").write_bytes(bytes(100))
        return StageCostFacts(seconds=0.5)

    def slowly(folder: Path) -> StageCostFacts:
        (folder / "weights.bin").write_bytes(bytes(300))
        return StageCostFacts(seconds=600.0, trains=True)

    store.make("training", "train.supernet", slowly)
    for number in range(5):
        store.make(f"artifact {number}", "deploy.eager", quickly)
    os.utime(tmp_path / "stages" / "training" / "stage.json", (time.time() - 3600,) * 2)
    store.release()
    assert store.evict(limit_bytes=400) == [f"artifact {number}" for number in range(4)]
    long_ago = time.time() - 30 * 86400  # nobody came back to it for a month
    os.utime(tmp_path / "stages" / "training" / "stage.json", (long_ago, long_ago))
    assert store.evict(limit_bytes=300) == ["training"]


def test_what_is_still_read_is_not_evicted_by_whomever_to_make_room(tmp_path: Path):
    reader, other = StageStore(tmp_path), StageStore(tmp_path, limit_bytes=4)
    for key in ("k1", "k2"):
        other.make(key, "step", write_number)
    assert reader.find("k1") is not None
    other.release()
    other.make("k3", "step", write_number)
    assert {note.key for note in other.entries()} == {"k1", "k3"}
    reader.release()
    assert other.evict(limit_bytes=2) == ["k1"]


def test_a_stage_that_another_process_evicts_meanwhile_counts_as_gone(tmp_path: Path, monkeypatch):
    store = StageStore(tmp_path)
    store.make("k1", "step", write_number)
    entries = store.entries()
    shutil.rmtree(tmp_path / "stages" / "k1")
    store.release()
    monkeypatch.setattr(store, "entries", lambda: entries)
    assert store.evict(limit_bytes=0) == ["k1"]


@pytest.mark.parametrize("given", ["abc", "-1", "nan", "inf"])
def test_a_limit_that_is_no_size_says_what_is_allowed(tmp_path: Path, monkeypatch, given: str):
    monkeypatch.setenv("PARETUNE_CACHE_LIMIT_GB", given)
    with pytest.raises(BadRequest, match=r"PARETUNE_CACHE_LIMIT_GB is .* gigabytes"):
        StageStore(tmp_path)


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_store_where_a_file_lies_says_what_to_do(tmp_path: Path, below: str):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadRequest, match="set PARETUNE_CACHE to a folder"):
        StageStore(tmp_path / "file" / below)


def _make_slowly(root: Path, out: Path) -> None:
    def write(folder: Path) -> StageCostFacts:
        time.sleep(0.2)
        (folder / "by.txt").write_text(str(os.getpid()))
        return StageCostFacts(0.2)

    folder, _, found = StageStore(root).make("k", "step", write)
    out.write_text(json.dumps([found, (folder / "by.txt").read_text()]))


def test_two_processes_that_want_one_stage_make_it_once(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    outs = [tmp_path / f"{i}.json" for i in range(2)]
    workers = [context.Process(target=_make_slowly, args=(tmp_path / "store", out)) for out in outs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    results = [json.loads(out.read_text()) for out in outs]
    assert sorted(found for found, _ in results) == [False, True]
    assert results[0][1] == results[1][1]


def test_a_full_disk_says_what_to_do(tmp_path: Path):
    def full(folder: Path) -> StageCostFacts:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageFailed, match="PARETUNE_CACHE"):
        StageStore(tmp_path).make("k1", "step", full)
