"""What a study accepts with `deploy: [hf]` is what the export writes: one rule, asked by both."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from paretune.errors import BadRequest
from paretune.reports.export.export import configuration_for
from paretune.reports.export.targets import target_of
from paretune.spaces.configuration import Choice, Configuration
from paretune.spaces.load import Load
from paretune.spaces.lower import Subject, plain, walk
from paretune.spaces.models import inspect_model, profile_of
from paretune.spaces.recipe import Recipe

FULL = Choice.of("full", learning_rate=5e-3)
_LORA = {"rank": 4, "alpha_ratio": 2.0, "targets": "attention-qv", "learning_rate": 2e-2}
MERGED = Choice.of("lora", **_LORA, merge="merge")
KEPT = Choice.of("lora", **_LORA, merge="keep")
IA3 = Choice.of("ia3", learning_rate=2e-2, merge="keep")
BOTTLENECK = Choice.of(
    "bottleneck", places="pfeiffer", reduction=4, activation="relu", learning_rate=1e-3
)
BF16 = Choice.of("bf16", embeddings="bf16", head="fp32")
SHORT = Choice.of("finetune", share=0.1, learning_rate=1e-3)
SUBNET = {"depth": 1.0, "heads_first": 1.0, "heads_last": 1.0, "ffn_first": 0.5, "ffn_last": 1.0}
TRAINED = {"smallest": 0.25, "random": 1, "length": 1.0, "learning_rate": 1e-3}


def cut(method: str, when: str, **told: float | str) -> Choice:
    """Half of the units, judged by weights."""
    settings: dict[str, Any] = {"keep": 0.5, "when": when, "importance": "weights", **told}
    return Choice.of(method, **settings)


MADE: dict[str, tuple[Choice | None, ...]] = {
    "architecture": (None, Choice.of("subnet", **SUBNET, **TRAINED)),
    "finetuning": (None, FULL, MERGED, KEPT, IA3, BOTTLENECK),
    "structure": (
        None,
        cut("heads", "after", slope=0.0),
        cut("ffn", "before", slope=0.0),
        cut("layers", "before", importance="last", keep=0.375),
        cut("width", "after", keep=0.75),
        Choice.of(
            "sparsity", share=0.5, pattern="any", parts="ffn", when="after", importance="magnitude"
        ),
    ),
    "recovery": (None, SHORT),
    "precision": (None, BF16, Choice.of("int8", embeddings="int8", head="fp32")),
    "runtime": (None, Choice.of("onnxruntime")),
}
"""A small space of what changes whether an hf folder can be written."""


@pytest.fixture(scope="module")
def subject(tiny_models) -> Subject:
    source = inspect_model(str(tiny_models["bert"]))
    profile = profile_of(source, "classification", 3)
    return Subject(
        load=Load(source, profile),
        profile=profile,
        recipe=Recipe(train_items=64, epochs=2.0, batch=16),
        digests={"model": source.digest, "train": "t", "calibration": "c"},
    )


def deploying(subject: Subject) -> Subject:
    return replace(subject, targets=replace(subject.targets, formats=("hf",)))


def test_what_a_study_accepts_is_what_export_does_not_refuse(subject: Subject):
    work: Any = SimpleNamespace(
        paper=lambda configuration: walk(configuration, subject).paper,
        laboratory=SimpleNamespace(material=SimpleNamespace(subject=subject)),
        record=SimpleNamespace(number=7),
    )
    seen: Counter[tuple[bool, Choice | None]] = Counter()
    for choices in product(*MADE.values()):
        given = {slot: c for slot, c in zip(MADE, choices, strict=True) if c is not None}
        configuration = plain(Configuration.of(**given))
        if walk(configuration, subject).objections:
            continue
        objections = walk(configuration, deploying(subject)).objections
        refused = ""
        try:
            configuration_for(configuration, target_of("hf"), work)
        except BadRequest as error:
            refused = str(error)
        assert bool(objections) == bool(refused), f"{given}: {refused or objections}"
        assert not refused or "or use --format paretune" in refused
        assert all(reason.endswith("or leave hf out of deploy") for reason in objections)
        seen[not objections, given.get("finetuning")] += 1
    for choice in MADE["finetuning"]:
        assert seen[True, choice] == 0 if choice == BOTTLENECK else seen[True, choice] > 0
        assert seen[False, choice] > 0


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"precision": BF16}, "an unmerged adapter is exported in fp32, not bf16, fp32"),
        ({"structure": cut("ffn", "before", slope=0.0)}, "this one's structure is another"),
        ({"recovery": SHORT}, "bert.embeddings.word_embeddings.weight was trained as well"),
        (
            {"architecture": Choice.of("subnet", **{**SUBNET, "ffn_first": 1.0}, **TRAINED)},
            "trained",
        ),
    ],
)
@pytest.mark.parametrize("adapter", [KEPT, IA3])
def test_an_adapter_that_stays_is_refused_where_its_base_is_not_the_given_model(
    subject, adapter, choices, said
):
    configuration = Configuration.of(finetuning=adapter, **choices)
    assert not walk(configuration, subject).objections
    (reason,) = walk(configuration, deploying(subject)).objections
    assert said in reason
    assert reason.endswith("merge: merge, or leave hf out of deploy")
    assert not walk(Configuration.of(finetuning=adapter), deploying(subject)).objections
