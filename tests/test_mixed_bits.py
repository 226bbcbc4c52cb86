"""Formats layer by layer: how many is fixed on paper, which ones by what rounding does."""

from __future__ import annotations

import copy
import itertools
import json
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paretune.errors import DataError, StepFailed
from paretune.spaces.build import build
from paretune.spaces.candidate import Candidate
from paretune.spaces.configuration import Choice, Configuration
from paretune.spaces.families import family_of
from paretune.spaces.names import in_short
from paretune.spaces.paper import Paper
from paretune.spaces.paper_features import FEATURES, paper_features
from paretune.spaces.precision import TABLE, fed, sensitivity
from paretune.spaces.precision.assignment import assigned
from paretune.spaces.precision.mix import LADDER, mix, mixes
from paretune.spaces.precision.sensitivity import sensitivities
from paretune.spaces.profile import BITS, Format, Head, Profile
from paretune.spaces.recipe import Recipe
from paretune.spaces.runtimes import RUNTIMES, open_artifact
from paretune.spaces.runtimes.packing import packed, unpacked
from paretune.spaces.runtimes.payload import parts, payload_bytes, stored_format
from paretune.spaces.runtimes.picked import NOTE, picked
from paretune.spaces.specimen import payload_bytes as bytes_written
from paretune.spaces.steps import Change, Deploy
from paretune.spaces.technique import Targets
from paretune.spaces.testing import MemoryBench, random_items
from safetensors.torch import load_file

ROW = TABLE["mixed_bits"]
HEADS = {
    "bert": Head("classification", 3),
    "gpt2": Head("language-modelling", 43, tied=True),
    "llama": Head("language-modelling", 43),
}
EIGHT, FOUR, THREE = Format("int8"), Format("int4", 32), Format("int3", 32)


def profile(family: str, layers: int = 5) -> Profile:
    sizes: dict[str, Any] = {"vocab_size": 43, "initializer_range": 0.2, "pad_token_id": 0}
    sizes |= {"bos_token_id": 2, "eos_token_id": 3, "max_position_embeddings": 64}
    sizes |= {"hidden_size": 32, "num_hidden_layers": layers, "intermediate_size": 72}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    sizes |= {"n_embd": 32, "n_layer": layers, "n_head": 4, "n_positions": 64}
    return family_of(family).profile(sizes, HEADS[family])


@lru_cache
def candidate(family: str, layers: int = 5) -> Candidate:
    """A tiny model whose later layers weigh less: rounding one is not like rounding another."""
    paper = Paper(profile(family, layers), Recipe(train_items=8, epochs=1))
    module = build(paper.profile, seed=0)
    with torch.no_grad():
        for weight in paper.profile.weights():
            if weight.role == "matrix" and weight.layer is not None:
                module.get_parameter(weight.name).mul_((1.0, 0.3, 1.6, 0.1, 0.6)[weight.layer])
    return Candidate(module, paper)


def told(paper: Paper, **settings: Any) -> dict[str, Any]:
    return {knob.name: knob.default for knob in ROW.hyperparameters(paper)} | settings


def made(given_: Candidate, **settings: Any) -> Candidate:
    for step in ROW.steps(given_.paper, told(given_.paper, **settings)):
        after = step.on_paper(given_.paper)
        if isinstance(step, Change):
            given_ = step.apply(given_, MemoryBench(given_), 0)
        given_ = replace(given_, paper=after)
    return given_


def deploy(given_: Candidate, runtime: str, folder):
    (step,) = RUNTIMES[runtime].steps(given_.paper, {})
    assert isinstance(step, Deploy)
    folder.mkdir()
    step.deploy(given_, folder, MemoryBench(given_))
    return folder


def objections(paper: Paper, **settings: Any) -> list[str]:
    return ROW.objections(paper, told(paper, **settings), Targets())


def names(profile_: Profile) -> dict[str, list[str]]:
    return {group: [form.name for form in forms] for group, forms in profile_.by_layer}


