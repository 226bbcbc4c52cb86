"""Warm start: what earlier runs teach is read once, kept beside the run, and refused if unclear."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import paretune
import pytest
from paretune.errors import RunError, StudyError
from paretune.search.run import read_run
from paretune.search.session import go_on, start
from paretune.search.study import Study, load_study
from paretune.search.warm_start import NAME
from paretune.spaces.configuration import Configuration

Judge = Callable[[Configuration, int], Mapping[str, float]]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache for all of this file."""
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path_factory.getbasetemp() / "warm-cache"))


@pytest.fixture
def study(tiny_models: dict[str, Path], films: Path) -> dict[str, Any]:
    """A study of seven trials beside the baseline."""
    return {
        "model": str(tiny_models["bert"]),
        "task": {"name": str(films), "max_length": 16},
        "workload": {"prompt_tokens": 16},
        "objectives": ["accuracy", "model_bytes"],
        "space": {
            "finetuning": {"methods": ["full", "lora"]},
            "structure": {"methods": ["none", "ffn"]},
            "precision": {"methods": ["fp32", "int8"]},
        },
        "budget": {"trials": 8},
    }


def judge(configuration: Configuration, seed: int) -> dict[str, float]:
    """Units kept and bits help; figures of the configuration alone."""
    ffn, precision = configuration.get("structure"), configuration.get("precision")
    numbers = [v for _, v in ffn.settings if isinstance(v, float)] if ffn else []
    kept = sum(numbers) / len(numbers) if numbers else 1.0
    bits = 8 if precision is not None and precision.method == "int8" else 32
    return {"accuracy": 0.5 + 0.3 * kept + bits / 400, "model_bytes": 1e4 * bits * (0.5 + kept)}


def searched(
    study: Mapping[str, Any], folder: Path, evaluate: Judge | None = judge
) -> dict[str, Any]:
    return start(Study.from_dict(study), folder, quiet=True, evaluate=evaluate)


