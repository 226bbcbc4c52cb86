"""Soft tokens and prefixes: what they begin as, whom the head answers for, what they cost."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paretune.evaluators.compute.backward import training_step_flops
from paretune.spaces import features
from paretune.spaces.build import build
from paretune.spaces.candidate import Candidate
from paretune.spaces.families import family_of
from paretune.spaces.finetuning import TABLE
from paretune.spaces.losses import task_loss
from paretune.spaces.paper import Paper
from paretune.spaces.profile import Format, Profile, decode_flops, forward_flops
from paretune.spaces.recipe import Loss
from paretune.spaces.runtimes import RUNTIMES, open_artifact
from paretune.spaces.runtimes.refusals import hf_refusals
from paretune.spaces.slots import slots
from paretune.spaces.steps import Phase, Train
from paretune.spaces.technique import Targets
from paretune.spaces.testing import MemoryBench, random_items
from paretune.spaces.training import FinetuneStep
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))

from finetuning_cases import (
    DECODERS,
    FAMILIES,
    RECIPE,
    answers,
    defaults,
    done,
    given,
    objections,
    on_paper,
    shapes,
    steps,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
]

METHODS = {
    "prompt": {"tokens": 5},
    "p_tuning": {"tokens": 5, "encoder_width": 32},
    "prefix": {"tokens": 5},
    "prefix, made": {"tokens": 5, "encoder_width": 64},
}
"""Settings, by the technique's name and what is special about them."""

HEADS = {"bert": "classification", "gpt2": "language-modelling", "llama": "language-modelling"}
TAKE_PAST = [family for family in FAMILIES if family != "distilbert"]
KEPT = [("prompt", family) for family in FAMILIES] + [("prefix", family) for family in TAKE_PAST]


def row(method: str) -> Any:
    return TABLE[method.partition(",")[0]]


def todo(method: str, paper: Paper, **changes: Any) -> list[Any]:
    return steps(row(method), paper, **METHODS[method], **changes)


@lru_cache
def kept(folder: Path, method: str, kind: str = "classification") -> Candidate:
    """A tiny model with virtual tokens whose values are drawn, folded."""
    start = given(folder, kind)
    attached = done(start, todo(method, start.paper)[:1])[-1]
    generator = torch.Generator().manual_seed(0)
    for weight in attached.paper.profile.weights():
        if weight.group == "adapter":
            value = attached.module.get_parameter(weight.name)
            value.data.add_(torch.empty_like(value).normal_(0, 0.3, generator=generator))
    fold = [step for step in todo(method, start.paper) if step.phase == Phase.MERGE]
    return [attached, *done(attached, fold)][-1]


def soft_table(candidate: Candidate) -> Tensor:
    (adapter,) = candidate.paper.profile.adapters
    return candidate.module.get_parameter(adapter.weights[0].name)


@pytest.mark.parametrize("family", DECODERS)
def test_a_prompt_and_a_prefix_begin_as_words_before_the_text(tiny_models, family):
    start = given(tiny_models[family], "language-modelling")
    prompt, prefix = (
        done(start, todo(method, start.paper)[:1])[0] for method in ("prompt", "prefix")
    )
    words = start.module.get_input_embeddings().weight
    same = (soft_table(prompt)[:, None] == words[None]).all(dim=-1)
    assert same.any(dim=1).all()
    chosen = same.long().argmax(dim=1)
    items = random_items(start.paper.profile, 4, 8, seed=3)
    ids = torch.cat([chosen.expand(4, -1), torch.from_numpy(items.input_ids)], dim=1)
    mask = torch.cat([torch.ones(4, 5), torch.from_numpy(items.attention_mask)], dim=1)
    with torch.no_grad():
        read = start.module(input_ids=ids, attention_mask=mask.long()).logits[:, 5:]
    real = torch.from_numpy(items.attention_mask).bool()
    for begun in (prompt, prefix):
        assert torch.allclose(answers(begun)[real], read[real], atol=1e-5)


ENCODED = {
    "bert": lambda m, states: m.classifier(m.bert.pooler(states)),
    "roberta": lambda m, states: m.classifier(states),
    "distilbert": lambda m, states: m.classifier(m.pre_classifier(states[:, 0]).relu()),
}
"""What each encoder's head says of states."""