@given(st.integers(1, 80), st.floats(3, 8), st.sampled_from(["near", "far"]))
def test_a_mix_keeps_its_average_and_leaves_no_room_for_another_raise(count, average, reach):
    found = mix(count, average, reach)
    bits = [BITS[name] for name in found]
    assert len(found) == count
    assert bits == sorted(bits, reverse=True)
    assert sum(bits) <= average * count
    raises = {"int3": 1, "int4": 4}
    # near leaves int4 alone where int3 is what could be raised, and far raises int3 first
    lowest = found[-1]
    if lowest in raises:
        assert sum(bits) + raises[lowest] > average * count


def test_near_never_skips_int4_and_far_holds_more_int8():
    for count, average in itertools.product((6, 12, 24), (3.5, 4.5, 5.0, 6.0)):
        near, far = mix(count, average, "near"), mix(count, average, "far")
        assert not {"int8", "int3"} <= set(near)
        assert far.count("int8") >= near.count("int8")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_the_assignment_is_the_best_of_all(count, seed):
    rng = np.random.default_rng(seed)
    dealt = [(EIGHT, FOUR, THREE)[i] for i in sorted(rng.integers(0, 3, count))]
    errors = [{f: float(rng.exponential()) for f in (EIGHT, FOUR, THREE)} for _ in range(count)]

    def total(forms):
        return sum(error[form] for error, form in zip(errors, forms, strict=True))

    found = assigned(errors, dealt)
    assert sorted(found, key=lambda f: f.bits) == sorted(dealt, key=lambda f: f.bits)
    assert total(found) == pytest.approx(min(map(total, itertools.permutations(dealt))))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=8, unique=True), st.integers(0, 99))
def test_a_layer_that_gains_more_from_bits_never_has_fewer(weights, seed):
    rng = np.random.default_rng(seed)
    dealt = [(EIGHT, FOUR, THREE)[i] for i in sorted(rng.integers(0, 3, len(weights)))]
    # what is gained by a step up the ladder grows with the weight, for every step
    errors = [{EIGHT: w * 0.01, FOUR: w * 1.0, THREE: w * 4.6} for w in weights]
    found = assigned(errors, dealt)
    bits = [form.bits for _, form in sorted(zip(weights, found, strict=True), key=lambda p: p[0])]
    assert bits == sorted(bits)


def kl(plain: torch.Tensor, other: torch.Tensor) -> float:
    p, q = (logits.double().log_softmax(-1) for logits in (plain, other))
    return float((p.exp() * (p - q)).sum(-1).mean())


def answers(given_: Candidate, module: torch.nn.Module) -> torch.Tensor:
    """To the items of the bench's calibration split, padding left out."""
    (batch,) = MemoryBench(given_).batches("calibration", batch=16)
    ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
    with torch.no_grad():
        logits: torch.Tensor = module(input_ids=ids, attention_mask=mask).logits
    return logits[mask == 1] if logits.dim() == 3 else logits


@pytest.mark.parametrize("family", list(HEADS))
def test_sensitivity_is_the_divergence_with_one_part_as_it_would_be_stored(family):
    given_ = candidate(family)
    pieces = {("attention", 1): (EIGHT, THREE), ("ffn", 4): (FOUR,)}
    before = {name: value.clone() for name, value in given_.module.named_parameters()}
    found = sensitivities(given_, MemoryBench(given_), pieces)
    assert all(torch.equal(before[n], value) for n, value in given_.module.named_parameters())
    for (group, layer), forms in pieces.items():
        assert set(found[group, layer]) == set(forms)
        for form in forms:
            declared = given_.paper.profile.with_formats({group: form})
            module = copy.deepcopy(given_.module)
            for weight in declared.weights():
                if (weight.group, weight.layer, weight.role) == (group, layer, "matrix"):
                    value = module.get_parameter(weight.name)
                    stored = packed(declared, weight, value.detach())
                    value.data.copy_(unpacked(stored, weight))
            wanted = kl(answers(given_, given_.module), answers(given_, module))
            assert wanted > 0
            assert found[group, layer][form] == pytest.approx(wanted, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("most", "shapes"), [(20, [(2, 8)] * 4), (7, [(1, 8), (1, 5)] * 4)])
