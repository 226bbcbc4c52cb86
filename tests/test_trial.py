"""A trial on a tiny model and a small file of real words, from ask to record."""

from __future__ import annotations

import csv
import fcntl
import json
import random
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from paretune.search import evidence, trial
from paretune.search.records import Ask, Record
from paretune.search.rules import Knowledge
from paretune.search.run import FORMAT, LOCAL_STORAGE
from paretune.search.stages import StageStore
from paretune.search.study import Study
from paretune.search.subject import load_material
from paretune.search.trial import Laboratory, TrialWork
from paretune.spaces.configuration import Choice, Configuration
from paretune.spaces.runtimes import open_artifact
from paretune.spaces.space import Space

FULL = Choice.of("full", learning_rate=1e-4)


def write_task(path: Path, rows: int = 160) -> Path:
    """Films, good or bad, in the words that the tiny tokenizers know."""
    rng = random.Random(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(rows):
            word, label = [("good", "pos"), ("bad", "neg")][i % 2]
            noise = " ".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(6))
            writer.writerow([f"the film was {word} {noise}", label])
    return path


@pytest.fixture(scope="module")
def laboratory(tiny_models: dict[str, Path], tmp_path_factory) -> Laboratory:
    folder = tmp_path_factory.mktemp("trial")
    study = Study.from_dict(
        {
            "model": str(tiny_models["bert"]),
            "task": {"name": str(write_task(folder / "films.csv")), "max_length": 16},
            "workload": {"batch": 1, "prompt_tokens": 16, "threads": 1},
            "objectives": ["accuracy", "latency_p50", "model_bytes"],
            "space": {"finetuning": {"methods": ["full"], "full": {"learning_rate": 5e-4}}},
            "fidelity": {"rungs": [0.5, 1.0]},
        }
    )
    store = StageStore(folder / "cache")
    material = load_material(study, folder / "data")
    return Laboratory(study, material, store, folder / "samples", "a run")


def silent(what: str, done: int, total: int) -> None:
    pass


def judged(laboratory: Laboratory, ask: Ask):
    blank = Record(ask.number, ask.configuration, "running", ask.seed, ask.purpose)
    return laboratory.judge(ask, blank, silent)


@pytest.mark.parametrize(
    ("asks", "least"),
    [
        ({}, 3),
        ({"objectives": ["accuracy", "latency_p95"]}, 20),
        ({"constraints": ["latency_p95 <= 1 s"]}, 20),
    ],
)
def test_a_tail_that_is_asked_for_gets_the_repeats_that_it_needs(
    laboratory: Laboratory, asks: dict[str, list[str]], least: int
):
    study = Study.from_dict({**laboratory.study.to_json(), **asks})
    assert replace(laboratory, study=study).gatherer(silent).patience.least == least


def test_a_trial_has_figures_with_unit_source_and_spread(laboratory: Laboratory):
    ask = Ask(1, Configuration.of(finetuning=FULL), rung=1, seed=0)
    record = judged(laboratory, ask)
    accuracy = record.measurements["accuracy"]
    assert accuracy.value is not None
    assert (accuracy.unit, accuracy.source, accuracy.over) == ("fraction", "measured", "items")
    assert dict(accuracy.conditions)["split"] == "validation"
    assert record.measurements["parameters"].source == "exact"
    latency = record.measurements["latency_p50"]
    assert latency.stderr is not None
    assert record.measurements["peak_memory"].value is None
    assert record.measurements["peak_memory"].reason
    assert record.measurements["perplexity"].reason
    assert record.state == "final"


def test_model_bytes_are_the_sizes_of_the_files_that_were_written(laboratory: Laboratory):
    ask = Ask(1, Configuration.of(finetuning=FULL), rung=1, seed=0)
    _, artifact, _ = laboratory.make(ask, 1, silent)
    record = judged(laboratory, ask)
    payload = record.value("payload_bytes")
    size = record.value("model_bytes")
    assert payload is not None
    assert size is not None
    assert size >= payload
    assert size <= sum(p.stat().st_size for p in artifact.iterdir())


def test_a_higher_rung_goes_on_from_the_lower_one_and_a_sibling_reuses_it(laboratory: Laboratory):
    configuration = Configuration.of(finetuning=Choice.of("full", learning_rate=3e-4))
    low = judged(laboratory, Ask(2, configuration, rung=0, seed=0))
    assert low.state == "paused"
    high = judged(laboratory, Ask(2, configuration, rung=1, seed=0))
    trains = [stage for stage in high.stages if stage.trains]
    assert [stage.cached for stage in trains] == [True, False]
    assert trains[0].training == trains[1].training
    smaller = configuration.replace(precision=Choice.of("bf16", embeddings="bf16", head="fp32"))
    sibling = judged(laboratory, Ask(3, smaller, rung=1, seed=0))
    assert all(stage.cached for stage in sibling.stages if stage.trains)
    assert sibling.value("model_bytes") < high.value("model_bytes")


