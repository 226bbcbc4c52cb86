from __future__ import annotations

from dataclasses import replace

import pytest
from paretune.errors import ModelError
from paretune.spaces.families import FAMILIES, family_of, plain_config, plain_objection
from paretune.spaces.family import Family
from paretune.spaces.profile import Attention, FeedForward, Head, Layer, Profile


def _config(family: Family) -> dict[str, int]:
    keys = family.sizes
    sizes = {
        keys.width: 32,
        keys.layers: 3,
        keys.heads: 4,
        keys.feed_forward: 64,
        keys.positions: 64,
        keys.vocabulary: 43,
        keys.kv_heads: 2,
        keys.head_width: 8,
    }
    return {key: size for key, size in sizes.items() if key is not None}


def _profile(name: str, **config: object) -> Profile:
    family = FAMILIES[name]
    return family.profile({**_config(family), **config}, Head("classification", 3))


def _with_layer(profile: Profile, heads: int, width: int) -> Profile:
    attention, gated = profile.layers[0].attention, family_of(profile.family).gated
    assert attention is not None
    groups = heads if attention.heads == attention.kv_heads else 1
    layer = Layer(Attention(heads, groups, 8), FeedForward(width, gated))
    return replace(profile, layers=(layer,) * len(profile.layers))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_reads_its_own_config_keys(name: str):
    profile = _profile(name)
    assert (profile.width, profile.vocabulary, len(profile.layers)) == (32, 43, 3)
    attention = profile.layers[0].attention
    assert attention is not None
    assert (attention.heads, attention.head_width) == (4, 8)
    assert attention.kv_heads == (2 if FAMILIES[name].sizes.kv_heads else 4)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_writes_the_config_that_it_reads(name: str):
    profile = _profile(name)
    config = plain_config(profile)
    assert config is not None
    assert FAMILIES[name].profile(config, profile.head) == profile


@pytest.mark.parametrize("name", FAMILIES)
def test_names_of_weights_are_unique_and_each_role_has_its_matrix(name: str):
    profile, family = _profile(name), FAMILIES[name]
    names = [weight.name for weight in profile.weights()]
    assert len(names) == len(set(names))
    for role in family.modules:
        assert f"{family.path(role, 2)}.weight" in names


def test_gpt2_says_that_query_key_and_value_are_one_matrix():
    family = FAMILIES["gpt2"]
    assert family.fused("attention.key") == (
        "attention.query",
        "attention.key",
        "attention.value",
    )
    assert FAMILIES["bert"].fused("attention.key") == ("attention.key",)


def test_conv1d_matrices_are_summed_over_their_first_axis():
    weights = {weight.name: weight for weight in _profile("gpt2").weights()}
    fused = weights["transformer.h.0.attn.c_attn.weight"]
    assert (fused.shape, fused.input_axis) == ((32, 96), 0)
    score = weights["score.weight"]
    assert (score.shape, score.input_axis) == ((3, 32), 1)


def test_an_encoder_refuses_to_model_language():
    with pytest.raises(ModelError, match="bert is an encoder and cannot model language"):
        FAMILIES["bert"].profile(_config(FAMILIES["bert"]), Head("language-modelling", 43))


def test_an_unknown_family_names_the_known_ones():
    with pytest.raises(ModelError, match="'t5' is not supported; known: bert, distilbert, gpt2"):
        family_of("t5")


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("bert", "is_decoder", True),
        ("bert", "position_embedding_type", "relative_key"),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True),
        ("qwen2", "use_sliding_window", True),
        ("llama", "quantization_config", {"bits": 4}),
    ],
)
def test_a_config_that_computes_otherwise_is_refused(name: str, key: str, value: object):
    with pytest.raises(ModelError, match=f"{name} with {key} = .* is not supported"):
        _profile(name, **{key: value})