def test_a_pass_holds_few_tokens_or_one_text_and_all_say_the_same(monkeypatch, most, shapes):
    given_ = candidate("llama")
    pieces = {("attention", 1): (EIGHT, THREE), ("ffn", 4): (FOUR,)}
    whole = sensitivities(given_, MemoryBench(given_), pieces)
    (texts,) = fed.calibration(MemoryBench(given_), torch.device("cpu"))
    monkeypatch.setattr(fed, "AT_ONCE", most)
    monkeypatch.setattr(sensitivity, "_NUMBERS", 100)  # two tokens of 43 words at a time
    batches = fed.calibration(MemoryBench(given_), torch.device("cpu"))
    assert [tuple(batch["input_ids"].shape) for batch in batches] == shapes
    read = torch.cat([batch["input_ids"][batch["attention_mask"] == 1] for batch in batches])
    assert torch.equal(read, texts["input_ids"][texts["attention_mask"] == 1])
    found = sensitivities(given_, MemoryBench(given_), pieces)
    for piece, forms in whole.items():
        assert found[piece] == pytest.approx(forms, rel=1e-3)


@pytest.mark.parametrize(
    "settings_", [{"average_bits": 6.0}, {"average_bits": 5.0, "reach": "far"}]
)
@pytest.mark.parametrize("family", list(HEADS))
def test_the_layers_are_picked_for_the_least_sum_of_divergences(family, settings_):
    given_ = candidate(family)
    after = made(given_, **settings_)
    on_paper, in_practice = dict(after.paper.profile.by_layer), dict(picked(after).by_layer)
    forms = tuple(dict.fromkeys(on_paper["attention"]))
    pieces = {(group, i): forms for group in ("attention", "ffn") for i in range(5)}
    errors = sensitivities(given_, MemoryBench(given_), pieces)
    for group in ("attention", "ffn"):
        sums = {
            dealt: sum(errors[group, i][form] for i, form in enumerate(dealt))
            for dealt in set(itertools.permutations(on_paper[group]))
        }
        assert len(sums) > 1
        assert sums[in_practice[group]] == pytest.approx(min(sums.values()))
    assert in_practice != on_paper  # the layers that need bits are not the first ones here


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
@pytest.mark.parametrize("family", list(HEADS))
def test_bytes_are_the_papers_and_each_layer_is_stored_as_picked(family, runtime, tmp_path):
    after = made(candidate(family), average_bits=6.0)
    folder = deploy(after, runtime, tmp_path / runtime)
    runner = open_artifact(folder)
    assert bytes_written(runner.files()) == RUNTIMES[runtime].payload_bytes(after.paper.profile)
    runner.close()
    assert payload_bytes(picked(after)) == payload_bytes(after.paper.profile)
    if runtime == "eager":
        stored = set(load_file(folder / "model.safetensors"))
    else:
        stored = {tensor.name for tensor in onnx.load(folder / "model.onnx").graph.initializer}
    found = picked(after)
    for weight in found.weights():
        if weight.role == "matrix" and weight.layer is not None:
            form = dict(found.by_layer)[weight.group][weight.layer]
            assert f"{weight.name}:{form.name}" in stored


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
@pytest.mark.parametrize("family", list(HEADS))
def test_eager_answers_as_a_module_of_the_stored_weights_does(family, rounding, tmp_path):
    # fp32 activations: the stored weights go into a plain module
    after = made(candidate(family), average_bits=6.0, rounding=rounding)
    tensors = load_file(deploy(after, "eager", tmp_path / "a") / "model.safetensors")
    found, module = picked(after), copy.deepcopy(after.module)
    for weight in found.weights():
        kept = {
            part.name: tensors[
                weight.name if part.name == "plain" else f"{weight.name}:{part.name}"
            ]
            for part in parts(found, weight)
        }
        module.get_parameter(weight.name).data.copy_(unpacked(kept, weight))
    runner = open_artifact(tmp_path / "a")
    items = random_items(found, 4, 8, seed=7)
    ids, mask = torch.from_numpy(items.input_ids), torch.from_numpy(items.attention_mask)
    with torch.no_grad():
        wanted = module(input_ids=ids, attention_mask=mask).logits.numpy()
    answered = runner.logits(items)
    runner.close()
    real = items.attention_mask == 1 if wanted.ndim == 3 else slice(None)
    # activations are rounded to 8 bits on top, and int4 matrices a second time
    assert np.abs(answered - wanted)[real].max() < 0.1 * np.abs(wanted[real]).max()


