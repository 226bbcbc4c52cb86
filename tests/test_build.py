from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from paretune.errors import ModelError
from paretune.spaces import finetuning
from paretune.spaces.build import build, fill
from paretune.spaces.families import FAMILIES, plain_config, plain_objection
from paretune.spaces.profile import (
    Adapter,
    Attention,
    FeedForward,
    Head,
    Layer,
    Profile,
    Weight,
    decode_flops,
    forward_flops,
)
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

CASES = [(name, kind) for name, family in FAMILIES.items() for kind in family.classes]
DECODERS = [name for name, family in FAMILIES.items() if family.kind == "decoder"]
SHAPES = ["even", "uneven", "lacking", "shallow"]


def _profile(name: str, kind: str = "classification", shape: str = "even") -> Profile:
    family = FAMILIES[name]
    keys, grouped = family.sizes, family.sizes.kv_heads is not None
    sizes = {
        keys.width: 32,
        keys.layers: 3,
        keys.heads: 4,
        keys.feed_forward: 64,
        keys.positions: 64,
        keys.vocabulary: 43,
        keys.kv_heads: 2,
        keys.head_width: 8,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    config = {key: size for key, size in sizes.items() if key is not None}
    head = (
        Head("classification", 3)
        if kind == "classification"
        else Head("language-modelling", 43, family.tied)
    )
    profile = family.profile(config, head)

    def layer(heads: int | None, width: int | None) -> Layer:
        return Layer(
            heads and Attention(heads, heads // 2 if grouped else heads, 8),
            width and FeedForward(width, family.gated),
        )

    layers = {
        "even": profile.layers,
        "uneven": (layer(2, 40), layer(4, 7), layer(6, 64)),
        "lacking": (layer(None, 24), layer(2, None), layer(None, None)),
        "shallow": (layer(2, 40),),
    }
    return replace(profile, layers=layers[shape])


def _batch() -> dict[str, Tensor]:
    ids = torch.arange(20).reshape(2, 10) % 39 + 4
    mask = torch.ones_like(ids)
    ids[1, 6:], mask[1, 6:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def _logits(module: nn.Module, batch: dict[str, Tensor] | None = None) -> Tensor:
    with torch.no_grad():
        return module(**(batch or _batch())).logits


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_built_model_has_exactly_the_weights_of_its_profile(name, kind, shape):
    profile = _profile(name, kind, shape)
    module = build(profile)
    built = {n: tuple(p.shape) for n, p in module.named_parameters()}
    assert built == {weight.name: weight.shape for weight in profile.weights()}
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert not module.training


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_flops_equal_those_that_torch_counts(name, kind, shape):
    profile = _profile(name, kind, shape)
    module = build(profile, attention="eager", seed=0)
    with FlopCounterMode(display=False) as counter:
        _logits(module)
    assert counter.get_total_flops() == forward_flops(profile, 2, 10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", DECODERS)
def test_flops_of_one_written_token_equal_those_that_torch_counts(name, shape):
    profile = _profile(name, "language-modelling", shape)
    module = build(profile, attention="eager", seed=0)
    ids = _batch()["input_ids"][:1]
    with torch.no_grad():
        past = module(input_ids=ids, use_cache=True).past_key_values
        with FlopCounterMode(display=False) as counter:
            module(input_ids=ids[:, :1], past_key_values=past, use_cache=True)
    assert counter.get_total_flops() == decode_flops(profile, 11)


@pytest.mark.parametrize("name", DECODERS)
def test_flops_of_the_last_position_alone_equal_those_that_torch_counts(name):
    profile = _profile(name, "language-modelling", "uneven")
    module = build(profile, attention="eager", seed=0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(**_batch(), logits_to_keep=1)
    assert counter.get_total_flops() == forward_flops(profile, 2, 10, last_only=True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", DECODERS)
def test_writing_with_a_cache_gives_the_tokens_of_writing_without(name, shape):
    module = build(_profile(name, "language-modelling", shape), seed=0)
    ids = _batch()["input_ids"][:1]
    told = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    mask = torch.ones_like(ids)
    cached = module.generate(ids, attention_mask=mask, use_cache=True, **told)
    assert (
        cached.tolist()
        == module.generate(ids, attention_mask=mask, use_cache=False, **told).tolist()
    )


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_both_ways_of_attention_give_the_same_answers(name, kind):
    profile = _profile(name, kind, "uneven")
    fast, plain = build(profile, seed=0), build(profile, attention="eager", seed=0)
    mask = _batch()["attention_mask"].bool()
    difference = (_logits(fast) - _logits(plain)).abs()
    if kind == "language-modelling":
        difference = difference[mask]
    assert difference.max() < 1e-5


def _first_half(size: int, parts: int) -> list[int]:
    """The first half of each of the equal parts that an axis is made of."""
    part = size // parts
    return [number * part + i for number in range(parts) for i in range(part // 2)]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_silenced_heads_and_neurons_answer_like_none_at_all(name, kind):
    family, profile = FAMILIES[name], _profile(name, kind)
    heads = Attention(2, 2 if family.sizes.kv_heads is None else 1, 8)
    small = build(replace(profile, layers=(Layer(heads, FeedForward(32, family.gated)),) * 3))
    whole = build(profile, seed=1)
    sizes = {n: p.shape for n, p in small.named_parameters()}
    parts = {weight.name: weight for weight in profile.weights()}
    cut = {}
    for n, p in whole.named_parameters():
        cut[n] = p.detach().clone()
        for axis, (now, then) in enumerate(zip(p.shape, sizes[n], strict=True)):
            if now != then:
                kept = torch.tensor(_first_half(now, 3 if "c_attn" in n else 1))
                cut[n] = cut[n].index_select(axis, kept)
                if parts[n].role == "matrix" and axis == parts[n].input_axis:
                    p.detach().index_fill_(axis, torch.arange(now // 2, now), 0)
    assert fill(small, cut) == []
    assert torch.allclose(_logits(whole), _logits(small), atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_transformers_reads_a_plain_model_back(name, kind, tmp_path: Path):
    profile = _profile(name, kind)
    grouped = FAMILIES[name].sizes.kv_heads is not None
    heads = Attention(2, 1, 8) if grouped else profile.layers[0].attention
    narrow = Layer(heads, FeedForward(40, FAMILIES[name].gated))
    profile = replace(profile, layers=(narrow, narrow))
    config = plain_config(profile)
    assert config is not None
    module = build(profile, seed=0)
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = {n: p.detach() for n, p in module.named_parameters()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    auto = {
        "classification": transformers.AutoModelForSequenceClassification,
        "language-modelling": transformers.AutoModelForCausalLM,
    }[kind]
    again, report = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert torch.equal(_logits(again.eval()), _logits(module))


@pytest.mark.parametrize(("name", "heads"), [("qwen2", 3), ("mistral", 3), ("qwen3", 3)])
def test_transformers_holds_heads_that_do_not_divide_the_width(name, heads):
    layer = Layer(Attention(heads, 1, 8), FeedForward(64, gated=True))
    profile = replace(_profile(name), layers=(layer,))
    config = plain_config(profile)
    assert config is not None
    made = transformers.AutoModelForSequenceClassification.from_config(
        transformers.AutoConfig.for_model(**config)
    )
    shapes = {n: tuple(p.shape) for n, p in made.named_parameters()}
    assert shapes == {weight.name: weight.shape for weight in profile.weights()}


def test_transformers_refuses_what_the_objection_says():
    layer = Layer(Attention(3, 1, 8), FeedForward(64, gated=True))
    profile = replace(_profile("llama"), layers=(layer,))
    assert plain_objection(profile) == "3 heads do not divide the width 32"
    sizes = {"hidden_size": 32, "num_attention_heads": 3, "head_dim": 8}
    with pytest.raises(Exception, match="not a multiple of the number of attention heads"):
        transformers.LlamaConfig(**sizes)
    assert _logits(build(profile, seed=0)).shape == (2, 3)


def test_building_leaves_torchs_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    build(_profile("bert"))
    build(_profile("bert"), seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seed_draws_the_same_model_on_every_call():
    one, two = (build(_profile("gpt2", shape="uneven"), seed=7) for _ in range(2))
    assert torch.equal(_logits(one), _logits(two))
    other = build(_profile("gpt2", shape="uneven"), seed=8)
    assert not torch.equal(_logits(one), _logits(other))


def test_without_a_seed_every_parameter_is_zero():
    assert not any(p.any() for p in build(_profile("llama")).parameters())


def test_dropout_of_the_config_is_kept_for_training():
    module = build(_profile("bert"), seed=0)
    rates = {m.p for m in module.modules() if isinstance(m, nn.Dropout)}
    assert rates == {0.1}


class _Twin(nn.Module):
    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.down = nn.Linear(base_layer.in_features, 2, bias=False)
        self.up = nn.Linear(2, base_layer.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.up(self.down(x))


class _Twins:
    def attach(self, module: nn.Module, adapter: Adapter) -> nn.Module:
        for path in adapter.wraps:
            module.set_submodule(path, _Twin(module.get_submodule(path)))
        return module


def _adapted(profile: Profile) -> Profile:
    path = "bert.encoder.layer.1.attention.self.query"
    weights = (
        Weight(f"{path}.down.weight", (2, 32), "adapter", "matrix", 1),
        Weight(f"{path}.up.weight", (32, 2), "adapter", "matrix", 1),
    )
    return replace(profile, adapters=(Adapter("twins", (), (path,), weights),))


def test_an_adapter_is_attached_under_the_names_that_its_profile_says(monkeypatch):
    monkeypatch.setitem(finetuning.TABLE, "twins", _Twins())
    profile = _adapted(_profile("bert"))
    module = build(profile, attention="eager", seed=0)
    built = {n: tuple(p.shape) for n, p in module.named_parameters()}
    assert built == {weight.name: weight.shape for weight in profile.weights()}
    with FlopCounterMode(display=False) as counter:
        _logits(module)
    assert counter.get_total_flops() == forward_flops(profile, 2, 10)


def test_an_adapter_that_no_technique_attaches_is_refused():
    with pytest.raises(ModelError, match="no fine-tuning technique attaches 'twins'"):
        build(_adapted(_profile("bert")))


def test_filling_names_what_does_not_fit_and_changes_nothing():
    module = build(_profile("bert"), seed=0)
    tensors = {n: torch.zeros_like(p) for n, p in module.named_parameters()}
    before = _logits(module)
    tensors["classifier.bias"] = torch.zeros(5)
    del tensors["bert.pooler.dense.bias"]
    tensors["elsewhere"] = torch.zeros(1)
    assert fill(module, tensors) == ["bert.pooler.dense.bias", "classifier.bias", "elsewhere"]
    assert torch.equal(_logits(module), before)