@pytest.mark.parametrize("family", ENCODED)
def test_an_encoder_classifies_by_the_texts_first_token(tiny_models, family):
    start, candidate = given(tiny_models[family]), kept(tiny_models[family], "prompt")
    items = random_items(start.paper.profile, 4, 8, seed=3)
    ids, mask = map(torch.from_numpy, (items.input_ids, items.attention_mask))
    base = start.module.get_submodule(family_of(family).base)
    with torch.no_grad():
        words = base.get_input_embeddings()(ids)
        told = torch.cat([soft_table(candidate).expand(4, -1, -1), words], dim=1)
        seen = torch.cat([mask.new_ones(4, 5), mask], dim=1)
        states = base(inputs_embeds=told, attention_mask=seen).last_hidden_state
        expected = ENCODED[family](start.module, states[:, 5:])
    assert torch.allclose(answers(candidate), expected, atol=1e-5)
    plain = answers(start)
    assert not torch.allclose(expected, plain, atol=1e-3)


@pytest.mark.parametrize("family", DECODERS)
def test_peft_gives_the_same_logits_behind_its_soft_tokens(tiny_models, family):
    from peft import PromptTuningConfig, get_peft_model

    candidate = kept(tiny_models[family], "prompt", "language-modelling")
    start = given(tiny_models[family], "language-modelling")
    theirs = get_peft_model(
        start.module, PromptTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM")
    ).eval()
    items = random_items(start.paper.profile, 4, 8, seed=3)
    with torch.no_grad():
        theirs.prompt_encoder["default"].embedding.weight.copy_(soft_table(candidate))
        found = theirs(
            input_ids=torch.from_numpy(items.input_ids),
            attention_mask=torch.from_numpy(items.attention_mask),
        ).logits[:, 5:]
    real = torch.from_numpy(items.attention_mask).bool()
    assert torch.allclose(answers(candidate)[real], found[real], atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", TAKE_PAST)
def test_as_many_parameters_train_as_in_peft(tiny_models, family, method):
    import peft

    start = given(tiny_models[family])
    told = {"num_virtual_tokens": 5, "task_type": "FEATURE_EXTRACTION"}
    configs = {
        "prompt": lambda: peft.PromptTuningConfig(**told),
        "p_tuning": lambda: peft.PromptEncoderConfig(**told, encoder_hidden_size=32),
        "prefix": lambda: peft.PrefixTuningConfig(**told),
        "prefix, made": lambda: peft.PrefixTuningConfig(
            **told, prefix_projection=True, encoder_hidden_size=64
        ),
    }
    base = start.module.get_submodule(family_of(family).base)
    theirs = peft.get_peft_model(base, configs[method]()).prompt_encoder["default"]
    adapter = row(method).adapter(
        start.paper.profile, defaults(row(method), start.paper, **METHODS[method])
    )
    heads = start.paper.profile.layers[0].attention
    inner = sum(p.numel() for p in theirs.parameters())
    if method == "prefix, made" and heads.kv_heads != heads.heads:
        # grouped heads: peft narrows the vectors that its MLP reads as well
        narrow = heads.kv_heads * heads.head_width
        inner += (5 + 64) * (start.paper.profile.width - narrow)
    assert sum(weight.count for weight in adapter.weights) == inner


@pytest.mark.parametrize(
    ("method", "family"),
    [(m, f) for m in METHODS for f in FAMILIES if f != "distilbert" or "prefix" not in m],
)
def test_on_paper_is_in_practice_and_folding_changes_no_bit(tiny_models, method, family):
    start = given(tiny_models[family])
    attached, _, trained, *folded = done(start, todo(method, start.paper))
    assert shapes(attached.module) == on_paper(attached.paper.profile)
    assert not torch.equal(answers(trained), answers(attached))
    assert bool(folded) is (method in {"p_tuning", "prefix, made"})
    for last in folded:
        assert torch.equal(answers(last), answers(trained))
        assert shapes(last.module) == on_paper(last.paper.profile)
        (adapter,) = last.paper.profile.adapters
        assert adapter.kind == {"p_tuning": "prompt"}.get(method, "prefix")
        assert last.train_state is None
        plain = row(adapter.kind).adapter(start.paper.profile, dict(adapter.settings))
        assert adapter == plain
        assert shapes(build(last.paper.profile)) == shapes(last.module)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", HEADS)
def test_training_costs_what_torch_counts(tiny_models, method, family):
    paper = given(tiny_models[family], HEADS[family]).paper
    for step in todo(method, paper):
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
    told = training_step_flops(paper.profile, paper.recipe.trainable, 3, 10)
    assert (forward, counter.get_total_flops() - forward) == told


@pytest.mark.parametrize("method", ["prompt", "prefix"])
@pytest.mark.parametrize("family", DECODERS)
def test_reading_and_writing_cost_what_torch_counts(tiny_models, method, family):
    profile = kept(tiny_models[family], method, "language-modelling").paper.profile
    module = build(profile, attention="eager")
    ids = torch.from_numpy(random_items(profile, 2, 7, seed=0).input_ids)
    told = {"use_cache": True, "logits_to_keep": 1}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        first = module(input_ids=ids, attention_mask=torch.ones_like(ids), **told)
        read = counter.get_total_flops()
        mask = torch.ones(2, 8, dtype=torch.long)
        cache = first.past_key_values
        module(input_ids=ids[:, :1], attention_mask=mask, past_key_values=cache, **told)
    assert first.logits.shape[1] == 1
    assert cache.get_seq_length() == 7 + 5 + 1
    assert read == forward_flops(profile, 2, 7, last_only=True)
    assert counter.get_total_flops() - read == decode_flops(profile, 8, batch=2)


def test_the_closed_forms_of_the_attention_products(tiny_models):
    start = given(tiny_models["bert"]).paper.profile
    attended = 3 * 4 * 2 * 32  # layers, both products of two FLOPs, texts, width
    prompt, prefix = (kept(tiny_models["bert"], m).paper.profile for m in ("prompt", "prefix"))
    plain = forward_flops(start, 2, 8)
    assert forward_flops(prefix, 2, 8) - plain == attended * 8 * 5
    per_token = 3 * 2 * (4 * 32 * 32 + 2 * 32 * 64)
    more = 2 * 5 * per_token + attended * (13 * 13 - 8 * 8)
    assert forward_flops(prompt, 2, 8) - plain == more


def deployed(candidate: Candidate, runtime: str, folder: Path) -> Any:
    folder.mkdir(parents=True)
    (step,) = RUNTIMES[runtime].steps(candidate.paper, {})
    step.deploy(candidate, folder, MemoryBench(candidate))
    return open_artifact(folder)


@pytest.mark.parametrize("method", ["prompt", "prefix"])
@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_a_continuation_is_that_of_the_text_alone(tiny_models, tmp_path, method, family, runtime):
    candidate = kept(tiny_models[family], method, "language-modelling")
    runner = deployed(candidate, runtime, tmp_path / "x")
    items = random_items(candidate.paper.profile, 2, 8, seed=5)
    padded = runner.generate(items, 4)
    for place, written in enumerate(padded):
        ids = torch.from_numpy(items.input_ids[place][items.attention_mask[place] == 1])[None]
        for token in written:
            with torch.no_grad():
                out = candidate.module(input_ids=ids, attention_mask=torch.ones_like(ids))
            assert int(out.logits[0, -1].argmax()) == token
            ids = torch.cat([ids, ids.new_tensor([[token]])], dim=1)
    runner.close()


@pytest.mark.parametrize("kind", ["classification", "language-modelling"])
@pytest.mark.parametrize(("method", "family"), KEPT)
def test_they_are_constants_of_the_onnx_graph(tiny_models, tmp_path, method, family, kind):
    if kind == "language-modelling" and family not in DECODERS:
        return
    candidate = kept(tiny_models[family], method, kind)
    assert not RUNTIMES["onnxruntime"].objections(candidate.paper, {}, Targets(("onnx",)))
    items = random_items(candidate.paper.profile, 4, 8, seed=3)
    runner = deployed(candidate, "onnxruntime", tmp_path / "x")
    found, expected = runner.logits(items), answers(candidate).numpy()
    runner.close()
    real = items.attention_mask == 1 if kind == "language-modelling" else slice(None)
    assert np.allclose(found[real], expected[real], atol=1e-4)


@pytest.mark.parametrize("precision", ["int8", "int4", "gptq", "hqq", "awq", "smoothquant", "bf16"])
@pytest.mark.parametrize("method", ["prompt", "prefix"])
@pytest.mark.parametrize("family", HEADS)
def test_they_stand_beside_packed_weights(tiny_models, tmp_path, family, method, precision):
    candidate = kept(tiny_models[family], method, HEADS[family])
    technique = slots()["precision"].technique(precision)
    told = defaults(technique, candidate.paper)
    reasons = technique.objections(candidate.paper, told, Targets())
    if method == "prefix" and precision in {"awq", "smoothquant"}:
        (reason,) = reasons
        assert "prefix adapters read the channels too" in reason
        return
    assert not reasons
    last = done(candidate, sorted(technique.steps(candidate.paper, told), key=lambda s: s.phase))[
        -1
    ]
    assert not RUNTIMES["eager"].objections(last.paper, {}, Targets())
    items = random_items(candidate.paper.profile, 4, 8, seed=3)
    runner = deployed(last, "eager", tmp_path / "x")
    found, expected = runner.logits(items), answers(candidate).numpy()
    runner.close()
    assert np.abs(found - expected).max() < 0.5 * np.abs(expected).max()
    assert not np.array_equal(found, expected)


@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_layers_are_not_cut_from_under_them(tiny_models, method):
    paper = kept(tiny_models["bert"], method).paper
    for name, technique in slots()["structure"].techniques.items():
        if name == "none":
            continue
        told = defaults(technique, paper, when="after")
        reasons = technique.objections(paper, told, Targets())
        assert any("cannot be merged; choose when: before" in reason for reason in reasons), name


@pytest.mark.parametrize("family", HEADS)
@pytest.mark.parametrize("method", METHODS)
def test_they_stand_before_layers_that_were_cut(tiny_models, method, family):
    start = given(tiny_models[family], HEADS[family])
    cut = build_like(start, (0,), 2)
    made = todo(method, cut.paper)
    attached = done(cut, made[:1])[0]
    assert shapes(attached.module) == on_paper(attached.paper.profile)
    assert not torch.equal(answers(attached), answers(cut))
    folded = [attached, *done(attached, [s for s in made if s.phase == Phase.MERGE])][-1]
    assert shapes(folded.module) == on_paper(folded.paper.profile)
    assert torch.equal(answers(folded), answers(attached))


def build_like(start: Candidate, bare: tuple[int, ...], heads: int) -> Candidate:
    """The model with fewer heads in each layer, and no attention in some, drawn anew."""
    layers = tuple(
        replace(
            layer,
            attention=None
            if index in bare
            else replace(layer.attention, heads=heads, kv_heads=heads),
        )
        for index, layer in enumerate(start.paper.profile.layers)
    )
    profile = replace(start.paper.profile, layers=layers)
    return Candidate(build(profile, seed=0), replace(start.paper, profile=profile))


@pytest.mark.parametrize("method", METHODS)
def test_the_longest_text_must_have_room(tiny_models, method):
    for family in TAKE_PAST:
        paper = given(tiny_models[family]).paper
        longest = family_of(family).longest_text(paper.profile)
        told = defaults(row(method), paper, **METHODS[method])
        assert not row(method).objections(paper, told, Targets(tokens=longest - 5))
        (reason,) = row(method).objections(paper, told, Targets(tokens=longest - 4))
        assert f"exceed the {longest} positions of this {family} model" in reason
        assert "choose tokens <= 4" in reason
        (reason,) = row(method).objections(paper, told, Targets(tokens=longest))
        assert "choose a shorter text" in reason
        attached = todo(method, paper)[0].on_paper(paper).profile
        assert family_of(family).longest_text(attached) == longest - 5


@pytest.mark.parametrize("method", ["prompt", "prefix"])
@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
def test_the_longest_text_that_is_legal_is_read(tiny_models, tmp_path, method, family):
    candidate = kept(tiny_models[family], method)
    longest = family_of(family).longest_text(candidate.paper.profile)
    items = random_items(candidate.paper.profile, 2, longest, seed=0)
    for runtime in ("eager", "onnxruntime"):
        runner = deployed(candidate, runtime, tmp_path / runtime)
        assert np.isfinite(runner.logits(items)).all()
        runner.close()


def test_distilbert_takes_no_prefix(tiny_models):
    (reason,) = objections(TABLE["prefix"], given(tiny_models["distilbert"]).paper)
    assert "takes no keys from before; choose prompt or p_tuning" in reason


@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_a_head_that_trains_alone_behind_them_hears_what_it_would_without_memory(
    tiny_models, monkeypatch, method
):
    start = kept(tiny_models["bert"], method)
    heads = tuple(w.name for w in start.paper.profile.weights() if w.group == "head")
    start = replace(start, paper=replace(start.paper, recipe=replace(RECIPE, trainable=heads)))
    found = done(start, [FinetuneStep()])[0]
    monkeypatch.setattr(features, "MEMORY_BYTES", 0)
    plain = done(start, [FinetuneStep()])[0]
    for name in heads:
        one, other = (made.module.get_parameter(name) for made in (found, plain))
        assert torch.allclose(one, other, atol=1e-6), name
        assert not torch.equal(one, start.module.get_parameter(name)), name


def test_a_prefix_needs_attention(tiny_models):
    start = given(tiny_models["bert"])
    paper = build_like(start, (0, 1, 2), 4).paper
    (reason,) = objections(TABLE["prefix"], paper)
    assert "nothing would see a prefix; choose full" in reason


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_loss_falls(tiny_models, method, family):
    start = given(tiny_models[family], HEADS[family])
    recipe = replace(RECIPE, epochs=30)
    start = replace(start, paper=replace(start.paper, recipe=recipe))
    attached, _, trained, *_ = done(start, todo(method, start.paper, learning_rate=1e-2))
    frozen = {n for n, _ in start.module.named_parameters() if not n.startswith("classifier")}
    frozen -= {n for n in frozen if "pooler" in n}
    (items,) = MemoryBench(start).batches("train", batch=8)

    def loss(candidate: Candidate) -> float:
        ids, mask, labels = (
            torch.from_numpy(a) for a in (items.input_ids, items.attention_mask, items.labels)
        )
        with torch.no_grad():
            return float(
                task_loss(candidate.module(input_ids=ids, attention_mask=mask).logits, labels)
            )

    assert loss(trained) < loss(attached) - 0.02
    for name in frozen:
        assert torch.equal(start.module.get_parameter(name), trained.module.get_parameter(name))


@pytest.mark.parametrize("kind", ["hidden", "attention", "relations"])
@pytest.mark.parametrize("method", ["prompt", "prefix"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_layers_are_taught_on_the_text_alone(tiny_models, family, method, kind):
    teacher = given(tiny_models[family], HEADS[family])
    candidate = kept(tiny_models[family], method, HEADS[family])
    recipe = replace(RECIPE, losses=(Loss(kind),), teacher="teacher", trainable=("*",))
    ready = replace(candidate, paper=replace(candidate.paper, recipe=recipe))
    (train,) = [s for s in todo(method, teacher.paper) if isinstance(s, Train)]
    taught = train.run(ready, 4, MemoryBench(teacher), 0)
    assert not torch.equal(answers(taught), answers(candidate))


def test_what_a_matrix_is_fed_counts_soft_tokens(tiny_models):
    from paretune.spaces.precision.fed import by_block

    candidate = kept(tiny_models["bert"], "prompt")
    profile = candidate.paper.profile.with_formats({"ffn": Format("int8"), "head": Format("int8")})
    seen: dict[str, Any] = {}
    by_block(
        replace(candidate, paper=replace(candidate.paper, profile=profile)),
        MemoryBench(candidate),
        lambda _, found: seen.update(found),
    )
    entering: list[Tensor] = []
    path = "bert.encoder.layer.0.intermediate.dense"
    handle = candidate.module.get_submodule(path).register_forward_pre_hook(
        lambda _, args: entering.append(args[0])
    )
    (batch,) = MemoryBench(candidate).batches("calibration", batch=8)
    ids, mask = map(torch.from_numpy, (batch.input_ids, batch.attention_mask))
    with torch.no_grad():
        candidate.module(input_ids=ids, attention_mask=mask)
    handle.remove()
    real = torch.cat([mask.new_ones(8, 5), mask], dim=1).bool()
    expected = entering[0][real].abs().sum(dim=0).double()
    assert torch.allclose(seen[f"{path}.weight"].total, expected, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_they_survive_json(tiny_models, method):
    paper = given(tiny_models["bert"]).paper
    profile = todo(method, paper)[0].on_paper(paper).profile
    assert Profile.from_json(profile.to_json()) == profile
    assert profile.soft_tokens + profile.past == 5


def test_soft_tokens_make_no_peft_folder(tiny_models):
    paper = kept(tiny_models["bert"], "prompt").paper
    (reason,) = hf_refusals(paper)
    assert "peft lets the head answer for soft tokens too" in reason
    assert "choose another fine-tuning" in reason


@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_compiled_refuses_what_it_was_not_tried_with(tiny_models, method):
    paper = kept(tiny_models["bert"], method).paper
    reasons = RUNTIMES["compiled"].objections(paper, {}, Targets())
    assert any("use eager, or onnxruntime" in reason for reason in reasons)


def test_padding_says_nothing(tiny_models):
    for method, family in KEPT:
        candidate = kept(tiny_models[family], method)
        items = random_items(candidate.paper.profile, 4, 8, seed=3)
        ids = torch.from_numpy(items.input_ids[1:2, :5])
        with torch.no_grad():
            alone = candidate.module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        assert torch.allclose(alone[0], answers(candidate)[1], atol=1e-5), (method, family)
