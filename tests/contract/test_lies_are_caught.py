"""The contract suite has teeth: techniques that lie are caught, each by the check that should."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from paretune.spaces.build import build
from paretune.spaces.candidate import Candidate
from paretune.spaces.families import family_of
from paretune.spaces.hyperparameter import Integer, OneOf
from paretune.spaces.paper import Paper
from paretune.spaces.profile import Head, Sparsity
from paretune.spaces.runtimes.eager import Eager, EagerDeploy
from paretune.spaces.slots import Slot
from paretune.spaces.steps import Phase
from paretune.spaces.structure.ffn import Ffn, PruneNeurons
from paretune.spaces.testing import (
    ContractBroken,
    MemoryBench,
    Specimen,
    cases_of,
    check_off,
    check_row,
    check_technique,
)
from torch import nn


@pytest.fixture(scope="module")
def specimen() -> Specimen:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = {**sizes, "intermediate_size": 64, "vocab_size": 43, "max_position_embeddings": 64}
    profile = family_of("bert").profile(config, Head("classification", 3))
    return Specimen.of(Candidate(build(profile, seed=0), Paper(profile)))


@dataclass(frozen=True)
class Halve:
    """An honest step, for lies to start from: half of the neurons."""

    phase: Phase = Phase.STRUCTURE_AFTER
    name: ClassVar[str] = "lie.halve"
    version: ClassVar[int] = 1
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Any]] = frozenset()
    settings: ClassVar[dict[str, Any]] = {}

    def on_paper(self, paper: Paper) -> Paper:
        return PruneNeurons(0.5).on_paper(paper)

    def apply(self, candidate: Candidate, bench: MemoryBench, seed: int) -> Candidate:
        return PruneNeurons(0.5).apply(candidate, bench, seed)


HALVED = ("parameters", "flops", "bytes", "outputs")


class Lie:
    """A technique with one step and, if wanted, one knob."""

    name: ClassVar[str] = "lie"
    version: ClassVar[int] = 1
    source: ClassVar[str] = "none: it is a lie"

    def __init__(self, step=None, moves=HALVED, knobs=(), reasons=()):
        self.step, self.moves = step or Halve(), frozenset(moves)
        self.knobs, self.reasons = knobs, list(reasons)

    def hyperparameters(self, paper):
        return self.knobs

    def objections(self, paper, settings, targets):
        return self.reasons

    def steps(self, paper, settings):
        return (self.step,)


class Quarter(Halve):
    """Says half, removes a quarter."""

    def apply(self, candidate, bench, seed):
        made = PruneNeurons(0.75).apply(candidate, bench, seed)
        return replace(made, paper=self.on_paper(candidate.paper))


class Filled(Halve):
    """Says that half of the weights are zero, and leaves them as they are."""

    def on_paper(self, paper):
        return replace(paper, profile=replace(paper.profile, sparsity=(("ffn", Sparsity(0.5)),)))

    def apply(self, candidate, bench, seed):
        return replace(candidate, paper=self.on_paper(candidate.paper))


class Unwritten(Halve):
    """Halves the module and hands on the old paper."""

    def apply(self, candidate, bench, seed):
        return replace(super().apply(candidate, bench, seed), paper=candidate.paper)


class Same(Halve):
    """Promises nothing on paper: the step after it does something to a copy of the module."""

    def on_paper(self, paper):
        return paper

    def apply(self, candidate, bench, seed):
        module = build(candidate.paper.profile)
        module.load_state_dict(candidate.module.state_dict())
        made = replace(candidate, module=module)
        self.do(made, bench, seed)
        return made

    def do(self, made, bench, seed):
        raise AssertionError("each lie says what it does")


def scale(module: nn.Module, factor: float) -> None:
    with torch.no_grad():
        module.classifier.weight.mul_(factor)


class Idle(Same):
    """Does nothing."""

    def do(self, made, bench, seed):
        pass


class Twice(Same):
    """Multiplies twice where the paper says once."""

    def do(self, made, bench, seed):
        made.module.classifier.register_forward_hook(
            lambda linear, args, _: nn.functional.linear(args[0], linear.weight, linear.bias)
        )


class Reader(Same):
    """Reads calibration data and does not say so."""

    def do(self, made, bench, seed):
        next(iter(bench.batches("calibration", batch=2)))


class Peeker(Same):
    """Looks at the test split, which nothing may declare."""

    reads: ClassVar[frozenset[Any]] = frozenset({"train", "calibration"})

    def do(self, made, bench, seed):
        next(iter(bench.batches("test", batch=2)))


class RecipeReader(Same):
    """Depends on the recipe and does not say so."""

    def do(self, made, bench, seed):
        scale(made.module, made.paper.recipe.learning_rate)


class Dice(Same):
    """Draws from torch's global generator."""

    def do(self, made, bench, seed):
        scale(made.module, float(torch.rand(())))


