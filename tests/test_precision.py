from __future__ import annotations

import pytest
from paretune.spaces.configuration import Choice, Configuration
from paretune.spaces.families import family_of
from paretune.spaces.names import in_short
from paretune.spaces.paper import Paper
from paretune.spaces.precision import OFF, TABLE
from paretune.spaces.profile import GROUPS, Format, Head
from paretune.spaces.runtimes.payload import payload_bytes
from paretune.spaces.steps import Amend, Change, Phase

SIZES = {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "vocab_size": 43,
    "n_positions": 64,
    "pad_token_id": 0,
}


def paper(head: Head) -> Paper:
    return Paper(family_of("gpt2").profile(SIZES, head))


FORMATS = {name: name for name in ("bf16", "fp16", "int8", "int4", "int3")}
"""Methods that are named after what they declare."""

STORED = {
    **FORMATS,
    "int8_static": "int8",
    "smoothquant": "int8",
    "gptq": "int4",
    "awq": "int4",
    "hqq": "int4",
    "mixed_bits": "int8",
}
"""What each method stores unless told."""

HEADS = {**STORED, "int8_static": "int8_static"}
"""What it makes of a head."""

CLASSES = paper(Head("classification", 3))
LANGUAGE = paper(Head("language-modelling", 43))
TIED = paper(Head("language-modelling", 43, tied=True))


def knobs(method, on):
    return {knob.name: knob for knob in TABLE[method].hyperparameters(on)}


def declared(method, on=CLASSES, **told):
    settings = {name: knob.default for name, knob in knobs(method, on).items()} | told
    after = on
    for step in TABLE[method].steps(on, settings):
        after = step.on_paper(after)
    return after.profile


def test_off_is_fp32_and_no_row():
    assert OFF == "fp32"
    assert list(TABLE) == [
        "bf16",
        "fp16",
        "int8",
        "int8_static",
        "smoothquant",
        "int4",
        "int3",
        "gptq",
        "awq",
        "hqq",
        "mixed_bits",
    ]


@pytest.mark.parametrize("method", list(TABLE))
def test_formats_are_declared_first(method):
    settings = {name: knob.default for name, knob in knobs(method, CLASSES).items()}
    declare, *rest = TABLE[method].steps(CLASSES, settings)
    assert isinstance(declare, Amend)
    assert [isinstance(step, Change) for step in rest] == [True] * (method not in FORMATS)
    assert {step.phase for step in (declare, *rest)} == {Phase.PRECISION}


@pytest.mark.parametrize("method", list(TABLE))
def test_the_embeddings_follow_the_method_unless_told(method):
    assert declared(method).format_of("embeddings").name == STORED[method]
    for told in ("fp32", "bf16", "int8", "int4"):
        assert declared(method, embeddings=told).format_of("embeddings").name == told


@pytest.mark.parametrize("method", list(TABLE))
def test_a_classifier_stays_in_fp32_unless_told(method):
    assert declared(method).format_of("head") == Format()
    assert declared(method, head=HEADS[method]).format_of("head").name == HEADS[method]


@pytest.mark.parametrize("method", list(TABLE))
def test_a_language_head_follows_the_method(method):
    assert declared(method, LANGUAGE).format_of("head").name == HEADS[method]


@pytest.mark.parametrize("method", list(TABLE))
def test_a_tied_head_has_no_format_of_its_own(method):
    assert "head" not in knobs(method, TIED)
    assert "head" not in dict(declared(method, TIED).formats)


def test_a_method_is_called_by_its_name_and_what_it_stores():
    def called(method, **settings):
        return in_short(Configuration.of(precision=Choice.of(method, **settings)))

    assert called("gptq", bits=3, embeddings="int4") == "GPTQ int3 (embeddings int4)"
    assert called("awq", bits=4, embeddings="int4") == "AWQ int4"
    assert called("smoothquant", embeddings="int8") == "SmoothQuant"
    assert called("int8", embeddings="int4") == "int8 (embeddings int4)"


def test_bf16_declares_everything_but_the_classifier():
    formats = dict(declared("bf16").formats)
    assert {group for group in GROUPS if formats[group].name == "bf16"} == set(GROUPS) - {"head"}


@pytest.mark.parametrize("method", ["int8", "int4"])
def test_norms_are_left_alone_by_whole_numbers(method):
    assert declared(method).format_of("norm") == Format()


@pytest.mark.parametrize("method", ["gptq", "awq", "hqq"])
@pytest.mark.parametrize("bits", [3, 4])
def test_bits_are_those_of_attention_and_feed_forward(method, bits):
    found = declared(method, bits=bits, group_size=64, head="int4")
    assert found.format_of("attention") == found.format_of("ffn") == Format(f"int{bits}", 64)
    assert found.format_of("embeddings") == found.format_of("head") == Format("int4", 64)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_the_group_size_reaches_every_int4_group(size):
    formats = dict(declared("int4", group_size=size, head="int4").formats)
    assert set(formats.values()) == {Format("int4", size)}


def test_larger_groups_and_smaller_formats_take_fewer_bytes():
    wide = Paper(family_of("gpt2").profile({**SIZES, "n_embd": 128}, Head("classification", 3)))
    tried = [declared("bf16", wide), declared("int8", wide)]
    tried += [declared("int4", wide, group_size=size) for size in (32, 64, 128)]
    sizes = [payload_bytes(found) for found in (wide.profile, *tried)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


def test_the_step_tells_every_format():
    settings = {"embeddings": "int8", "head": "fp32", "group_size": 64}
    (step,) = TABLE["int4"].steps(CLASSES, settings)
    assert step.settings == {
        "attention": "int4",
        "attention.group_size": 64,
        "ffn": "int4",
        "ffn.group_size": 64,
        "embeddings": "int8",
        "head": "fp32",
    }
