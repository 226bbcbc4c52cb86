"""Fine-tuning: what trains, what stays, and adapters on paper and in practice."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from paretune.spaces.build import build
from paretune.spaces.candidate import load_candidate, save_candidate
from paretune.spaces.families import family_of
from paretune.spaces.finetuning import OFF, TABLE
from paretune.spaces.finetuning.adapters import sides, wrapped
from paretune.spaces.finetuning.lora import TARGETS
from paretune.spaces.paper import Paper
from paretune.spaces.profile import Adapter, Profile, parameters
from paretune.spaces.steps import Phase, Train
from paretune.spaces.testing import MemoryBench
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from finetuning_cases import (
    DECODERS,
    FAMILIES,
    TARGET,
    answers,
    defaults,
    done,
    given,
    on_paper,
    shapes,
    steps,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")

REFUSED = {
    ("bitfit", "llama"),
    ("loha", "gpt2"),
    ("lokr", "gpt2"),
    ("oft", "gpt2"),
    ("prefix", "distilbert"),
}
"""No biases to train there; matrices that peft's layers do not read; attention without a past."""


def test_the_table_is_keyed_by_the_names_of_its_rows():
    assert OFF == "none"
    assert OFF not in TABLE
    assert all(name == row.name for name, row in TABLE.items())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", sorted(set(TABLE) - {"fish"}))  # has a file of its own
def test_exactly_what_the_paper_says_trains(tiny_models: dict[str, Path], family: str, method: str):
    start = given(tiny_models[family])
    technique = TABLE[method]
    objections = technique.objections(start.paper, defaults(technique, start.paper), TARGET)
    assert bool(objections) is ((method, family) in REFUSED), objections
    if objections:  # the refusal is the behaviour
        return
    todo = [s for s in steps(technique, start.paper) if s.phase <= Phase.TRAIN]
    *_, before, after = done(start, todo)
    recipe = after.paper.recipe
    asked = {n: p.numel() for n, p in after.module.named_parameters() if p.requires_grad}
    assert sum(asked.values()) == after.paper.trainable_parameters
    assert set(asked) == {n for n in on_paper(after.paper.profile) if recipe.trains(n)}
    old = dict(before.module.named_parameters())
    for name, new in after.module.named_parameters():
        if name not in asked:
            assert torch.equal(old[name], new), name
    moved = {n for n, p in after.module.named_parameters() if not torch.equal(old[n], p)}
    # A bias added to every key shifts all scores of a row alike: nothing to learn.
    silent = {n for n in asked if "key.bias" in n or "k_lin.bias" in n or "k_proj.bias" in n}
    # Words and positions that the few items lack still decay, so tables move too.
    assert moved >= set(asked) - silent


def test_what_each_method_trains_is_named(tiny_models: dict[str, Path]):
    start = given(tiny_models["bert"])
    head = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    head |= {"classifier.weight", "classifier.bias"}
    everything = set(on_paper(start.paper.profile))

    def chosen(method: str, **changes: Any) -> set[str]:
        paper = start.paper
        for step in steps(TABLE[method], paper, **changes):
            if step.phase <= Phase.TRAIN:
                paper = step.on_paper(paper)
        return {n for n in on_paper(paper.profile) if paper.recipe.trains(n)}

    assert chosen("full") == everything
    assert chosen("head") == head
    assert chosen("bitfit") == head | {n for n in everything if n.endswith(".bias")}
    assert chosen("layernorm") == head | {n for n in everything if "LayerNorm" in n}
    top = {n for n in everything if n.startswith("bert.encoder.layer.2.")}
    assert chosen("last_layers", layers=1) == head | top
    factors = chosen("lora") - head
    assert len(factors) == 3 * 2 * 2
    assert all(".query.lora_" in n or ".value.lora_" in n for n in factors)
    scales = chosen("ia3") - head
    assert len(scales) == 3 * 3
    assert {n.rpartition(".ia3_l")[0].rpartition("layer.")[2][2:] for n in scales} == {
        "attention.self.key",
        "attention.self.value",
        "output.dense",
    }


