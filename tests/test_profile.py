from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paretune.errors import ModelError
from paretune.spaces.families import FAMILIES
from paretune.spaces.paper import Paper, Plan
from paretune.spaces.profile import (
    Adapter,
    Attention,
    FeedForward,
    Format,
    Head,
    Layer,
    Profile,
    Sparsity,
    Weight,
    decode_flops,
    forward_flops,
    operators,
    parameters,
    trainable_parameters,
)
from paretune.spaces.recipe import Recipe

BERT_BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "vocab_size": 30522,
}
LLAMA_7B = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
}
GPT2 = {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}


def _encoder(config: dict, family: str = "bert", classes: int = 2) -> Profile:
    return FAMILIES[family].profile(config, Head("classification", classes))


def _decoder(config: dict, family: str) -> Profile:
    vocabulary = config["vocab_size"]
    head = Head("language-modelling", vocabulary, FAMILIES[family].tied)
    return FAMILIES[family].profile(config, head)


def _classifier(profile: Profile) -> int:
    return sum(w.count for w in profile.weights() if w.name.startswith("classifier"))


@pytest.mark.parametrize(
    ("sizes", "published"),
    [
        ({}, 109_482_240),
        (
            {
                "hidden_size": 312,
                "num_hidden_layers": 4,
                "intermediate_size": 1200,
            },
            14_350_248,
        ),
        (
            {
                "hidden_size": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 512,
            },
            4_385_920,
        ),
        ({"hidden_size": 384, "intermediate_size": 1536}, 33_360_000),
    ],
)
def test_encoders_count_as_many_parameters_as_transformers_bert_model(sizes, published):
    """Counted on transformers' BertModel with its pooler: bert-base, TinyBERT-4, tiny, MiniLM."""
    profile = _encoder({**BERT_BASE, **sizes})
    assert parameters(profile) - _classifier(profile) == published


def test_roberta_base_counts_as_many_parameters_as_transformers_roberta_model():
    sizes = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
    profile = _encoder({**BERT_BASE, **sizes}, "roberta")
    out_proj = 2 * 768 + 2
    assert parameters(profile) - out_proj == 124_645_632


def test_gpt2_counts_its_tied_head_once():
    assert parameters(_decoder(GPT2, "gpt2")) == 124_439_808


@pytest.mark.parametrize(
    ("sizes", "published"),
    [
        ({}, 6_738_415_616),
        (
            {"intermediate_size": 14336, "vocab_size": 128256, "num_key_value_heads": 8},
            8_030_261_248,
        ),
    ],
)
def test_llama_7b_and_llama_3_8b_count_their_published_parameters(sizes, published):
    assert parameters(_decoder({**LLAMA_7B, **sizes}, "llama")) == published


def test_bert_base_forward_flops_are_those_of_torch_for_128_tokens():
    """22,348,431,360 with the pooler: torch's FlopCounterMode on transformers' BertModel."""
    profile = _encoder(BERT_BASE)
    classifier = 2 * 768 * 2
    assert forward_flops(profile, 1, 128) - classifier == 22_348_431_360


def test_bert_base_forward_flops_agree_with_the_published_figure():
    """22.5 GFLOP, arXiv 1909.10351 table 1, which counts a little more than matrix products."""
    assert forward_flops(_encoder(BERT_BASE), 1, 128) / 1e9 == pytest.approx(22.5, rel=0.0085)


def test_biases_of_roberta_base_are_bitfits_parameters():
    """102,912 on the model without a classifier, arXiv 2106.10199."""
    sizes = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
    profile = _encoder({**BERT_BASE, **sizes}, "roberta")
    assert trainable_parameters(profile, ("*.bias",)) - 2 == 102_912


def test_trainable_parameters_of_no_pattern_and_of_every_pattern():
    profile = _encoder(BERT_BASE)
    assert trainable_parameters(profile, ()) == 0
    assert trainable_parameters(profile, ("*",)) == parameters(profile)
    assert trainable_parameters(profile, ("*", "*.bias")) == parameters(profile)


def test_an_unmerged_adapter_is_a_product_of_its_own():
    profile = _encoder(BERT_BASE)
    path = "bert.encoder.layer.0.attention.self.query"
    weights = (
        Weight(f"{path}.lora_A.default.weight", (8, 768), "adapter", "matrix", 0),
        Weight(f"{path}.lora_B.default.weight", (768, 8), "adapter", "matrix", 0),
    )
    adapted = replace(profile, adapters=(Adapter("lora", (("rank", 8),), (path,), weights),))
    added = forward_flops(adapted, 4, 16) - forward_flops(profile, 4, 16)
    assert added == 2 * 2 * (4 * 16) * 8 * 768
    names = {w.name for w in adapted.weights()}
    assert f"{path}.base_layer.weight" in names
    assert f"{path}.weight" not in names


