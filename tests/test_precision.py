from __future__ import annotations

import pytest
from paretune.spaces.families import family_of
from paretune.spaces.paper import Paper
from paretune.spaces.precision import OFF, TABLE
from paretune.spaces.profile import GROUPS, Format, Head
from paretune.spaces.runtimes.payload import payload_bytes
from paretune.spaces.steps import Amend, Phase

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
    assert list(TABLE) == ["bf16", "int8", "int4", "int3", "gptq", "hqq"]


@pytest.mark.parametrize("method", list(TABLE))
def test_every_step_only_amends_the_paper(method):
    settings = {name: knob.default for name, knob in knobs(method, CLASSES).items()}
    (step,) = TABLE[method].steps(CLASSES, settings)
    assert isinstance(step, Amend)
    assert step.phase == Phase.PRECISION


@pytest.mark.parametrize("method", list(TABLE))
def test_the_embeddings_follow_the_method_unless_told(method):
    assert declared(method).format_of("embeddings").name == method
    for told in ("fp32", "bf16", "int8", "int4"):
        assert declared(method, embeddings=told).format_of("embeddings").name == told


@pytest.mark.parametrize("method", list(TABLE))
def test_a_classifier_stays_in_fp32_unless_told(method):
    assert declared(method).format_of("head") == Format()
    assert declared(method, head=method).format_of("head").name == method


@pytest.mark.parametrize("method", list(TABLE))
def test_a_language_head_follows_the_method(method):
    assert declared(method, LANGUAGE).format_of("head").name == method


@pytest.mark.parametrize("method", list(TABLE))
def test_a_tied_head_has_no_format_of_its_own(method):
    assert "head" not in knobs(method, TIED)
    assert "head" not in dict(declared(method, TIED).formats)


def test_bf16_declares_everything_but_the_classifier():
    formats = dict(declared("bf16").formats)
    assert {group for group in GROUPS if formats[group].name == "bf16"} == set(GROUPS) - {"head"}


@pytest.mark.parametrize("method", ["int8", "int4"])
def test_norms_are_left_alone_by_whole_numbers(method):
    assert declared(method).format_of("norm") == Format()


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