def test_a_language_model_keeps_its_head_when_adapters_or_biases_train(
    tiny_models: dict[str, Path],
):
    paper = given(tiny_models["llama"], "language-modelling").paper
    for method in ("lora", "ia3", "layernorm"):
        after = paper
        for step in steps(TABLE[method], paper):
            if step.phase <= Phase.TRAIN:
                after = step.on_paper(after)
        assert not after.recipe.trains("lm_head.weight"), method
        assert not after.recipe.trains("model.embed_tokens.weight"), method


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", sorted(TARGETS))
def test_lora_on_paper_is_lora_in_practice(tiny_models: dict[str, Path], family: str, targets: str):
    start = given(tiny_models[family])
    todo = steps(TABLE["lora"], start.paper, rank=4, targets=targets)
    attached, _, trained, merged = done(start, todo)
    assert shapes(attached.module) == on_paper(attached.paper.profile)
    assert torch.equal(answers(attached), answers(start))
    assert shapes(merged.module) == on_paper(start.paper.profile)
    assert merged.paper.profile == start.paper.profile
    assert merged.train_state is None
    assert not torch.equal(answers(trained), answers(start))
    assert torch.allclose(answers(trained), answers(merged), atol=1e-5)
    assert type(merged.module) is type(start.module)
    assert vars(merged.module).keys() == vars(start.module).keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_ia3_on_paper_is_ia3_in_practice(tiny_models: dict[str, Path], family: str):
    start = given(tiny_models[family])
    attached, _, trained, merged = done(start, steps(TABLE["ia3"], start.paper))
    assert shapes(attached.module) == on_paper(attached.paper.profile)
    assert torch.equal(answers(attached), answers(start))
    assert shapes(merged.module) == on_paper(start.paper.profile)
    assert merged.paper.profile == start.paper.profile
    assert not torch.equal(answers(trained), answers(start))
    assert torch.allclose(answers(trained), answers(merged), atol=1e-5)


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_adapters_of_a_language_model_merge(tiny_models: dict[str, Path], family: str, method: str):
    start = given(tiny_models[family], "language-modelling")
    attached, _, trained, merged = done(start, steps(TABLE[method], start.paper))
    assert torch.equal(answers(attached), answers(start))
    assert torch.allclose(answers(trained), answers(merged), atol=1e-5)
    assert shapes(merged.module) == on_paper(start.paper.profile)


def test_lora_counts_the_parameters_of_its_formula(tiny_models: dict[str, Path]):
    start = given(tiny_models["llama"])
    attach = steps(TABLE["lora"], start.paper, rank=4)[0]
    profile = attach.on_paper(start.paper).profile
    # Three layers, queries 32 -> 32 and values 32 -> 16: r (inputs + outputs).
    expected = 3 * 4 * ((32 + 32) + (32 + 16))
    assert parameters(profile) - parameters(start.paper.profile) == expected


def test_the_seed_draws_the_adapter_and_nothing_else_does(tiny_models: dict[str, Path]):
    start = given(tiny_models["bert"])
    attach = steps(TABLE["lora"], start.paper)[:1]
    state = torch.get_rng_state()
    first = done(start, attach, seed=1)[0]
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(123)
    again, other = done(start, attach, seed=1)[0], done(start, attach, seed=2)[0]
    name = "bert.encoder.layer.0.attention.self.query.lora_A.default.weight"
    assert torch.equal(first.module.get_parameter(name), again.module.get_parameter(name))
    assert not torch.equal(first.module.get_parameter(name), other.module.get_parameter(name))


def test_a_kept_adapter_stays_and_is_built_again(tiny_models: dict[str, Path], tmp_path: Path):
    for method in ("lora", "ia3"):
        start = given(tiny_models["gpt2"])
        kept = done(start, steps(TABLE[method], start.paper, merge="keep"))[-1]
        assert [a.kind for a in kept.paper.profile.adapters] == [method]
        assert shapes(build(kept.paper.profile)) == shapes(kept.module)
        folder = tmp_path / method
        folder.mkdir()
        save_candidate(kept, folder)
        assert torch.equal(answers(load_candidate(folder)), answers(kept))