def test_an_adapter_in_a_head_that_answers_once_is_counted_once_per_text():
    profile = _encoder(BERT_BASE)
    path = "bert.pooler.dense"
    weight = Weight(f"{path}.lora_A.default.weight", (8, 768), "adapter", "matrix")
    adapted = replace(profile, adapters=(Adapter("lora", (), (path,), (weight,)),))
    assert forward_flops(adapted, 4, 16) - forward_flops(profile, 4, 16) == 2 * 4 * 8 * 768


def test_a_tied_head_is_multiplied_though_it_is_stored_once():
    profile = _decoder(GPT2, "gpt2")
    heads = [op for op in operators(profile, 2, 8) if op.group == "head"]
    assert [(op.weight, op.flops) for op in heads] == [
        ("transformer.wte.weight", 2 * 2 * 8 * 50257 * 768)
    ]


def test_the_head_of_the_last_position_alone_costs_one_position():
    profile = _decoder(GPT2, "gpt2")
    saved = forward_flops(profile, 1, 8) - forward_flops(profile, 1, 8, last_only=True)
    assert saved == 2 * 7 * 50257 * 768


def test_writing_tokens_one_by_one_costs_the_causal_share_of_reading_them():
    """Linear products are equal; attention sums 1 + 2 + ... + s instead of s times s."""
    profile = _decoder(GPT2, "gpt2")
    written = sum(decode_flops(profile, context) for context in range(1, 9))
    read = forward_flops(profile, 1, 8)
    square = sum(op.flops for op in operators(profile, 1, 8) if op.kind.startswith("attention"))
    assert written == read - square + square * 9 // 16


def test_formats_and_sparsity_change_no_flops_and_no_parameters():
    profile = _encoder(BERT_BASE)
    small = replace(
        profile.with_formats({"ffn": Format("int8")}), sparsity=(("ffn", Sparsity(0.5)),)
    )
    assert parameters(small) == parameters(profile)
    assert forward_flops(small, 1, 8) == forward_flops(profile, 1, 8)


def test_an_unknown_family_names_the_known_ones():
    profile = replace(_encoder(BERT_BASE), family="bart")
    with pytest.raises(ModelError, match=r"'bart' is not supported; known: bert, .*xlm-roberta"):
        profile.weights()


_ATTENTION = st.builds(
    lambda groups, share, width: Attention(groups * share, groups, width),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([4, 8]),
)
_LAYER = st.builds(
    Layer,
    st.none() | _ATTENTION,
    st.none()
    | st.builds(FeedForward, st.integers(1, 64), st.just(True), st.none() | st.integers(1, 30)),
)
_PROFILE = st.builds(
    Profile,
    family=st.just("llama"),
    width=st.just(32),
    vocabulary=st.just(43),
    positions=st.just(0),
    token_types=st.just(0),
    layers=st.lists(_LAYER, max_size=3).map(tuple),
    head=st.just(Head("language-modelling", 43, tied=True)),
    formats=st.sampled_from([(), (("ffn", Format("int4", 32)),)]),
    sparsity=st.sampled_from([(), (("attention", Sparsity(0.25)), ("ffn", Sparsity(0.5, 4)))]),
    adapters=st.sampled_from(
        [
            (),
            (
                Adapter(
                    "x", (("rank", 2),), ("a.b",), (Weight("a.c", (2, 3), "adapter", "matrix"),)
                ),
            ),
        ]
    ),
    extra=st.sampled_from([(), (("rope_parameters.factors", (1.0, 2.0)), ("pad_token_id", 0))]),
)


@settings(deadline=None)
@given(_PROFILE)
def test_a_profile_survives_json(profile: Profile):
    again = Profile.from_json(json.loads(json.dumps(profile.to_json())))
    assert again == profile
    assert hash(again) == hash(profile)


@settings(deadline=None)
@given(_PROFILE, st.sampled_from([None, Plan(devices=2)]), st.sampled_from([None, "eager"]))
def test_a_paper_survives_json(profile: Profile, plan: Plan | None, runtime: str | None):
    paper = Paper(profile, Recipe(trainable=("*",), train_items=3), runtime, plan)
    assert not {"given", "learnt", "special"} & paper.to_json().keys()
    for known in (paper, replace(paper, given="ab", learnt=("*.bias",), special=(0, 3))):
        assert Paper.from_json(json.loads(json.dumps(known.to_json()))) == known


@settings(deadline=None)
@given(st.lists(_LAYER, min_size=1, max_size=3).map(tuple))
def test_taking_a_layer_out_never_adds_parameters_or_flops(layers: tuple[Layer, ...]):
    widths = {part.attention.head_width for part in layers if part.attention}
    whole = Profile("llama", 32, 43, 0, 0, layers, Head("classification", 2))
    if len(widths) > 1:
        with pytest.raises(ModelError, match="choose one width"):
            whole.weights()
        return
    fewer = replace(whole, layers=layers[1:])
    assert parameters(fewer) <= parameters(whole)
    assert forward_flops(fewer, 1, 4) <= forward_flops(whole, 1, 4)