@pytest.fixture
def earlier(study: dict[str, Any], tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    """A run of another model."""
    other = {**study, "model": str(tiny_models["roberta"]), "sampler": "random", "seed": 5}
    searched(other, tmp_path / "earlier")
    return tmp_path / "earlier"


def made(folder: Path) -> list[Configuration]:
    return [record.configuration for record in read_run(folder).records]


def said(folder: Path) -> str:
    return (folder / "log.jsonl").read_text()


def test_a_warm_search_says_what_it_was_taught_and_goes_another_way(
    study: dict[str, Any], earlier: Path, tmp_path: Path
):
    searched(study, tmp_path / "cold")
    done = searched({**study, "warm_start": [str(earlier)]}, tmp_path / "warm")
    assert done["final"] == 7
    words = "warm start: 8 trials of 1 run, with figures of accuracy (8), model_bytes (8)"
    assert words in said(tmp_path / "warm")
    assert "warm start" not in said(tmp_path / "cold")
    assert not (tmp_path / "cold" / NAME).exists()
    assert made(tmp_path / "warm")[:2] == made(tmp_path / "cold")[:2]
    assert made(tmp_path / "warm") != made(tmp_path / "cold")


def test_a_run_goes_on_the_same_way_when_the_earlier_one_is_gone(
    study: dict[str, Any], earlier: Path, tmp_path: Path
):
    warm = {**study, "warm_start": [str(earlier)]}
    searched(warm, tmp_path / "whole")
    calls = list[int]()

    def interrupted(configuration: Configuration, seed: int) -> Mapping[str, float]:
        calls.append(seed)
        if len(calls) == 5:
            signal.raise_signal(signal.SIGINT)
        return judge(configuration, seed)

    assert searched(warm, tmp_path / "run", interrupted)["final"] == 4
    shutil.rmtree(earlier)
    searched(warm, tmp_path / "run")
    assert made(tmp_path / "run") == made(tmp_path / "whole")
    with pytest.raises(RunError, match="is no run"):
        searched(warm, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_copy_is_refused_where_it_is_damaged_or_another(
    study: dict[str, Any], earlier: Path, tmp_path: Path
):
    warm, folder = {**study, "warm_start": [str(earlier)]}, tmp_path / "run"
    searched({**warm, "budget": {"trials": 3}}, folder)
    rows = json.loads((folder / NAME).read_text())
    (folder / NAME).write_text("[1")
    with pytest.raises(RunError, match=r"prior\.json is damaged"):
        searched(warm, folder)
    rows[0]["figures"]["accuracy"][0] = 0.9
    (folder / NAME).write_text(json.dumps(rows))
    with pytest.raises(RunError, match="the earlier runs changed since"):
        searched(warm, folder)
    rows[0]["features"].popitem()
    (folder / NAME).write_text(json.dumps(rows))
    with pytest.raises(RunError, match="other features"):
        searched(warm, folder)
    (folder / NAME).unlink()
    assert searched(warm, folder)["final"] == 7


def test_totals_are_moved_to_the_new_model(study: dict[str, Any], earlier: Path, tmp_path: Path):
    """A configuration that changes nothing is the given model on either side."""
    from paretune.search.session import load_material
    from paretune.search.warm_start import earlier_runs
    from paretune.spaces.paper_features import FEATURES, paper_features

    warm = Study.from_dict({**study, "warm_start": [str(earlier)]})
    material = load_material(warm, tmp_path)
    (lesson,) = earlier_runs(warm, material, tmp_path, None, judged=True)
    here = paper_features(Configuration.of(), material.subject.paper)
    place = FEATURES.index("log_width"), FEATURES.index("log_attention")
    for row in lesson.features:
        assert row[list(place)] == pytest.approx(here[list(place)])


def test_what_cannot_teach_is_refused_before_anything_is_stored(
    study: dict[str, Any], earlier: Path, tmp_path: Path
):
    warm = {**study, "warm_start": [str(earlier)]}

    def refused(changes: dict[str, Any], match: str, evaluate: Judge | None = judge) -> None:
        with pytest.raises(StudyError, match=match):
            searched({**warm, **changes}, tmp_path / "run", evaluate)
        assert not (tmp_path / "run").exists()

    refused({"objectives": ["macro_f1", "throughput"]}, "cannot teach.*figures there: accuracy")
    short = {**study, "budget": {"trials": 2}, "seed": 2}
    searched(short, tmp_path / "short")
    refused({"warm_start": [str(tmp_path / "short")]}, "of 2 final trials, fewer than 3")
    # made, and not judged by a function: paper tells all that is shared
    refused({"objectives": ["parameters", "latency_p50"]}, "cannot teach", None)
    model = Path(read_run(earlier).study["model"])
    hidden = model.rename(model.with_name("hidden"))
    try:
        refused({}, "cannot be loaded any more.*put it back, or leave the run out")
    finally:
        hidden.rename(model)


def test_faults_of_the_section_are_found_in_the_file(tmp_path: Path, study: dict[str, Any]):
    with pytest.raises(StudyError, match=r"warm_start.*means nothing to tpe.*take greybox"):
        Study.from_dict({**study, "warm_start": ["a"], "sampler": "tpe"})
    with pytest.raises(StudyError, match=r"a is there twice; drop one"):
        Study.from_dict({**study, "warm_start": ["a", "a"]})
    with pytest.raises(StudyError, match="warm_start"):
        Study.from_dict({**study, "warm_start": []})
    (tmp_path / "old").mkdir()
    assert Study.from_dict({**study, "warm_start": ["old"]}, tmp_path).warm_start == (
        str(tmp_path / "old"),
    )
    assert "warm_start" not in Study.from_dict(study).to_json()


def test_models_are_made_after_a_warm_start_too(
    study: dict[str, Any], earlier: Path, tmp_path: Path
):
    warm = {
        **study,
        "space": {"precision": {"methods": ["fp32", "int8"]}},
        "warm_start": [str(earlier)],
        "budget": {"trials": 2},
        "confirm": {"seeds": 0},
    }
    run = paretune.search(warm, tmp_path / "run")
    assert [record.state for record in run.records] == ["final"]
    assert "with figures of accuracy (8), model_bytes (8)" in said(tmp_path / "run")
    assert load_study(tmp_path / "run/study.yaml").warm_start == (str(earlier),)
    shutil.rmtree(earlier)
    assert go_on(tmp_path / "run", trials=3, quiet=True)["final"] == 2