def test_a_missing_size_is_named():
    config = _config(FAMILIES["bert"])
    del config["hidden_size"]
    with pytest.raises(ModelError, match="lacks 'hidden_size'"):
        FAMILIES["bert"].profile(config, Head("classification", 2))


def test_a_size_that_is_no_number_is_refused():
    with pytest.raises(ModelError, match="hidden_size = 'wide'"):
        _profile("bert", hidden_size="wide")


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_no_heads_at_all_are_refused(name: str):
    with pytest.raises(ModelError, match=r"num_attention_heads = 0; .* at least 1"):
        _profile(name, num_attention_heads=0)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ModelError, match="5 heads for a width of 32"):
        _profile("bert", num_attention_heads=5)


def test_heads_that_do_not_share_key_value_heads_evenly_are_refused():
    profile = _profile("llama")
    layer = Layer(Attention(3, 2, 8), FeedForward(64, gated=True))
    with pytest.raises(ModelError, match="layer 1: 3 heads cannot share 2 key-value heads"):
        replace(profile, layers=(profile.layers[0], layer)).weights()


def test_grouped_queries_are_refused_where_the_family_has_none():
    layer = Layer(Attention(4, 2, 8), FeedForward(64))
    with pytest.raises(ModelError, match="bert has no grouped-query attention"):
        replace(_profile("bert"), layers=(layer,)).weights()


def test_a_language_modelling_head_answers_with_the_vocabulary():
    with pytest.raises(ModelError, match="40 outputs must be 43"):
        FAMILIES["gpt2"].profile(_config(FAMILIES["gpt2"]), Head("language-modelling", 40))


def test_a_decoder_without_padding_pads_with_its_end_token():
    assert dict(_profile("llama", eos_token_id=[7, 8]).extra)["pad_token_id"] == 7
    assert dict(_profile("llama", pad_token_id=3).extra)["pad_token_id"] == 3


def test_nested_settings_are_kept_flat_and_written_nested():
    profile = _profile("llama", rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    assert dict(profile.extra)["rope_parameters.rope_theta"] == 500.0
    config = plain_config(profile)
    assert config is not None
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 500.0}


@pytest.mark.parametrize(("name", "longest"), [("bert", 64), ("roberta", 62), ("llama", 64)])
def test_the_longest_text_leaves_out_positions_that_no_token_gets(name: str, longest: int):
    profile = _profile(name)
    assert FAMILIES[name].longest_text(profile) == longest


def test_plain_classes_hold_narrower_feed_forward_parts_and_fewer_layers():
    profile = _with_layer(_profile("bert"), heads=4, width=40)
    config = plain_config(replace(profile, layers=profile.layers[:2]))
    assert config is not None
    assert (config["intermediate_size"], config["num_hidden_layers"]) == (40, 2)


@pytest.mark.parametrize(
    ("name", "heads", "why"),
    [
        ("bert", 2, "2 heads of 8 do not add up to the width 32"),
        ("gpt2", 2, "2 heads of 8 do not add up to the width 32"),
        ("llama", 2, None),
        ("llama", 3, "3 heads do not divide the width 32"),
        ("qwen2", 3, None),
        ("mistral", 3, None),
        ("qwen3", 3, None),
    ],
)
def test_plain_classes_hold_fewer_heads_only_where_the_config_says_their_width(name, heads, why):
    profile = _with_layer(_profile(name), heads=heads, width=64)
    assert plain_objection(profile) == why
    assert (plain_config(profile) is None) == (why is not None)


def test_plain_classes_cannot_hold_unequal_or_missing_parts():
    profile = _profile("bert")
    unequal = (profile.layers[0], Layer(Attention(4, 4, 8), FeedForward(40)))
    lacking = (Layer(None, FeedForward(64)),) * 2
    assert plain_objection(replace(profile, layers=unequal)) == (
        "layers differ in heads or feed-forward width"
    )
    assert plain_objection(replace(profile, layers=lacking)) == (
        "layers lack their attention or feed-forward part"
    )
