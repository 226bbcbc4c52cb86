"""Recovery: a short training of everything, alone or with the baseline as teacher."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from paretune.spaces.build import build
from paretune.spaces.candidate import Candidate
from paretune.spaces.configuration import Settings
from paretune.spaces.lower import BASELINE_TEACHER
from paretune.spaces.paper import Paper
from paretune.spaces.profile import Attention, FeedForward, Head, Layer, Profile
from paretune.spaces.recipe import Loss, Recipe
from paretune.spaces.recovery import OFF, TABLE
from paretune.spaces.recovery.distil import TEACHER, losses_of
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


def test_recovery_is_off_by_default_and_has_two_ways():
    assert OFF == "none"
    assert set(TABLE) == {"finetune", "distil"}


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
    distil = TABLE["distil"]
    losses = losses_of(settings(distil, alpha=0.7, temperature=4.0))
    assert losses == (Loss("task", pytest.approx(0.3)), Loss("logits", 0.7, 4.0))  # type: ignore
    with_hidden = losses_of(settings(distil, alpha=1.0, hidden="on"))
    assert [loss.kind for loss in with_hidden] == ["logits", "hidden"]


def test_the_teacher_is_the_name_that_lowering_replaces():
    paper = Paper(profile(), RECIPE)
    amend, _ = TABLE["distil"].steps(paper, settings(TABLE["distil"]))
    assert amend.on_paper(paper).recipe.teacher == TEACHER == BASELINE_TEACHER
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
    assert not distil.objections(paper, settings(distil, alpha=0.0, hidden="on"), Targets())
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
    for source in (teacher, wider):
        amend, train = TABLE["distil"].steps(
            student.paper, settings(TABLE["distil"], hidden="on", share=1.0)
        )
        ready = replace(student, paper=amend.on_paper(student.paper))
        assert isinstance(train, Train)
        after = train.run(ready, 2, MemoryBench(source), 0)
        assert after.train_state is not None
        assert after.train_state.step == 2
        name = "bert.encoder.layer.0.attention.self.value.weight"
        old, new = student.module.get_parameter(name), after.module.get_parameter(name)
        assert not torch.equal(old, new)