def test_a_promoted_trial_has_paid_for_what_its_lower_rung_made(laboratory: Laboratory):
    configuration = Configuration.of(finetuning=Choice.of("full", learning_rate=2e-4))
    low = judged(laboratory, Ask(4, configuration, rung=0, seed=0))
    high = laboratory.judge(Ask(4, configuration, rung=1, seed=0), low, silent)
    assert [stage.cached for stage in high.stages if stage.trains] == [False, False]
    assert {stage.key for stage in low.stages} < {stage.key for stage in high.stages}
    assert len({stage.key for stage in high.stages}) == len(high.stages)


def test_what_a_failed_trial_made_is_found_in_the_store(laboratory: Laboratory, monkeypatch):
    configuration = Configuration.of(finetuning=Choice.of("full", learning_rate=3e-4))
    done = judged(laboratory, Ask(7, configuration, 0, 0))
    fell = replace(done, state="failed", rungs=(), stages=(), started=time.time() - 3600)
    monkeypatch.setenv("PARETUNE_CACHE", str(laboratory.store.root))

    def named(*others: Record, started: float | None = fell.started):
        records = {record.number: record for record in others}
        space = Space.of(laboratory.study.space, laboratory.material.subject.paper)
        known: Any = SimpleNamespace(records=records)
        knowledge = Knowledge(laboratory.study, laboratory.material, space, known)
        return knowledge.made(replace(fell, started=started), 0)

    assert {s.key for s in named()} == {s.key for s in done.stages}
    trained = [s for s in named() if s.trains]
    assert trained
    assert not any(s.cached for s in trained)
    assert all(s.cached for s in named(replace(done, number=8))), "another trial made it"
    assert all(s.cached for s in named(started=time.time() + 60)), "it was there before"


def test_a_confirmation_times_for_itself_where_siblings_share_a_timing(laboratory: Laboratory):
    configurations = [
        Configuration.of(finetuning=Choice.of("full", learning_rate=rate)) for rate in (1e-4, 3e-4)
    ]
    one, other = (judged(laboratory, Ask(5, c, rung=1, seed=0)) for c in configurations)
    assert one.files["timings"] == other.files["timings"]
    confirmed = Ask(5, configurations[0], rung=1, seed=0, purpose="confirm")
    assert judged(laboratory, confirmed).files["timings"] != one.files["timings"]


def test_another_run_finds_what_was_made_and_times_for_itself(laboratory: Laboratory):
    ask = Ask(5, Configuration.of(finetuning=FULL), rung=1, seed=0)
    one, again = judged(laboratory, ask), judged(laboratory, ask)
    other = judged(replace(laboratory, run="another run"), ask)
    assert again.files["timings"] == one.files["timings"]
    assert other.files["timings"] != one.files["timings"]
    assert other.files["predictions"] == one.files["predictions"]
    assert all(stage.cached for stage in other.stages)


def test_a_timing_says_how_fast_the_machine_was(laboratory: Laboratory):
    record = judged(laboratory, Ask(5, Configuration.of(finetuning=FULL), rung=1, seed=0))
    assert dict(record.measurements["latency_p50"].conditions)["probe_ms"] > 0


def held(store: StageStore) -> bool:
    """Somebody holds the host; of this process too, as each hold has a file of its own."""
    with (store.root / "host" / "host.lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_models_are_opened_in_turn_with_measurements(laboratory: Laboratory, monkeypatch):
    opened = []

    def opening(artifact: Path, threads: int, device: str):
        opened.append(held(laboratory.store))
        return open_artifact(artifact, threads, device)

    monkeypatch.setattr(evidence, "open_artifact", opening)
    ask = Ask(6, Configuration.of(finetuning=FULL), rung=1, seed=0)
    graph, artifact, _ = laboratory.make(ask, 1, silent)
    laboratory.gatherer(silent).gather(graph, artifact, (), "validation", 0.7, anew=7)
    assert opened == [True] * 3
    assert not held(laboratory.store)


def test_a_worker_loads_in_turn_with_measurements(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path))
    store, loaded = StageStore(tmp_path), []
    (tmp_path / "run").mkdir()
    about = {"format": FORMAT, "name": "x", "storage": LOCAL_STORAGE}
    (tmp_path / "run" / "run.json").write_text(json.dumps(about))
    monkeypatch.setattr(trial, "load_study", lambda path: None)
    monkeypatch.setattr(trial, "load_material", lambda study, cache: loaded.append(held(store)))
    Laboratory.of(tmp_path / "run")
    assert loaded == [True]
    assert not held(store)


