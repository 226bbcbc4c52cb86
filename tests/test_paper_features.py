"""What a surrogate is told about a candidate on paper."""

import math
from dataclasses import replace

import numpy as np
import pytest
from paretune.spaces.configuration import Choice, Configuration
from paretune.spaces.paper import Paper, Plan
from paretune.spaces.paper_features import FEATURES, paper_features
from paretune.spaces.profile import (
    Adapter,
    Attention,
    FeedForward,
    Format,
    Head,
    Layer,
    Profile,
    Weight,
)
from paretune.spaces.recipe import Loss, Recipe

LAYER = Layer(Attention(4, 4, 8), FeedForward(64))
PROFILE = Profile("bert", 32, 43, 64, 2, (LAYER,) * 3, Head("classification", 2))
PLAIN = Configuration()


def named(paper, configuration=PLAIN):
    return dict(zip(FEATURES, paper_features(configuration, paper), strict=True))


def moved(before, after):
    return {name for name in FEATURES if before[name] != after[name]}


def test_every_feature_has_one_name_and_a_finite_number():
    assert len(set(FEATURES)) == len(FEATURES)
    assert np.isfinite(paper_features(PLAIN, Paper(PROFILE))).all()


def test_parameters_and_flops_count_every_matrix_and_table():
    features = named(Paper(PROFILE))
    blocks = 3 * (4 * 32 * 32 + 2 * 32 * 64)
    assert math.exp(features["log_parameters"]) - 1 == pytest.approx(blocks + 109 * 32 + 2 * 32)
    products = 128 * (2 * blocks + 4 * 128 * 3 * 32)
    assert math.exp(features["log_flops"]) - 1 == pytest.approx(products)


def test_parameters_agree_with_the_profile_but_for_vectors():
    weights = PROFILE.weights()
    extra = ("pooler", "classifier")
    counted = sum(
        w.count for w in weights if w.role != "vector" and not any(e in w.name for e in extra)
    )
    features = named(Paper(replace(PROFILE, head=Head("classification", 0))))
    assert math.exp(features["log_parameters"]) - 1 == pytest.approx(counted)


def test_bits_move_bytes_and_not_parameters():
    packed = PROFILE.with_formats({"ffn": Format("int8")})
    assert moved(named(Paper(PROFILE)), named(Paper(packed))) == {"log_bytes", "bits_ffn"}


def test_a_missing_part_is_a_state_of_its_own():
    cut = replace(PROFILE, layers=(LAYER, LAYER, Layer(None, LAYER.feed_forward)))
    features = named(Paper(cut))
    assert features["attention_missing"] == 1.0
    assert features["ffn_missing"] == 0.0
    assert features["attention_variance"] == pytest.approx(2 / 9)
    assert features["depth"] == 3.0


def test_where_width_lies_is_for_the_knobs_to_tell():
    wide = Layer(LAYER.attention, FeedForward(128))
    early = replace(PROFILE, layers=(wide, LAYER, LAYER))
    late = replace(PROFILE, layers=(LAYER, LAYER, wide))
    assert moved(named(Paper(early)), named(Paper(late))) == set()


def test_an_adapter_shows_its_rank_and_its_parameters():
    weight = Weight("lora_A", (4, 32), "adapter", "matrix")
    adapter = Adapter("lora", (("rank", 4),), ("encoder.0",), (weight,))
    features = named(Paper(replace(PROFILE, adapters=(adapter,))))
    assert features["log_rank"] == pytest.approx(math.log(5))
    assert features["log_adapter"] == pytest.approx(math.log(129))


def test_a_recipe_that_trains_nothing_says_nothing():
    idle = Recipe(train_items=100, epochs=1)
    before = named(Paper(PROFILE, idle))
    assert before == named(Paper(PROFILE, replace(idle, learning_rate=1.0)))
    losses = (Loss("task", 0.5), Loss("logits", 0.5, 2.0))
    taught = named(Paper(PROFILE, replace(idle, trainable=("*",), losses=losses, teacher="k")))
    assert taught["loss_logits"] == 0.5
    assert taught["log_temperature"] == pytest.approx(math.log(2))
    assert taught["taught"] == 1.0


def test_slots_and_devices_are_told():
    features = named(Paper(PROFILE, plan=Plan(devices=4)), Configuration.of(plan=Choice.of("tp")))
    assert features["changes_plan"] == 1.0
    assert features["changes_recipe"] == 0.0
    assert features["log_devices"] == pytest.approx(math.log(4))


def test_models_of_equal_totals_are_told_apart_by_their_variance():
    narrow, wide = (Layer(LAYER.attention, FeedForward(w)) for w in (32, 96))
    even = named(Paper(PROFILE))
    uneven = named(Paper(replace(PROFILE, layers=(narrow, wide, LAYER))))
    assert even["log_ffn"] == uneven["log_ffn"]
    assert even["ffn_variance"] == 0.0
    assert uneven["ffn_variance"] == pytest.approx(2 / 3)
