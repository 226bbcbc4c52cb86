"""What the tests of fine-tuning share: a tiny model, a technique's steps, and doing them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from paretune.spaces.candidate import Candidate
from paretune.spaces.configuration import Settings
from paretune.spaces.load import Load
from paretune.spaces.models import inspect_model, profile_of
from paretune.spaces.paper import Paper
from paretune.spaces.profile import Profile
from paretune.spaces.recipe import Recipe
from paretune.spaces.steps import Amend, Change, Step, Train
from paretune.spaces.technique import Targets, Technique
from paretune.spaces.testing import MemoryBench, random_items
from torch import Tensor, nn

FAMILIES = ("bert", "roberta", "distilbert", "gpt2", "llama", "qwen2")
DECODERS = ("gpt2", "llama", "qwen2")
RECIPE = Recipe(train_items=8, epochs=2, batch=4, learning_rate=1e-2)
TARGET = Targets()


def given(folder: Path, kind: str = "classification") -> Candidate:
    source = inspect_model(str(folder))
    profile = profile_of(source, kind, 3)  # type: ignore[arg-type]
    made = Load(source, profile).apply(None, None, 0)  # type: ignore[arg-type]
    return replace(made, paper=Paper(profile, RECIPE))


def defaults(technique: Technique, paper: Paper, **changes: Any) -> Settings:
    return {k.name: k.default for k in technique.hyperparameters(paper)} | changes


def steps(technique: Technique, paper: Paper, **changes: Any) -> list[Step]:
    made = technique.steps(paper, defaults(technique, paper, **changes))
    return sorted(made, key=lambda step: step.phase)


def objections(technique: Technique, paper: Paper, **changes: Any) -> list[str]:
    return technique.objections(paper, defaults(technique, paper, **changes), TARGET)


def done(start: Candidate, todo: list[Step], seed: int = 0) -> list[Candidate]:
    """The candidate after every step."""
    bench, made = MemoryBench(start), [start]
    for step in todo:
        now = made[-1]
        if isinstance(step, Amend):
            made.append(replace(now, paper=step.on_paper(now.paper)))
        elif isinstance(step, Train):
            made.append(step.run(now, now.paper.recipe.total_steps, bench, seed))
        else:
            assert isinstance(step, Change)
            made.append(step.apply(now, bench, seed))
    return made[1:]


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in module.named_parameters()}


def on_paper(profile: Profile) -> dict[str, tuple[int, ...]]:
    return {weight.name: weight.shape for weight in profile.weights()}


def answers(candidate: Candidate) -> Tensor:
    items = random_items(candidate.paper.profile, 4, 8, seed=3)
    with torch.no_grad():
        out: Tensor = candidate.module(
            input_ids=torch.from_numpy(items.input_ids),
            attention_mask=torch.from_numpy(items.attention_mask),
        ).logits
    return out