def test_a_deployed_model_does_not_carry_its_recipe(laboratory: Laboratory):
    from paretune.spaces.recipe import Recipe

    ask = Ask(1, Configuration.of(finetuning=FULL), rung=1, seed=0)
    graph, artifact, _ = laboratory.make(ask, 1, silent)
    kept = json.loads((artifact / "paper.json").read_text())
    assert graph.paper.recipe != Recipe()
    assert Recipe.from_json(kept["recipe"]) == Recipe()


def test_stages_are_made_with_the_threads_that_their_keys_name(
    laboratory: Laboratory, tmp_path: Path, monkeypatch
):
    import torch

    told: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    ask = Ask(1, Configuration.of(finetuning=FULL), rung=1, seed=0)
    laboratory.make(ask, 1, silent)  # found, or made once
    told.clear()
    laboratory.make(ask, 1, silent)
    assert told == []
    replace(laboratory, store=StageStore(tmp_path)).make(ask, 1, silent)
    assert told == [1]


def test_answers_are_kept_item_by_item_and_are_the_same_when_made_again(
    laboratory: Laboratory, tmp_path: Path
):
    from paretune.evaluators.quality.predictions import load_predictions

    ask = Ask(1, Configuration.of(finetuning=FULL), rung=1, seed=0)
    one = judged(laboratory, ask)
    stored = load_predictions(laboratory.samples, one.files["predictions"])
    assert len(stored.items) == len(laboratory.material.task.splits["validation"])
    other = replace(laboratory, store=StageStore(tmp_path / "cache"))
    assert judged(other, ask).files["predictions"] == one.files["predictions"]


def test_confirmation_judges_the_test_split_and_takes_peak_memory(laboratory: Laboratory):
    ask = Ask(1, Configuration.of(finetuning=FULL), rung=0, seed=0, purpose="confirm")
    record = judged(laboratory, ask)
    assert dict(record.measurements["accuracy"].conditions)["split"] == "test"
    peak = record.measurements["peak_memory"]
    assert peak.value is not None, peak.reason


def test_another_seed_is_another_training(laboratory: Laboratory):
    configuration = Configuration.of(finetuning=FULL)
    one = judged(laboratory, Ask(1, configuration, rung=1, seed=0))
    other = judged(laboratory, Ask(1, configuration, rung=1, seed=1))
    assert one.stages[-1].key != other.stages[-1].key


def test_the_work_of_a_run_is_small_enough_to_send(tmp_path: Path):
    import pickle

    assert len(pickle.dumps(TrialWork(tmp_path))) < 1000


@pytest.fixture(scope="module")
def screening(laboratory: Laboratory) -> Laboratory:
    """Rungs of items alone, and no objective that is timed."""
    told = laboratory.study.to_json()
    told |= {"objectives": ["accuracy", "model_bytes"]}
    told["fidelity"] = {"rungs": [0.25, 1.0], "of": "items", "promote": 0.1}
    study = Study.from_dict(told)
    material = load_material(study, laboratory.samples.parent / "data")
    return replace(laboratory, study=study, material=material)


def test_screening_trains_whole_and_asks_fewer_items(screening: Laboratory):
    tuned = Configuration.of(finetuning=FULL)
    low = judged(screening, Ask(1, tuned, rung=0, seed=0))
    assert low.state == "paused"
    assert low.measurements["accuracy"].n == 6  # of 21
    trained = {stage.key for stage in low.stages if stage.trains}
    high = screening.judge(Ask(1, tuned, rung=1, seed=0), low, silent)
    assert high.state == "final"
    assert {stage.key for stage in high.stages if stage.trains} == trained


def test_screening_takes_no_speed_unless_the_study_asks_for_it(screening: Laboratory):
    tuned = Configuration.of(finetuning=FULL)
    low = judged(screening, Ask(1, tuned, rung=0, seed=0))
    assert low.value("latency_p50") is None
    assert low.measurements["latency_p50"].reason == "there was no timing session"
    assert "timings" not in low.files
    assert screening.judge(Ask(1, tuned, rung=1, seed=0), low, silent).value("latency_p50")
    limited = Study.from_dict({**screening.study.to_json(), "constraints": ["energy <= 1 kJ"]})
    assert trial.needs_speed(limited)
    assert not trial.needs_speed(screening.study)


def test_what_does_not_train_is_screened_too_where_rungs_are_of_items(
    screening: Laboratory, tmp_path: Path
):
    from paretune.search.rules import Knowledge
    from paretune.spaces.space import Space

    untrained = Configuration()
    for study, rung in ((screening.study, 0), (_of_steps(screening.study), 1)):
        material = load_material(study, screening.samples.parent / "data")
        space = Space.of(study.space, material.subject.paper)
        knowledge = Knowledge(study, material, space, storage=None)  # type: ignore[arg-type]
        assert knowledge.first_rung(untrained) == rung
        assert knowledge.first_rung(Configuration.of(finetuning=FULL)) == 0


def _of_steps(study: Study) -> Study:
    return Study.from_dict({**study.to_json(), "fidelity": {"rungs": [0.25, 1.0]}})