def test_gptq_rounds_each_layer_to_its_own_format():
    after = made(candidate("bert"), average_bits=6.0, rounding="gptq")
    found = picked(after)
    for weight in found.weights():
        if weight.role == "matrix" and weight.layer is not None:
            zeros = after.grids[f"{weight.name}:zero"]
            groups = 1 if stored_format(found, weight).name == "int8" else 1 + weight.shape[1] // 33
            assert zeros.shape[1] == groups


def test_more_bits_where_answers_need_them_beat_most_other_ways_of_the_same_bytes():
    given_ = candidate("bert")
    after = made(given_, average_bits=6.0)
    plain = answers(given_, given_.module)

    def loses(by_layer) -> float:
        declared = after.paper.profile.with_layers(by_layer)
        module = copy.deepcopy(given_.module)
        for weight in declared.weights():
            if weight.role == "matrix" and weight.layer is not None:
                value = module.get_parameter(weight.name)
                value.data.copy_(unpacked(packed(declared, weight, value.detach()), weight))
        return kl(plain, answers(given_, module))

    forms = dict(after.paper.profile.by_layer)
    ways = [set(itertools.permutations(forms[group])) for group in ("attention", "ffn")]
    others = [loses({"attention": a, "ffn": f}) for a, f in itertools.product(*ways)]
    own = loses(dict(picked(after).by_layer))
    # additive only in the first order, so that a few may be a little better
    assert sum(other < own for other in others) <= 0.05 * len(others)
    assert own < 0.5 * float(np.median(others))


def test_layers_of_different_sizes_are_never_exchanged():
    given_ = candidate("bert")
    layers = given_.paper.profile.layers
    narrow = replace(layers[0], feed_forward=replace(layers[0].feed_forward, width=32))
    uneven = replace(given_.paper.profile, layers=(narrow, *layers[1:4], narrow))
    after = replace(
        given_, module=build(uneven, seed=0), paper=replace(given_.paper, profile=uneven)
    )
    after = made(after, average_bits=6.0)
    dealt = mixes(uneven, 6.0, "near")
    assert dealt["ffn", (0, 4)] == ("int8", "int4")
    assert dealt["ffn", (1, 2, 3)] == ("int8", "int4", "int4")
    found = names(picked(after))["ffn"]
    assert sorted(found[i] for i in (0, 4)) == ["int4", "int8"]
    assert sorted(found[i] for i in (1, 2, 3)) == ["int4", "int4", "int8"]
    assert payload_bytes(picked(after)) == payload_bytes(after.paper.profile)


def test_a_layer_without_a_part_is_passed_over():
    given_ = candidate("bert")
    layers = given_.paper.profile.layers
    cut = replace(given_.paper.profile, layers=(replace(layers[0], attention=None), *layers[1:]))
    after = replace(given_, module=build(cut, seed=0), paper=replace(given_.paper, profile=cut))
    after = made(after, average_bits=6.0)
    assert sum(name == "int8" for name in names(picked(after))["attention"][1:]) == 2
    assert payload_bytes(picked(after)) == payload_bytes(after.paper.profile)


def test_the_averages_on_offer_all_mean_something_else():
    paper = candidate("bert").paper
    knob = next(k for k in ROW.hyperparameters(paper) if k.name == "average_bits")
    seen = [tuple(tuple(mixes(paper.profile, v, r).values()) for r in ("near", "far"))
            for v in knob.values]  # fmt: skip
    assert len(set(seen)) == len(knob.values) > 4
    assert not objections(paper)


@pytest.mark.parametrize("layers", [1, 2, 3, 12])
def test_the_default_is_legal_wherever_there_is_something_to_choose(layers):
    found = objections(Paper(profile("bert", layers)))
    assert bool(found) == (layers == 1)


