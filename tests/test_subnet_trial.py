"""Sub-networks as trials: made, judged and paid for, the training of them all only once."""

from __future__ import annotations

import csv
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from paretune.search.records import Ask, Record
from paretune.search.stages import StageStore
from paretune.search.study import Study
from paretune.search.subject import load_material
from paretune.search.trial import Laboratory
from paretune.spaces.configuration import Choice, Configuration
from paretune.spaces.slots import slots


@pytest.fixture(scope="module")
def laboratory(tiny_models: dict[str, Path], tmp_path_factory) -> Laboratory:
    folder = tmp_path_factory.mktemp("subnets")
    rng = random.Random(0)
    with (folder / "films.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(120):
            noise = " ".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(6))
            writer.writerow([f"the film was {['good', 'bad'][i % 2]} {noise}", i % 2])
    study = Study.from_dict(
        {
            "model": str(tiny_models["bert"]),
            "task": {"name": str(folder / "films.csv"), "max_length": 16},
            "workload": {"batch": 1, "prompt_tokens": 16, "threads": 1},
            "objectives": ["accuracy", "flops"],
            "space": {"architecture": {"methods": ["subnet", "subnet_free"]}, "recovery": {}},
            "fidelity": {"rungs": [0.5, 1.0]},
        }
    )
    store = StageStore(folder / "cache")
    material = load_material(study, folder / "data")
    return Laboratory(study, material, store, folder / "samples", "a run")


def judged(laboratory: Laboratory, rung: int = 1, **choices: tuple[str, dict[str, Any]]) -> Record:
    """A trial's record; knobs that are not given are at their defaults."""
    chosen = {}
    for slot, (method, given) in choices.items():
        knobs = slots()[slot].technique(method).hyperparameters(laboratory.material.subject.paper)
        chosen[slot] = Choice.of(method, **{**{k.name: k.default for k in knobs}, **given})
    ask = Ask(1, Configuration.of(**chosen), rung=rung, seed=0)
    blank = Record(ask.number, ask.configuration, "running", ask.seed, ask.purpose)
    return laboratory.judge(ask, blank, lambda what, done, total: None)


def trained(record: Record) -> list[tuple[str, bool]]:
    return [(stage.step, stage.cached) for stage in record.stages if stage.trains]


def test_a_study_of_sub_networks_is_held_against_the_fine_tuned_model(laboratory):
    (slot, choice), *more = laboratory.material.subject.baseline
    assert (slot, choice.method, more) == ("finetuning", "full", [])


def test_every_sub_network_comes_out_of_the_same_training(laboratory):
    low = judged(laboratory, rung=0, architecture=("subnet", {}))
    assert (low.state, trained(low)) == ("paused", [("train.supernet", False)])
    whole = judged(laboratory, architecture=("subnet", {}))
    assert trained(whole) == [("train.supernet", True), ("train.supernet", False)]
    small = judged(laboratory, architecture=("subnet", {"depth": 0.625, "ffn_last": 0.25}))
    free = judged(laboratory, architecture=("subnet_free", {"heads_2": 0.25}))
    for record in (small, free):
        assert record.state == "final", record.failure
        assert trained(record) == [("train.supernet", True)] * 2
        assert record.value("accuracy") is not None
        assert record.value("flops") < whole.value("flops")
    bills = {record.value("training_flops") for record in (whole, small, free)}
    assert len(bills) == 1
    assert whole.measurements["training_flops"].source == "modelled"


def test_the_super_network_teaches_a_sub_network_without_another_long_training(laboratory):
    record = judged(
        laboratory,
        architecture=("subnet", {"depth": 0.625, "heads_first": 0.5}),
        recovery=("distil_relations", {"teacher": "self", "share": 0.5}),
    )
    assert record.state == "final", record.failure
    assert [step for step, _ in trained(record)][-2:] == ["train.supernet", "train.recover"]
    long = {stage.training for stage in record.stages if stage.training}
    assert len(long) == 1


def test_a_sub_network_made_again_elsewhere_answers_the_same(laboratory, tmp_path):
    chosen = ("subnet", {"depth": 0.625, "ffn_first": 0.5})
    one = judged(laboratory, architecture=chosen)
    other = judged(replace(laboratory, store=StageStore(tmp_path)), architecture=chosen)
    assert one.files["predictions"] == other.files["predictions"]
