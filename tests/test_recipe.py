"""The recipe and the technique that sets it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from paretune.spaces.lower import walk
from paretune.spaces.paper import Paper
from paretune.spaces.profile import Attention, FeedForward, Head, Layer, Profile
from paretune.spaces.recipe import Loss, Recipe
from paretune.spaces.recipes import OFF, TABLE
from paretune.spaces.steps import Amend, Phase

PAPER = Paper(
    Profile(
        family="bert",
        width=32,
        vocabulary=43,
        positions=16,
        token_types=2,
        layers=(Layer(Attention(4, 4, 8), FeedForward(64)),),
        head=Head("classification", 2),
        extra=(("pad_token_id", 0),),
    ),
    Recipe(train_items=1200, epochs=3),
)


def test_a_recipe_survives_json():
    recipe = Recipe(("*.bias",), 10, 1.5, losses=(Loss("task"), Loss("logits", 0.5, 2.0)))
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("items", "epochs", "batch", "steps"),
    [
        (1200, 3, 16, 225),
        (100, 3, 16, 19),
        (1200, 0.01, 16, 1),
        (80, 0.1 * 3, 4, 6),
        (0, 3, 16, 0),
        (5, 0, 16, 0),
    ],
)
def test_steps_are_items_times_epochs_over_the_batch_rounded_up(
    items: int, epochs: float, batch: int, steps: int
):
    assert Recipe(train_items=items, epochs=epochs, batch=batch).total_steps == steps


def test_a_parameter_trains_when_any_pattern_fits_its_name():
    recipe = Recipe(trainable=("*.bias", "head.weight"))
    assert recipe.trains("encoder.0.bias")
    assert recipe.trains("head.weight")
    assert not recipe.trains("encoder.0.weight")
    assert not Recipe().trains("head.weight")


def test_leaving_the_recipe_as_it_is_is_no_row():
    assert OFF == "default"
    assert OFF not in TABLE


def test_the_plain_recipe_sets_what_it_is_told_and_nothing_else():
    plain = TABLE["plain"]
    told = {"epochs": 2.5, "batch": 32, "compute": "bf16", "warmup_share": 0.2}
    (step,) = plain.steps(PAPER, told)
    assert isinstance(step, Amend)
    assert step.settings == told
    assert step.on_paper(PAPER).recipe == replace(PAPER.recipe, **told)
    assert step.on_paper(PAPER).profile == PAPER.profile


def test_the_plain_recipes_defaults_are_the_default_recipe():
    plain = TABLE["plain"]
    told = {knob.name: knob.default for knob in plain.hyperparameters(PAPER)}
    (step,) = plain.steps(PAPER, told)
    assert step.on_paper(PAPER) == PAPER


def test_the_recipe_is_set_before_fine_tuning_and_recovery_read_it():
    from paretune.spaces.configuration import Choice, Configuration
    from paretune.spaces.lower import Subject

    class Load:
        name, version, phase = "load", 1, Phase.LOAD
        draws, reads, settings = False, frozenset(), {}  # type: ignore[var-annotated]

        def on_paper(self, paper: Paper) -> Paper:
            return paper

        def apply(self, candidate, bench, seed): ...

    subject = Subject(
        load=Load(),  # type: ignore[arg-type]
        profile=PAPER.profile,
        recipe=PAPER.recipe,
        digests={"model": "m", "train": "t", "calibration": "c"},
    )
    configuration = Configuration.of(
        recipe=Choice.of("plain", epochs=10.0, batch=8, compute="fp32", warmup_share=0.0),
        finetuning=Choice.of("full", learning_rate=3e-4),
        recovery=Choice.of("finetune", share=0.1, learning_rate=1e-4),
    )
    moves = walk(configuration, subject).moves
    assert not walk(configuration, subject).objections
    first, second = (m.before.recipe for m in moves if m.step.name.startswith("train."))
    assert (first.epochs, first.batch, first.learning_rate) == (10.0, 8, 3e-4)
    assert (second.epochs, second.batch, second.learning_rate) == (1.0, 8, 1e-4)
    assert second.total_steps == 150
