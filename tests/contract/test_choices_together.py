"""Choices in several slots at once, in the order of `lower`: paper and practice still agree."""

from __future__ import annotations

import gc
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import pytest
from paretune.spaces.configuration import Choice, Configuration
from paretune.spaces.load import Load
from paretune.spaces.lower import Subject, Walk, walk
from paretune.spaces.models import inspect_model, profile_of
from paretune.spaces.slots import slots
from paretune.spaces.steps import Deploy
from paretune.spaces.testing import CHECKS, OBSERVABLES, Case, MemoryBench, Specimen, check_row

TOGETHER = {
    "cut, then adapt": {"structure": ("ffn", {"when": "before"}), "finetuning": ("lora", {})},
    "adapt, merge, cut, recover": {
        "finetuning": ("lora", {}),
        "structure": ("heads", {"when": "after", "importance": "activations"}),
        "recovery": ("distil", {}),
    },
    "train all, drop layers, recover": {
        "finetuning": ("full", {}),
        "structure": ("layers", {"when": "after", "importance": "similarity"}),
        "recovery": ("finetune", {}),
    },
    "everything": {
        "finetuning": ("lora", {}),
        "structure": ("mixed", {"when": "after"}),
        "recovery": ("finetune", {}),
        "precision": ("int8", {}),
    },
    "zeros first, adapters beside them, recover": {
        "structure": ("sparsity", {"when": "before", "pattern": "2:4"}),
        "finetuning": ("lora", {"merge": "keep"}),
        "recovery": ("finetune", {}),
    },
    "train all, zeros, recover, store small": {
        "finetuning": ("full", {}),
        "structure": ("sparsity", {"when": "after"}),
        "recovery": ("distil", {}),
        "precision": ("int8", {}),
    },
    "thin matrices first, train all, store small": {
        "structure": ("low_rank", {"when": "before", "slope": 0.4}),
        "finetuning": ("full", {}),
        "precision": ("int4", {}),
    },
    "adapt, merge, narrow, recover": {
        "finetuning": ("lora", {}),
        "structure": ("width", {"when": "after"}),
        "recovery": ("distil_layers", {}),
    },
    "train some elements, cut, round by what they are fed": {
        "finetuning": ("fish", {}),
        "structure": ("ffn", {"when": "after"}),
        "precision": ("gptq", {}),
    },
    "a sub-network with zeros, folded and rounded": {
        "architecture": ("subnet", {"depth": 0.625}),
        "structure": ("sparsity", {"when": "after"}),
        "precision": ("awq", {}),
    },
    "a sub-network, adapted, cut, taught by itself": {
        "architecture": ("subnet", {"depth": 0.625, "ffn_first": 0.5}),
        "finetuning": ("lora", {}),
        "structure": ("heads", {"when": "after"}),
        "recovery": ("distil_relations", {"teacher": "self"}),
    },
    "cut, train vectors, store small": {
        "structure": ("mixed", {"when": "before", "importance": "activations"}),
        "finetuning": ("ia3", {}),
        "precision": ("int4", {}),
    },
    "train some elements, cut, recover": {
        "finetuning": ("fish", {}),
        "structure": ("ffn", {"when": "after"}),
        "recovery": ("finetune", {}),
    },
    "cut, set bottlenecks behind, store small": {
        "structure": ("heads", {"when": "before"}),
        "finetuning": ("bottleneck", {}),
        "precision": ("int8", {}),
    },
    "turn, merge, requantise": {"finetuning": ("dora", {}), "precision": ("int4", {})},
}
FAMILIES = {"bert": "classification", "llama": "language-modelling"}
JUDGED = [check for check in CHECKS if "refusals" not in check and "knobs" not in check]


class Lowered:
    """A whole configuration as one technique: what `lower` makes of it, runtime apart."""

    name: ClassVar[str] = "together"
    version: ClassVar[int] = 1
    source: ClassVar[str] = "lower"

    def __init__(self, path: Walk) -> None:
        self.path = path
        shapes = {move.after.profile.weights() for move in path.moves}
        # What is made of the same weights all along, if other ones in value, costs the same.
        still = {"parameters", "flops"} if len(shapes) == 1 else set()
        self.moves = frozenset(OBSERVABLES) - still

    def hyperparameters(self, paper):
        return ()

    def objections(self, paper, settings, targets):
        return list(self.path.objections)

    def steps(self, paper, settings):
        moves = self.path.moves[1:]
        return [move.step for move in moves if not isinstance(move.step, Deploy)]


def configuration(chosen, paper) -> Configuration:
    choices = {}
    for slot, (method, settings) in chosen.items():
        knobs = slots()[slot].technique(method).hyperparameters(paper)
        choices[slot] = Choice.of(method, **{knob.name: knob.default for knob in knobs} | settings)
    return Configuration.of(**choices)


@pytest.fixture(scope="module", autouse=True)
def _settled(tiny_models):
    """Libraries' objects are not looked through again each time that a runner is closed."""
    gc.freeze()
    yield
    gc.unfreeze()


@lru_cache(maxsize=1)
def case(together: str, family: str, folder: Path) -> Case:
    source = inspect_model(str(folder))
    profile = profile_of(source, FAMILIES[family], 3)
    load = Load(source, profile)
    specimen = Specimen.of(load.apply(None, MemoryBench(None), 0))
    subject = Subject(load, profile, specimen.paper.recipe, digests={})
    path = walk(configuration(TOGETHER[together], specimen.paper), subject)
    return Case(Lowered(path), {}, specimen)


@pytest.mark.parametrize(
    ("together", "family", "check"),
    [(together, family, check) for together in TOGETHER for family in FAMILIES for check in JUDGED],
)
def test_choices_made_together_keep_the_contract(together, family, check, tiny_models):
    tried = case(together, family, tiny_models[family])
    assert not tried.objections
    check_row(check, [tried])


@pytest.mark.parametrize("together", TOGETHER)
@pytest.mark.parametrize("family", FAMILIES)
def test_lower_and_practice_walk_the_same_papers(together, family, tiny_models):
    tried = case(together, family, tiny_models[family])
    promised = [m.after for m in tried.technique.path.moves[1:] if not isinstance(m.step, Deploy)]
    assert [node.candidate.paper for node in tried.nodes] == promised
