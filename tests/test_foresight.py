"""What is known on paper is what the record will say, at every rung."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from paretune.evaluators.catalogue import metrics
from paretune.evaluators.metric import Evidence
from paretune.search.foresight import known_on_paper, on_paper, paper_bounds
from paretune.search.limits import parse_limit
from paretune.spaces.configuration import Choice, Configuration
from paretune.spaces.load import Load
from paretune.spaces.lower import Graph, Subject, lower, walk
from paretune.spaces.models import inspect_model, profile_of
from paretune.spaces.paper import Workload
from paretune.spaces.recipe import Recipe
from paretune.spaces.slots import slots
from paretune.spaces.steps import kind_of

WORKLOAD = Workload(prompt_tokens=16)
ON_PAPER = [name for name, metric in metrics().items() if metric.needs == "paper"]
PLANS = {
    "full": {"finetuning": "full"},
    "full and recovery": {"finetuning": "full", "structure": "ffn", "recovery": "finetune"},
    "LoRA merged": {"finetuning": "lora"},
    "LoRA and distillation": {"finetuning": "lora", "structure": "ffn", "recovery": "distil"},
}


@pytest.fixture(scope="module")
def subject(tiny_models: dict[str, Path]) -> Subject:
    source = inspect_model(str(tiny_models["bert"]))
    profile = profile_of(source, "classification", 3)
    return Subject(
        load=Load(source, profile),
        profile=profile,
        recipe=Recipe(train_items=64, epochs=2.0, batch=16),
        digests={"model": source.digest, "train": "t", "calibration": "c"},
        baseline=Configuration.of(finetuning=Choice.of("full", learning_rate=1e-4)),
    )


def configured(subject: Subject, plan: dict[str, str]) -> Configuration:
    """Each method with its defaults, but a structure that changes after the fine-tuning."""
    choices = {}
    for slot, method in plan.items():
        knobs = slots()[slot].technique(method).hyperparameters(subject.paper)
        given = {"keep": 0.5, "when": "after"} if slot == "structure" else {}
        choices[slot] = Choice.of(method, **{**{h.name: h.default for h in knobs}, **given})
    return Configuration.of(**choices)


def recorded(graph: Graph, name: str) -> float | None:
    """A figure as a record of the made graph has it."""
    trained = tuple(node.before for node in graph.trained)
    settings = {"item_tokens": 24}
    evidence = Evidence(graph.paper, WORKLOAD, settings=settings, training_papers=trained)
    return metrics()[name].evaluate(evidence).value


@pytest.mark.parametrize("rungs", [(1.0,), (0.5, 1.0)])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", ON_PAPER)
def test_a_figure_on_paper_is_the_record_s(
    subject: Subject, name: str, plan: str, rungs: tuple[float, ...]
):
    subject = replace(subject, rungs=rungs)
    configuration = configured(subject, PLANS[plan])
    path = walk(configuration, subject)
    moves = [move for move in path.moves if kind_of(type(move.step)) == "train"]
    own = tuple(move.before for move in moves)
    told = Evidence(path.paper, WORKLOAD, settings={"item_tokens": 24}, training_papers=own)
    expected = metrics()[name].evaluate(told).value
    for rung in range(len(rungs)):
        assert recorded(lower(configuration, subject, rung), name) == expected
    if known_on_paper(metrics()[name]):
        assert on_paper(metrics()[name], WORKLOAD)(path.paper) == expected


@pytest.mark.parametrize("name", ON_PAPER)
def test_what_only_the_trainings_tell_is_not_known_on_paper(subject: Subject, name: str):
    metric = metrics()[name]
    merged = walk(configured(subject, PLANS["LoRA merged"]), subject).paper
    figures = [
        metric.evaluate(Evidence(merged, WORKLOAD, training_papers=papers)).value
        for papers in ((), None, (subject.paper, subject.paper))
    ]
    if known_on_paper(metric):
        assert len(set(figures)) == 1


def test_a_limit_on_training_is_left_to_the_record():
    units = {name: metric.unit for name, metric in metrics().items()}
    limits = [parse_limit(f"{name} <= 1", units) for name in ("trainable_parameters", "parameters")]
    assert [limit.metric for limit, _ in paper_bounds(limits, WORKLOAD)] == ["parameters"]