def test_what_leaves_nothing_to_choose_is_refused_with_what_it_comes_to():
    (said,) = objections(Paper(profile("bert", 1)))
    assert "it comes to int4; choose another average_bits" in said
    (said,) = objections(candidate("bert").paper, average_bits=4.0)
    assert "average_bits 4 with reach near" in said
    bare = replace(profile("bert"), layers=())
    assert "no layer at all" in objections(Paper(bare))[0]


def test_far_that_comes_to_near_is_refused():
    paper = candidate("bert").paper
    assert objections(paper, average_bits=3.5, reach="far") == [
        "reach far comes to what near is at average_bits 3.5; choose near"
    ]
    assert not objections(paper, average_bits=6.0, reach="far")


def test_a_runtime_without_int3_refuses_the_mixes_that_hold_it():
    given_ = candidate("bert").paper
    paper = made(candidate("bert"), average_bits=3.5).paper
    (said,) = RUNTIMES["onnxruntime"].objections(paper, {}, Targets())
    assert said.startswith("onnxruntime cannot hold attention, ffn in int3; it holds")
    assert "choose reach near with average_bits above 4" in said
    four = made(candidate("bert"), average_bits=6.0).paper
    assert not RUNTIMES["onnxruntime"].objections(four, {}, Targets())
    for name in ("int8", "int4"):
        found = RUNTIMES["compiled"].objections(four, {}, Targets())
        (said,) = [line for line in found if f"in {name};" in line]
        assert "compiled cannot hold" in said
        assert "choose a precision of one of these formats" in said
    assert given_.profile.by_layer == ()


def test_no_calibration_items_and_answers_that_are_not_finite_are_errors():
    class Empty(MemoryBench):
        def batches(self, split, **_):
            return iter(())

    given_ = candidate("bert")
    pieces = {("ffn", 0): (FOUR,)}
    with pytest.raises(DataError, match="calibration split is empty; choose a precision"):
        sensitivities(given_, Empty(given_), pieces)
    broken = replace(given_, module=copy.deepcopy(given_.module))
    broken.module.get_parameter("classifier.weight").data.fill_(float("nan"))
    with pytest.raises(StepFailed, match="ffn of layer 0 in int4 some answers are not finite"):
        sensitivities(broken, MemoryBench(broken), pieces)


def test_layers_formats_survive_json_and_a_group_declared_anew_forgets_them():
    declared = made(candidate("bert"), average_bits=6.0).paper.profile
    assert Profile.from_json(json.loads(json.dumps(declared.to_json()))) == declared
    assert declared.format_of("ffn", 4).name == "int4"
    assert declared.format_of("ffn").name == "int8"
    assert {form.name for group, form in declared.declared() if group == "ffn"} == {"int8", "int4"}
    again = declared.with_formats({"ffn": THREE})
    assert "ffn" not in dict(again.by_layer)
    assert again.format_of("ffn", 0) == THREE
    assert "attention" in dict(again.by_layer)


def test_a_candidate_without_a_pick_is_stored_as_its_paper_says():
    given_ = candidate("bert")
    assert picked(given_) is given_.paper.profile
    assert NOTE not in (given_.notes or {})


def test_features_see_the_mean_of_the_bits():
    paper = made(candidate("bert"), average_bits=6.0).paper
    features = dict(zip(FEATURES, paper_features(Configuration(), paper), strict=True))
    assert features["bits_ffn"] == pytest.approx(np.log2((2 * 8 + 3 * 4) / 5))


def test_it_is_called_by_its_average():
    told_ = {"average_bits": 5.5, "embeddings": "int8"}
    assert (
        in_short(Configuration.of(precision=Choice.of("mixed_bits", **told_))) == "mixed bits 5.5"
    )


def test_every_bit_setting_has_another_key_and_the_ladder_goes_down():
    assert [BITS[name] for name in LADDER] == [8, 4, 3]
    paper = candidate("bert").paper
    steps = {
        json.dumps(dict(ROW.steps(paper, told(paper, **one))[0].settings), sort_keys=True)
        for one in ({}, {"average_bits": 6.0}, {"reach": "far"}, {"group_size": 64})
    }
    assert len(steps) == 4
