"""Recovery: a short training of everything, alone or with the baseline as teacher."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from paretune.spaces.build import build
from paretune.spaces.candidate import Candidate
from paretune.spaces.configuration import Settings
from paretune.spaces.paper import Paper
from paretune.spaces.profile import Attention, FeedForward, Head, Layer, Profile
from paretune.spaces.recipe import BASELINE, Loss, Recipe
from paretune.spaces.recovery import OFF, TABLE
from paretune.spaces.steps import Phase, Train
from paretune.spaces.technique import Targets, Technique
from paretune.spaces.testing import MemoryBench

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")

RECIPE = Recipe(trainable=("x",), train_items=80, epochs=3, batch=4, learning_rate=1.0)


def profile(layers: int = 2, heads: int = 4) -> Profile:
    layer = Layer(Attention(heads, heads, 8), FeedForward(32))
    return Profile(
        family="bert",
        width=32,
        vocabulary=43,
        positions=16,
        token_types=2,
        layers=(layer,) * layers,
        head=Head("classification", 3),
        extra=(("pad_token_id", 0),),
    )


def settings(technique: Technique, **changes: Any) -> Settings:
    paper = Paper(profile(), RECIPE)
    return {k.name: k.default for k in technique.hyperparameters(paper)} | changes


def losses(name: str, **changes: Any) -> tuple[Loss, ...]:
    """The terms that a method's settings ask for."""
    paper = Paper(profile(), RECIPE)
    amend, _ = TABLE[name].steps(paper, settings(TABLE[name], **changes))
    return amend.on_paper(paper).recipe.losses


def test_recovery_is_off_by_default_and_has_four_ways():
    assert OFF == "none"
    assert set(TABLE) == {"finetune", "distil", "distil_layers", "distil_relations"}


def test_recovery_trains_everything_for_a_share_of_the_epochs():
    paper = Paper(profile(), RECIPE)
    for technique in TABLE.values():
        amend, train = technique.steps(paper, settings(technique, share=0.1, learning_rate=2e-4))
        assert (amend.phase, train.phase) == (Phase.RECOVERY_AMEND, Phase.RECOVERY_TRAIN)
        assert isinstance(train, Train)
        recipe = amend.on_paper(paper).recipe
        assert recipe.trainable == ("*",)
        assert recipe.total_steps == 6
        assert recipe.learning_rate == 2e-4


def test_distillation_mixes_the_task_with_the_teachers_answers():
    mixed = losses("distil", alpha=0.7, temperature=4.0)
    assert mixed == (Loss("task", pytest.approx(0.3)), Loss("logits", 0.7, 4.0))  # type: ignore
    assert [loss.kind for loss in losses("distil", alpha=1.0)] == ["logits"]


def test_layers_and_relations_are_matched_beside_the_answers():
    both = losses("distil_layers", match="both", alpha=1.0, weight=0.3, pairs="top")
    assert [(loss.kind, loss.weight, loss.pairs) for loss in both[1:]] == [
        ("hidden", 0.3, "top"),
        ("attention", 0.3, "top"),
    ]
    assert [loss.kind for loss in losses("distil_layers", alpha=0.0)] == ["task", "hidden"]
    related = losses("distil_relations", relation_heads=16, weight=2.0, alpha=0.0)
    assert related == (Loss("task"), Loss("relations", 2.0, depth=1.0, heads=16))


def test_the_teacher_is_the_name_that_lowering_replaces():
    paper = Paper(profile(), RECIPE)
    amend, _ = TABLE["distil"].steps(paper, settings(TABLE["distil"]))
    assert amend.on_paper(paper).recipe.teacher == BASELINE
    amend, _ = TABLE["finetune"].steps(paper, settings(TABLE["finetune"]))
    assert amend.on_paper(paper).recipe.teacher is None


def test_every_setting_enters_the_amends_settings():
    paper = Paper(profile(), RECIPE)
    told = TABLE["distil"].steps(paper, settings(TABLE["distil"]))[0].settings
    assert told["loss.logits.temperature"] == 2.0
    assert told["teacher"] == "baseline"
    assert "teacher" not in TABLE["finetune"].steps(paper, settings(TABLE["finetune"]))[0].settings


def test_what_recovers_nothing_is_refused():
    paper = Paper(profile(), RECIPE)
    distil = TABLE["distil"]
    (reason,) = distil.objections(paper, settings(distil, alpha=0.0), Targets())
    assert "choose alpha > 0" in reason
    for name in ("distil_layers", "distil_relations"):
        assert not TABLE[name].objections(paper, settings(TABLE[name], alpha=0.0), Targets())
    empty = Paper(profile(), replace(RECIPE, train_items=0))
    for technique in TABLE.values():
        (reason,) = technique.objections(empty, settings(technique), Targets())
        assert "no training items" in reason


def test_a_smaller_student_learns_from_a_deeper_and_wider_teacher():
    teacher = Candidate(build(profile(4), seed=1), Paper(profile(4)))
    wide = replace(profile(3), width=48)
    wider = Candidate(build(wide, seed=1), Paper(wide))
    recipe = Recipe(train_items=8, epochs=1, batch=4)
    student = Candidate(build(profile(2), seed=0), Paper(profile(2), recipe))
    ways = [("distil_layers", {"match": "both"}), ("distil_relations", {"relation_heads": 2})]
    for source, (name, how) in itertools.product((teacher, wider), ways):
        amend, train = TABLE[name].steps(student.paper, settings(TABLE[name], share=1.0, **how))
        ready = replace(student, paper=amend.on_paper(student.paper))
        assert isinstance(train, Train)
        after = train.run(ready, 2, MemoryBench(source), 0)
        assert after.train_state is not None
        assert after.train_state.step == 2
        weight = "bert.encoder.layer.0.attention.self.value.weight"
        old, new = student.module.get_parameter(weight), after.module.get_parameter(weight)
        assert not torch.equal(old, new)