class Seeded(Same):
    """Uses the seed and does not say that it draws."""

    def do(self, made, bench, seed):
        scale(made.module, 1.5 + seed)


class Unseeded(Same):
    """Says that it draws, and draws from where no seed reaches."""

    draws: ClassVar[bool] = True

    def do(self, made, bench, seed):
        scale(made.module, 1 + int.from_bytes(os.urandom(4), "big") / 2**32)


class Spoiler(Same):
    """Changes the candidate that it was given."""

    def apply(self, candidate, bench, seed):
        scale(candidate.module, 0.5)
        return candidate


class Hooked(Same):
    """Keeps what it did outside the parameters, where saving does not look."""

    def do(self, made, bench, seed):
        made.module.classifier.register_forward_hook(lambda _, __, out: 2 * out)


class OverTrainer(Same):
    """Trains what the recipe freezes."""

    phase = Phase.TRAIN
    draws: ClassVar[bool] = True
    apply = None

    def run(self, candidate, until_step, bench, seed):
        return Same.apply(self, candidate, bench, seed)

    def do(self, made, bench, seed):
        scale(made.module, 2.0)


class Moody(Halve):
    """Says something else every time it is asked."""

    shares: ClassVar[list[float]] = [0.25, 0.5, 0.75] * 9

    def on_paper(self, paper):
        return PruneNeurons(self.shares.pop()).on_paper(paper)


class Nameless(Halve):
    name: ClassVar[str] = "lie.halve"
    version: ClassVar[int] = 0


class Loaded(Halve):
    settings: ClassVar[dict[str, Any]] = {"heads": [1, 2]}


CAUGHT = {
    "parameters_agree": [Quarter()],
    "zeros_agree": [Filled()],
    "practice_carries_its_paper": [Unwritten()],
    "flops_agree": [Twice(), Quarter()],
    "only_declared_splits_are_read": [Reader(), Peeker()],
    "only_a_declared_recipe_is_read": [RecipeReader()],
    "steps_that_declare_no_draw_ignore_the_seed": [Dice(), Seeded()],
    "the_same_seed_gives_the_same_result": [Unseeded(), Dice()],
    "no_step_changes_what_it_was_given": [Spoiler()],
    "saved_and_loaded_answers_are_equal": [Hooked()],
    "paper_is_pure": [Moody()],
    "steps_are_well_formed": [Nameless(), Loaded()],
}


def fresh(specimen: Specimen) -> Specimen:
    """A specimen of its own, for lies that spoil it."""
    module = build(specimen.paper.profile)
    module.load_state_dict(specimen.candidate.module.state_dict())
    return replace(specimen, candidate=replace(specimen.candidate, module=module))