def test_training_resumes_from_disk_to_the_bit(tiny_models: dict[str, Path], tmp_path: Path):
    for method in ("full", "lora", "head"):
        start = given(tiny_models["bert"])
        todo = [s for s in steps(TABLE[method], start.paper) if s.phase < Phase.TRAIN]
        ready = done(start, todo)[-1]
        train = next(s for s in steps(TABLE[method], start.paper) if isinstance(s, Train))
        bench = MemoryBench(start)
        straight = train.run(ready, 4, bench, 0)
        folder = tmp_path / method
        folder.mkdir()
        save_candidate(train.run(ready, 2, bench, 0), folder)
        resumed = train.run(load_candidate(folder), 4, bench, 0)
        for name, parameter in straight.module.named_parameters():
            assert torch.equal(parameter, resumed.module.get_parameter(name)), (method, name)
        assert straight.train_state is not None
        assert resumed.train_state is not None
        one, two = straight.train_state.tensors, resumed.train_state.tensors
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_frozen_encoder_is_left_without_dropout_and_the_head_keeps_its_own(
    tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    import paretune.spaces.trainer as trainer

    seen: list[bool] = []
    original = trainer.objective

    def watched(*arguments: Any) -> Tensor:
        seen.append(module.training)
        return original(*arguments)

    start = given(tiny_models["bert"])
    *ready, train = steps(TABLE["head"], start.paper)
    before = done(start, ready)[-1]
    module: Any = None
    loop = trainer._Loop._frozen_encoder

    def peek(self: Any) -> Any:
        nonlocal module
        found = loop(self)
        module = self.module
        seen.append(found[0].training)
        return found

    monkeypatch.setattr(trainer, "objective", watched)
    monkeypatch.setattr(trainer._Loop, "_frozen_encoder", peek)
    done(before, [train])
    assert seen[0] is False
    assert set(seen[1:]) == {True}


def test_ranks_beyond_the_smallest_matrix_are_refused(tiny_models: dict[str, Path]):
    paper = given(tiny_models["llama"]).paper
    lora = TABLE["lora"]
    assert not lora.objections(paper, defaults(lora, paper, rank=16), TARGET)
    (reason,) = lora.objections(paper, defaults(lora, paper, rank=17), TARGET)
    assert "rank 17 exceeds the smallest wrapped dimension 16" in reason
    assert "choose rank <= 16" in reason


def test_methods_that_do_not_fit_a_model_say_so(tiny_models: dict[str, Path]):
    llama = given(tiny_models["llama"]).paper
    (reason,) = TABLE["bitfit"].objections(llama, defaults(TABLE["bitfit"], llama), TARGET)
    assert "no biases" in reason
    gpt2 = given(tiny_models["gpt2"], "language-modelling").paper
    (reason,) = TABLE["head"].objections(gpt2, defaults(TABLE["head"], gpt2), TARGET)
    assert "embedding table" in reason
    untied = given(tiny_models["llama"], "language-modelling").paper
    assert not TABLE["head"].objections(untied, defaults(TABLE["head"], untied), TARGET)
    (reason,) = TABLE["last_layers"].objections(llama, {"layers": 4, "learning_rate": 1.0}, TARGET)
    assert "choose layers <= 3" in reason


def test_layers_without_a_part_are_passed_over(tiny_models: dict[str, Path]):
    profile = given(tiny_models["bert"]).paper.profile
    first = replace(profile.layers[0], attention=None)
    thin = replace(profile, layers=(first, *profile.layers[1:]))
    assert len(wrapped(profile, TARGETS["attention-qv"])) == 6
    assert len(wrapped(thin, TARGETS["attention-qv"])) == 4
    none = replace(profile, layers=tuple(replace(x, attention=None) for x in profile.layers))
    lora = TABLE["lora"]
    settings = defaults(lora, Paper(none))
    (reason,) = lora.objections(Paper(none), settings, TARGET)
    assert "choose other targets" in reason


def test_a_fused_matrix_is_wrapped_once(tiny_models: dict[str, Path]):
    profile = given(tiny_models["gpt2"]).paper.profile
    found = wrapped(profile, TARGETS["attention-qv"])
    assert list(found) == [f"transformer.h.{i}.attn.c_attn" for i in range(3)]
    assert {sides(matrix) for matrix in found.values()} == {(32, 96)}


def test_a_new_version_of_a_technique_is_a_new_key(tiny_models: dict[str, Path]):
    paper = given(tiny_models["bert"]).paper
    attach = steps(TABLE["lora"], paper)[0]
    assert attach.settings["method_version"] == TABLE["lora"].version
    assert {"rank", "alpha_ratio", "targets"} <= set(attach.settings)
    assert "learning_rate" not in attach.settings


def test_no_torch_is_imported_on_paper():
    import subprocess
    import sys

    code = (
        "import sys; from paretune.spaces import finetuning, recovery, recipes, training;"
        "assert not {'torch', 'peft', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_family_has_matrices_for_every_target():
    for family in FAMILIES:
        roles = family_of(family).modules
        for wanted in TARGETS.values():
            assert any(role in roles for role in wanted)


def test_an_adapter_survives_json(tiny_models: dict[str, Path]):
    paper = given(tiny_models["bert"]).paper
    profile = steps(TABLE["lora"], paper)[0].on_paper(paper).profile
    assert Profile.from_json(profile.to_json()) == profile
    assert isinstance(profile.adapters[0], Adapter)
