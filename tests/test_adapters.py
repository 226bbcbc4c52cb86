"""LoRA's relatives and bottlenecks: what they add, that they start as nothing, and how they end."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from paretune.evaluators.compute.backward import training_step_flops
from paretune.spaces.build import build
from paretune.spaces.candidate import Candidate
from paretune.spaces.finetuning import TABLE
from paretune.spaces.finetuning.adapters import ThroughPeft
from paretune.spaces.finetuning.lokr import divisors
from paretune.spaces.finetuning.vera import projections
from paretune.spaces.paper import Paper
from paretune.spaces.profile import GROUPS, Format, Profile, forward_flops, parameters
from paretune.spaces.runtimes import RUNTIMES, open_artifact
from paretune.spaces.steps import Phase
from paretune.spaces.technique import Targets
from paretune.spaces.testing import MemoryBench, random_items
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))

from finetuning_cases import (
    DECODERS,
    FAMILIES,
    answers,
    defaults,
    done,
    given,
    objections,
    on_paper,
    shapes,
    steps,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")

SMALL = {
    "rslora": {"rank": 4},
    "dora": {"rank": 4},
    "vera": {"rank": 16},
    "loha": {"rank": 4},
    "lokr": {"rank": 2},
    "oft": {"block": 8},
    "bottleneck": {"reduction": 4},
}
MERGED = [method for method in SMALL if method != "bottleneck"]
READS_WEIGHTS = {"dora", "loha", "lokr"}
CASES = [
    (method, family)
    for method in SMALL
    for family in FAMILIES
    if not (family == "gpt2" and method in {"loha", "lokr", "oft"})
]
HEADS = {"bert": "classification", "gpt2": "language-modelling", "llama": "language-modelling"}


def everywhere(method: str) -> dict[str, str]:
    """The settings with which a method adapts as much as it can."""
    return {"places": "houlsby"} if method == "bottleneck" else {"targets": "all-linear"}


@lru_cache
def kept(folder: Path, method: str, kind: str = "classification") -> Candidate:
    """A tiny model with an adapter whose values are drawn, so that it answers otherwise."""
    start = given(folder, kind)
    made = steps(TABLE[method], start.paper, **SMALL[method], **everywhere(method))
    (attached,) = done(start, made[:1])
    generator = torch.Generator().manual_seed(0)
    for weight in attached.paper.profile.weights():
        if weight.group == "adapter":
            value = attached.module.get_parameter(weight.name)
            value.data.add_(torch.empty_like(value).normal_(0, 0.05, generator=generator))
    return attached


@pytest.mark.parametrize(("method", "family"), CASES)
def test_an_adapter_starts_as_nothing_and_merges_into_what_it_became(tiny_models, method, family):
    start = given(tiny_models[family])
    todo = steps(TABLE[method], start.paper, **SMALL[method], **everywhere(method))
    attached, _, trained, *rest = done(start, todo)
    assert shapes(attached.module) == on_paper(attached.paper.profile)
    assert torch.equal(answers(attached), answers(start))
    assert not torch.equal(answers(trained), answers(start))
    assert bool(rest) is (method in MERGED)
    for merged in rest:
        assert torch.allclose(answers(trained), answers(merged), atol=1e-5)
        assert merged.paper.profile == start.paper.profile
        assert shapes(merged.module) == on_paper(start.paper.profile)
        assert merged.train_state is None
        assert vars(merged.module).keys() == vars(start.module).keys()


@pytest.mark.parametrize(("method", "family"), [case for case in CASES if case[1] in DECODERS])
def test_a_language_models_adapter_merges_into_what_it_became(tiny_models, method, family):
    start = given(tiny_models[family], "language-modelling")
    attached, _, trained, *rest = done(start, steps(TABLE[method], start.paper, **SMALL[method]))
    assert torch.equal(answers(attached), answers(start))
    for merged in rest:
        assert torch.allclose(answers(trained), answers(merged), atol=1e-5)


@pytest.mark.parametrize(("method", "family"), [c for c in CASES if c[1] in HEADS])
def test_training_an_adapter_costs_what_torch_counts(tiny_models, method, family):
    plain = given(tiny_models[family], HEADS[family]).paper
    paper = plain
    for step in steps(TABLE[method], plain, **SMALL[method], **everywhere(method)):
        if step.phase < Phase.TRAIN:
            paper = step.on_paper(paper)
    module = build(paper.profile, attention="eager").train()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(paper.recipe.trains(name))
    ids = torch.from_numpy(random_items(paper.profile, 3, 10, seed=0).input_ids)
    with FlopCounterMode(display=False) as counter:
        logits = module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        forward = counter.get_total_flops()
        logits.sum().backward()
    assert forward == forward_flops(paper.profile, 3, 10)
    assert forward > forward_flops(plain.profile, 3, 10)
    told = training_step_flops(paper.profile, paper.recipe.trainable, 3, 10)
    assert (forward, counter.get_total_flops() - forward) == told


def added(profile: Profile, method: str, **settings: object) -> int:
    technique = TABLE[method]
    told = defaults(technique, Paper(profile), **settings)
    return sum(weight.count for weight in technique.adapter(profile, told).weights)


def test_parameters_follow_the_closed_forms(tiny_models):
    # Three layers of width 32: queries are 32 x 32, values 16 x 32.
    profile = given(tiny_models["llama"]).paper.profile
    sides = [(32, 32), (32, 16)]
    lora = 3 * sum(4 * (i + o) for i, o in sides)
    assert added(profile, "rslora", rank=4) == lora
    assert added(profile, "dora", rank=4) == lora + 3 * sum(o for _, o in sides)
    assert added(profile, "loha", rank=4) == 2 * lora
    assert added(profile, "vera", rank=64) == 3 * sum(64 + o for _, o in sides)
    assert added(profile, "oft", block=8) == 3 * 2 * (32 // 8) * 8 * 7 // 2
    # 32 = 4 x 8 and 16 = 4 x 4: C is 4 x 4, the second factor (8 or 4) x 8 of rank 2.
    assert added(profile, "lokr", rank=2) == 3 * ((16 + 2 * (8 + 8)) + (16 + 2 * (4 + 8)))
    assert added(profile, "lokr", rank=4) == 3 * ((16 + 8 * 8) + (16 + 4 * 8))
    bottleneck = 2 * 32 * 8 + 32 + 8
    assert added(profile, "bottleneck", reduction=4, places="pfeiffer") == 3 * bottleneck
    assert added(profile, "bottleneck", reduction=4, places="houlsby") == 6 * bottleneck


def test_divisors_are_those_that_peft_takes():
    from peft.tuners.lokr.layer import factorization

    for size in [*range(1, 200), 768, 3072, 4096, 11008]:
        assert divisors(size) == factorization(size), size


def test_rslora_is_scaled_by_the_root_of_its_rank(tiny_models):
    start = given(tiny_models["bert"])
    (attached,) = done(start, steps(TABLE["rslora"], start.paper, rank=16, alpha=8.0)[:1])
    layer = attached.module.get_submodule("bert.encoder.layer.0.attention.self.query")
    assert layer.scaling["default"] == 8.0 / 16**0.5


def test_doras_lengths_are_those_of_the_merged_rows(tiny_models):
    start = given(tiny_models["gpt2"])
    *_, trained, merged = done(start, steps(TABLE["dora"], start.paper, rank=4))
    path = "transformer.h.1.attn.c_attn"
    lengths = trained.module.get_parameter(f"{path}.lora_magnitude_vector.default.weight")
    rows = merged.module.get_parameter(f"{path}.weight").norm(dim=0)  # stored (inputs, outputs)
    assert torch.allclose(lengths, rows, rtol=1e-5)


def test_veras_projections_are_shared_the_same_for_every_seed_and_never_stored(tiny_models):
    start = given(tiny_models["bert"])
    todo = steps(TABLE["vera"], start.paper, rank=16, targets="all-linear")[:1]
    one, other = done(start, todo, seed=0)[0], done(start, todo, seed=1)[0]
    path = "bert.encoder.layer.{}.output.dense"
    layers = [one.module.get_submodule(path.format(i)) for i in range(2)]
    layers.append(other.module.get_submodule(path.format(0)))
    expected = projections(one.paper.profile.adapters[0])
    assert tuple(map(tuple, (m.shape for m in expected))) == ((16, 64), (64, 16))
    for layer in layers:
        assert torch.equal(layer.vera_A["default"], expected[0])
        assert torch.equal(layer.vera_B["default"], expected[1])
    assert layers[0].vera_A is layers[1].vera_A
    assert not any("vera_A" in name for name in shapes(one.module))


def test_ofts_turns_keep_the_angles_between_rows(tiny_models):
    start = given(tiny_models["bert"])
    *_, merged = done(start, steps(TABLE["oft"], start.paper, block=8))
    name = "bert.encoder.layer.0.attention.self.query.weight"
    before, after = (c.module.get_parameter(name).detach() for c in (start, merged))
    assert not torch.allclose(before, after, atol=1e-4)
    assert torch.allclose(before @ before.T, after @ after.T, atol=1e-4)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_a_bottleneck_is_what_its_formula_says(tiny_models, activation):
    start = given(tiny_models["bert"])
    attach = steps(TABLE["bottleneck"], start.paper, reduction=4, activation=activation)[:1]
    layer = done(start, attach)[0].module.get_submodule("bert.encoder.layer.0.output.dense")
    torch.nn.init.normal_(layer.adapter_up.weight, generator=torch.Generator().manual_seed(0))
    inputs = torch.linspace(-1, 1, 64).repeat(2, 1)
    hidden = layer.base_layer(inputs)
    narrow = getattr(torch.nn.functional, activation)(layer.adapter_down(hidden))
    assert torch.equal(layer(inputs), hidden + layer.adapter_up(narrow))


@pytest.mark.parametrize("method", ["loha", "lokr", "oft"])
def test_transposed_matrices_are_refused_where_peft_does_not_read_them(tiny_models, method):
    (reason,) = objections(TABLE[method], given(tiny_models["gpt2"]).paper, **SMALL[method])
    assert "do not read gpt2's transposed matrices (Conv1D); choose lora" in reason


@pytest.mark.parametrize("method", sorted(SMALL))
def test_layers_without_such_parts_are_refused(tiny_models, method):
    profile = given(tiny_models["bert"]).paper.profile
    bare = tuple(replace(layer, attention=None, feed_forward=None) for layer in profile.layers)
    paper = Paper(replace(profile, layers=bare))
    (reason,) = objections(TABLE[method], paper, **SMALL[method])
    assert "choose other" in reason


def test_sizes_that_do_not_fit_are_refused(tiny_models):
    paper = given(tiny_models["llama"]).paper
    for method in ("rslora", "dora", "loha"):
        assert not objections(TABLE[method], paper, rank=16)
        (reason,) = objections(TABLE[method], paper, rank=17)
        assert "choose rank <= 16" in reason
    (reason,) = objections(TABLE["oft"], paper, block=64)
    assert "blocks of 64 do not divide the 32 inputs of" in reason
    (reason,) = objections(TABLE["bottleneck"], paper, reduction=64)
    assert "choose reduction <= 32" in reason


def deployed(candidate: Candidate, runtime: str, folder: Path) -> np.ndarray:
    folder.mkdir(parents=True)
    (step,) = RUNTIMES[runtime].steps(candidate.paper, {})
    step.deploy(candidate, folder, MemoryBench(candidate))
    runner = open_artifact(folder)
    found = runner.logits(random_items(candidate.paper.profile, 4, 8, seed=3))
    runner.close()
    return found


def declared(candidate: Candidate, forms: dict[str, str]) -> Candidate:
    profile = candidate.paper.profile.with_formats({g: Format(f) for g, f in forms.items()})
    return replace(candidate, paper=replace(candidate.paper, profile=profile))


MIXES = {
    "int8": {"attention": "int8", "ffn": "int8", "embeddings": "int8"},
    "int4": {"attention": "int4", "ffn": "int4"},
    "bf16": dict.fromkeys(GROUPS, "bf16"),
    "bf16 inside": {"attention": "bf16"},
}


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("method", sorted(SMALL))
def test_a_kept_adapter_beside_packed_weights_is_held_or_refused(
    tiny_models, tmp_path, method, mix
):
    candidate = kept(tiny_models["bert"], method)
    packed = declared(candidate, MIXES[mix])
    reasons = RUNTIMES["eager"].objections(packed.paper, {}, Targets())
    if method in READS_WEIGHTS and mix != "bf16":
        (reason,) = reasons
        assert f"{method} adapters read the weights beside which they stand" in reason
        assert "merge the adapters" in reason
        return
    assert not reasons
    found, expected = deployed(packed, "eager", tmp_path / "x"), answers(candidate).numpy()
    assert np.abs(found - expected).max() < 0.3 * np.abs(expected).max()
    assert not np.array_equal(found, expected)


@pytest.mark.parametrize(("method", "family"), [c for c in CASES if c[1] in HEADS])
def test_a_kept_adapter_answers_in_the_eager_runtime_to_the_bit(
    tiny_models, tmp_path, method, family
):
    candidate = kept(tiny_models[family], method, HEADS[family])
    expected = answers(candidate).numpy()
    assert np.array_equal(deployed(candidate, "eager", tmp_path / "x"), expected)
    plain = given(tiny_models[family], HEADS[family])
    assert not np.allclose(expected, answers(plain).numpy(), atol=1e-6)


@pytest.mark.parametrize("method", MERGED)
def test_what_can_be_merged_is_refused_by_onnxruntime_while_it_is_not(tiny_models, method):
    candidate = kept(tiny_models["bert"], method)
    (reason,) = RUNTIMES["onnxruntime"].objections(candidate.paper, {}, Targets())
    assert f"no {method} adapter beside the weights; merge it" in reason


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bottleneck_is_written_into_the_onnx_graph(tiny_models, tmp_path, family):
    candidate = kept(tiny_models[family], "bottleneck")
    expected = answers(candidate).numpy()
    assert not RUNTIMES["onnxruntime"].objections(candidate.paper, {}, Targets(("onnx",)))
    found = deployed(candidate, "onnxruntime", tmp_path / "fp32")
    assert np.allclose(found, expected, atol=1e-4)
    packed = declared(candidate, MIXES["int8"])
    assert not RUNTIMES["onnxruntime"].objections(packed.paper, {}, Targets())
    rounded = deployed(packed, "onnxruntime", tmp_path / "int8")
    assert np.abs(rounded - expected).max() < 0.5 * np.abs(expected).max()


def test_merged_weights_are_requantised_and_nothing_stays_beside_them(tiny_models, tmp_path):
    start = given(tiny_models["bert"])
    merged = done(start, steps(TABLE["dora"], start.paper, **SMALL["dora"]))[-1]
    packed, plain = (declared(c, MIXES["int8"]) for c in (merged, start))
    size = RUNTIMES["eager"].payload_bytes
    assert size(packed.paper.profile) == size(plain.paper.profile)
    found = deployed(packed, "eager", tmp_path / "x")
    assert np.abs(found - answers(merged).numpy()).max() < 0.3 * np.abs(found).max()


def test_a_plain_folder_is_refused_before_a_bottleneck_is_trained(tiny_models):
    candidate = kept(tiny_models["bert"], "bottleneck")
    (reason,) = RUNTIMES["eager"].objections(candidate.paper, {}, Targets(("hf",)))
    assert (
        "peft has no file for bottleneck adapters; choose another fine-tuning, or leave hf out"
        in reason
    )
    for method in MERGED:
        assert isinstance(TABLE[method], ThroughPeft)
        paper = kept(tiny_models["bert"], method).paper
        assert not RUNTIMES["eager"].objections(paper, {}, Targets(("hf",)))


def test_trainings_that_differ_in_their_rate_alone_share_an_adapter_on_paper(tiny_models):
    paper = given(tiny_models["bert"]).paper
    made = [
        steps(TABLE["lora"], paper, **told)[0].on_paper(paper).profile.adapters[-1]
        for told in ({"learning_rate": 1e-3}, {"learning_rate": 1e-4, "merge": "keep"}, {"rank": 4})
    ]
    assert made[0] is made[1]
    assert made[0] != made[2]


def test_an_adapter_survives_json(tiny_models):
    for method in SMALL:
        profile = kept(tiny_models["bert"], method).paper.profile
        assert Profile.from_json(profile.to_json()) == profile
        assert parameters(profile) > parameters(replace(profile, adapters=()))