@pytest.mark.parametrize(
    ("check", "lie"),
    [(check, lie) for check, lies in CAUGHT.items() for lie in lies],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_lie_is_caught_by_its_check(check, lie, specimen):
    with pytest.raises(ContractBroken):
        check_row(check, cases_of(Lie(lie), fresh(specimen)))


def test_a_training_that_moves_frozen_parameters_is_caught(specimen):
    paper = replace(
        specimen.paper, recipe=replace(specimen.paper.recipe, trainable=("classifier.bias",))
    )
    frozen = replace(specimen, candidate=replace(specimen.candidate, paper=paper))
    with pytest.raises(ContractBroken, match=r"moves \['classifier.weight'\]"):
        check_row("trainable_parameters_agree", cases_of(Lie(OverTrainer()), frozen))


def test_an_off_that_changes_the_model_is_caught(specimen):
    off = Slot("structure", "none", {"none": Lie(Seeded())})
    with pytest.raises(ContractBroken, match="changes parameters"):
        check_off(off, specimen)
    smaller = Slot("structure", "none", {"none": Lie(Halve())})
    with pytest.raises(ContractBroken, match="paper after"):
        check_off(smaller, specimen)


class Shy(Eager):
    """Says half of the bytes that it writes."""

    def payload_bytes(self, profile):
        return super().payload_bytes(profile) // 2


class Louder(Eager):
    """Writes other weights than it was given."""

    def steps(self, paper, settings):
        return (LouderDeploy(),)


class LouderDeploy(EagerDeploy):
    def deploy(self, candidate, folder, bench):
        super().deploy(Twofold().apply(candidate, bench, 0), folder, bench)


class Twofold(Same):
    def do(self, made, bench, seed):
        scale(made.module, 2.0)


def test_bytes_that_are_not_written_are_caught(specimen):
    check_row("bytes_agree", cases_of(Eager(), specimen))
    with pytest.raises(ContractBroken, match="bytes of tensors"):
        check_row("bytes_agree", cases_of(Shy(), specimen))


def test_a_runtime_that_changes_the_answers_is_caught(specimen):
    check_off(Slot("runtime", "eager", {"eager": Eager()}), specimen)
    with pytest.raises(ContractBroken, match="changes the answers"):
        check_off(Slot("runtime", "eager", {"eager": Louder()}), specimen)
    with pytest.raises(ContractBroken, match="declares"):
        check_row("what_it_declares_moves", cases_of(Louder(), specimen))


def test_a_declared_observable_that_never_moves_is_caught(specimen):
    liar = Lie(moves=(*HALVED, "trainable"))
    with pytest.raises(ContractBroken, match=r"declares to move \['trainable'\]"):
        check_row("what_it_declares_moves", cases_of(liar, specimen))
    with pytest.raises(ContractBroken, match=r"it moves nothing, and declares \['recipe'\]"):
        check_row("what_it_declares_moves", cases_of(Lie(Idle(), moves=["recipe"]), specimen))


def test_an_undeclared_observable_that_moves_is_caught(specimen):
    liar = Lie(moves=("parameters", "bytes", "outputs"))
    with pytest.raises(ContractBroken, match="'flops'"):
        check_row("what_it_declares_moves", cases_of(liar, specimen))


def test_an_objection_without_advice_is_caught(specimen):
    liar = Lie(reasons=["these settings are illegal here"])
    with pytest.raises(ContractBroken, match="does not say what to do"):
        check_row("refusals_say_what_to_do", cases_of(liar, specimen))


@pytest.mark.parametrize(
    "knob",
    [Integer("rank", 1, 8, 9), OneOf("kind", ("a", "b"), "c"), Integer("n", 0, 8, 1, log=True)],
)
def test_a_default_outside_its_range_is_caught(knob, specimen):
    with pytest.raises(ContractBroken, match="default outside its range"):
        check_row("knobs_are_sound", cases_of(Lie(knobs=(knob,)), specimen))


def test_an_observable_that_does_not_exist_is_caught(specimen):
    with pytest.raises(ContractBroken, match="observables are"):
        check_row("is_a_technique", cases_of(Lie(moves=("speed",)), specimen))


def test_an_honest_technique_passes_every_check(specimen):
    check_technique(Ffn(), specimen)


def test_a_technique_that_was_never_tried_does_not_pass(specimen):
    shy = Lie(reasons=["this model is too small; choose another"])
    with pytest.raises(ContractBroken, match="refuses every setting"):
        check_technique(shy, specimen)


def test_the_message_names_technique_settings_and_both_figures(specimen):
    with pytest.raises(ContractBroken, match=r"lie \{\}: lie.halve: forward FLOPs: paper says \d+"):
        check_row("flops_agree", cases_of(Lie(Quarter()), specimen))
