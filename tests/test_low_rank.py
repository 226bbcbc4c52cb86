"""Low rank: the nearest thin matrices, on paper, in practice, stored, and in every runtime."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paretune.evaluators.compute.backward import training_step_flops
from paretune.spaces.build import build
from paretune.spaces.candidate import Candidate
from paretune.spaces.configuration import Configuration
from paretune.spaces.families import FAMILIES, family_of, plain_objection
from paretune.spaces.finetuning import TABLE as FINETUNING
from paretune.spaces.paper import Paper
from paretune.spaces.paper_features import FEATURES, paper_features
from paretune.spaces.profile import (
    Format,
    Head,
    Profile,
    decode_flops,
    forward_flops,
    parameters,
)
from paretune.spaces.runtimes import RUNTIMES, open_artifact
from paretune.spaces.runtimes.refusals import hf_refusals
from paretune.spaces.specimen import MemoryBench, counted_flops, logits_of, random_items
from paretune.spaces.specimen import payload_bytes as bytes_written
from paretune.spaces.steps import Phase
from paretune.spaces.structure import TABLE
from paretune.spaces.structure.factors import damped, factors
from paretune.spaces.structure.low_rank import Factorise, FactoriseOutputs, largest_rank, rank_of
from paretune.spaces.structure.sparsity import ZeroSmallest
from paretune.spaces.technique import Targets
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

TINY = ("bert", "distilbert", "gpt2", "llama", "qwen2")


def profile_of(family: str, kind: str = "classification") -> Profile:
    sizes = {"vocab_size": 43, "initializer_range": 0.2, "bos_token_id": 2, "eos_token_id": 3}
    sizes |= {"pad_token_id": 1 if "roberta" in family else 0, "max_position_embeddings": 64}
    sizes |= {"hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 64}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    sizes |= {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64}
    sizes |= {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
    head = Head("classification", 3) if kind == "classification" else Head(kind, 43)  # type: ignore[arg-type]
    return family_of(family).profile(sizes, head)


def candidate(family: str, kind: str = "classification") -> Candidate:
    """A tiny model in which every bias and norm is drawn too: zeros would hide mistakes."""
    profile = profile_of(family, kind)
    module = build(profile, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Candidate(module, Paper(profile))


def correlated(tokens: int, width: int, seed: int = 0) -> Tensor:
    """Inputs that lie near a few directions, as hidden states do."""
    draw = torch.Generator().manual_seed(seed)
    few = torch.randn(tokens, width // 4, generator=draw, dtype=torch.float64)
    mix = torch.randn(width // 4, width, generator=draw, dtype=torch.float64)
    return few @ mix + 0.3 * torch.randn(tokens, width, generator=draw, dtype=torch.float64)


def matrix(rows: int, columns: int, seed: int = 9) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rows", "columns"), [(24, 40), (40, 24), (32, 32)])
def test_at_full_rank_the_factors_are_the_matrix(rows, columns):
    whole = matrix(rows, columns)
    for moment in (None, damped(correlated(99, columns).t() @ correlated(99, columns) / 99)):
        widen, narrow = factors(whole, min(rows, columns), moment)
        torch.testing.assert_close(widen @ narrow, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 5, 20])
def test_the_error_is_the_tail_of_the_singular_values(rank):
    """Eckart and Young: nothing of that rank is nearer."""
    whole = matrix(24, 40)
    widen, narrow = factors(whole, rank)
    tail = torch.linalg.svdvals(whole.double())[rank:].square().sum()
    error = (widen.double() @ narrow.double() - whole.double()).square().sum()
    torch.testing.assert_close(error, tail, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_the_factors_for_outputs_equal_the_slow_direct_solution(rank):
    """Whitened, cut and inverted back, as arXiv 2403.07378 writes it."""
    whole, inputs = matrix(24, 40), correlated(200, 40)
    moment = inputs.t() @ inputs / len(inputs)
    values, turns = torch.linalg.eigh(damped(moment))
    root = turns @ values.sqrt().diag() @ turns.t()
    u, s, v = torch.linalg.svd(whole.double() @ root)
    direct = u[:, :rank] @ s[:rank].diag() @ v[:rank] @ torch.linalg.inv(root)
    widen, narrow = factors(whole, rank, moment)
    torch.testing.assert_close((widen @ narrow).double(), direct, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rank", [2, 6, 12])
def test_outputs_on_correlated_inputs_are_nearer_than_those_of_the_plain_factors(rank):
    whole, inputs = matrix(24, 40), correlated(200, 40)

    def error(moment: Tensor | None) -> float:
        widen, narrow = factors(whole, rank, moment)
        return float((inputs @ (widen @ narrow - whole).double().t()).square().sum())

    assert error(inputs.t() @ inputs / len(inputs)) < 0.95 * error(None)


def test_inputs_that_never_come_do_no_harm():
    widen, narrow = factors(matrix(8, 12), 3, torch.zeros(12, 12, dtype=torch.float64))
    assert bool(torch.isfinite(widen @ narrow).all())


@pytest.mark.parametrize("judge", [Factorise, FactoriseOutputs])
@pytest.mark.parametrize("family", TINY)
def test_a_model_whose_matrices_are_thin_already_answers_as_before(family, judge):
    """Matrices of rank 4 lose nothing at rank 8."""
    given = candidate(family)
    with torch.no_grad():
        for weight in given.paper.profile.weights():
            if weight.group in ("attention", "ffn") and weight.role == "matrix":
                tensor = given.module.get_parameter(weight.name)
                u, s, v = torch.linalg.svd(tensor, full_matrices=False)
                tensor.copy_(u[:, :4] @ s[:4].diag() @ v[:4])
    made = judge(0.5).apply(given, MemoryBench(given), 0)
    assert parameters(made.paper.profile) < parameters(given.paper.profile)
    np.testing.assert_allclose(logits_of(made), logits_of(given), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_module_is_the_papers_in_every_family(family):
    given = candidate(family)
    made = Factorise(0.5).apply(given, MemoryBench(given), 0)
    after = made.paper.profile
    shapes = {name: tuple(p.shape) for name, p in made.module.named_parameters()}
    assert shapes == {weight.name: weight.shape for weight in after.weights()}
    assert counted_flops(made.module, after) == forward_flops(after, 2, 8)
    assert forward_flops(after, 2, 8) < forward_flops(given.paper.profile, 2, 8)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_one_written_token_costs_what_the_paper_says(family):
    profile = Factorise(0.5).on_paper(Paper(profile_of(family, "language-modelling"))).profile
    module = build(profile, attention="eager", seed=0)
    ids = torch.arange(10)[None] + 4
    with torch.no_grad():
        past = module(input_ids=ids, use_cache=True).past_key_values
        with FlopCounterMode(display=False) as counter:
            module(input_ids=ids[:, :1], past_key_values=past, use_cache=True)
    assert counter.get_total_flops() == decode_flops(profile, 11)


@pytest.mark.parametrize(
    "patterns", [("*",), ("*narrow*",), ("*widen*",), ("*.1.*widen.bias",), ("*.2.*",)]
)
@pytest.mark.parametrize("family", TINY)
def test_the_backward_pass_costs_what_torch_counts(family, patterns):
    profile = Factorise(0.5).on_paper(Paper(profile_of(family))).profile
    module = build(profile, attention="eager", seed=0).train()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in patterns))
    ids = torch.arange(20).reshape(2, 10) % 39 + 4
    with FlopCounterMode(display=False) as counter:
        answer = module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        forward = counter.get_total_flops()
        if answer.requires_grad:
            answer.sum().backward()
    assert training_step_flops(profile, patterns, 2, 10) == (
        forward,
        counter.get_total_flops() - forward,
    )


@pytest.mark.parametrize("form", [None, "int8", "int4"])
@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
@pytest.mark.parametrize("family", TINY)
def test_thin_matrices_are_stored_and_answered_from(family, runtime, form, tmp_path: Path):
    given = candidate(family)
    made = Factorise(0.5).apply(given, MemoryBench(given), 0)
    expected = logits_of(made)
    if form is not None:
        formats = dict.fromkeys(("attention", "ffn"), Format(form))
        profile = made.paper.profile.with_formats(formats)
        made = replace(made, paper=replace(made.paper, profile=profile))
    row = RUNTIMES[runtime]
    assert not row.objections(made.paper, {}, Targets())
    row.steps(made.paper, {})[0].deploy(made, tmp_path, MemoryBench(made))
    runner = open_artifact(tmp_path)
    found = runner.logits(random_items(made.paper.profile, 4, 8, seed=7))
    assert bytes_written(runner.files()) == row.payload_bytes(made.paper.profile)
    runner.close()
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error < {None: 1e-5, "int8": 0.2, "int4": 0.7}[form]


def test_a_rank_that_saves_nothing_leaves_a_matrix_whole():
    """With grouped queries, keys and values are smaller than the query's rank is worth."""
    paper = Paper(replace(profile_of("llama"), layers=profile_of("llama").layers[:1]))
    layer = paper.profile.layers[0]
    attention = replace(layer.attention, heads=4, kv_heads=1)
    paper = replace(
        paper, profile=replace(paper.profile, layers=(replace(layer, attention=attention),))
    )
    after = Factorise(1.0, "attention").on_paper(paper).profile
    names = {weight.name for weight in after.weights()}
    assert "model.layers.0.self_attn.q_proj.narrow.weight" in names
    assert "model.layers.0.self_attn.k_proj.weight" in names
    assert after.layers[0].feed_forward == layer.feed_forward


@pytest.mark.parametrize(("inputs", "outputs"), [(32, 32), (384, 384), (384, 1536), (9, 1)])
def test_no_rank_that_is_chosen_makes_a_matrix_larger(inputs, outputs):
    most = largest_rank(inputs, outputs)
    assert most * (inputs + outputs) < inputs * outputs <= (most + 1) * (inputs + outputs)
    for keep in (0.01, 0.25, 0.5, 0.75, 0.99):
        assert rank_of(inputs, outputs, keep) <= most


def test_a_share_of_the_parameters_stays():
    paper = Paper(replace(profile_of("bert"), width=384))
    whole = [w for w in paper.profile.weights() if w.role == "matrix" and w.layer is not None]
    thin = Factorise(0.5).on_paper(paper).profile.weights()
    thin_count = sum(w.count for w in thin if w.role == "matrix" and w.layer is not None)
    assert thin_count == pytest.approx(0.5 * sum(w.count for w in whole), rel=0.05)


def test_the_first_layers_keep_more_with_a_slope():
    ranks = [
        layer.feed_forward.rank
        for layer in Factorise(0.5, slope=0.8).on_paper(Paper(profile_of("bert"))).profile.layers
    ]
    assert ranks == sorted(ranks, reverse=True)
    assert len(set(ranks)) > 1


def test_a_surrogate_sees_thin_matrices():
    paper = Paper(profile_of("bert"))

    def features(paper: Paper) -> dict[str, float]:
        return dict(zip(FEATURES, paper_features(Configuration(), paper), strict=True))

    whole, thin = features(paper), features(Factorise(0.5, "ffn").on_paper(paper))
    assert (whole["thin_ffn"], whole["thin_attention"], thin["thin_attention"]) == (0, 0, 0)
    # rank 8 of 32 x 64 keeps 8 x 96 of 2048
    assert thin["thin_ffn"] == pytest.approx(1 - 8 * 96 / 2048)
    for name in ("log_parameters", "log_flops", "log_bytes"):
        assert thin[name] < whole[name]


def objections(paper: Paper, targets: Targets | None = None, **changed: Any) -> str:
    row = TABLE["low_rank"]
    settings = {knob.name: knob.default for knob in row.hyperparameters(paper)} | changed
    return "; ".join(row.objections(paper, settings, targets or Targets()))


def test_plain_classes_cannot_hold_thin_matrices():
    paper = Paper(profile_of("llama"))
    assert plain_objection(Factorise(0.5).on_paper(paper).profile)
    (reason,) = hf_refusals(Factorise(0.5).on_paper(paper))
    assert "matrices are products of two thin ones; choose" in reason


def test_what_would_save_nothing_is_refused():
    paper = Paper(profile_of("bert"))
    assert "choose one in (0, 1)" in objections(paper, keep=1.0)
    bare = replace(paper.profile, layers=(replace(paper.profile.layers[0], feed_forward=None),))
    assert "choose structure none" in objections(Paper(bare), parts="ffn")


VIRTUAL = ("prompt", "prefix", "p_tuning")
"""Stand before the text, beside no matrix."""

ADAPTERS = [
    name for name, row in FINETUNING.items() if hasattr(row, "attach") and name not in VIRTUAL
]


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("method", ADAPTERS)
def test_adapters_refuse_thin_matrices_that_they_are_for(family, method):
    row, paper = FINETUNING[method], Paper(profile_of(family))
    everywhere = {"targets": "all-linear", "places": "houlsby"}

    def refused(paper: Paper, **changed: Any) -> str:
        knobs = {knob.name: knob.default for knob in row.hyperparameters(paper)}
        changed = {name: value for name, value in changed.items() if name in knobs}
        return "; ".join(row.objections(paper, knobs | changed, Targets()))

    for parts in ("attention", "ffn", "both"):
        thin = Factorise(0.5, parts, Phase.STRUCTURE_BEFORE).on_paper(paper)
        said = refused(thin, **everywhere)
        assert "products of two thin ones" in said
        assert "choose when: after" in said
    if "targets" in {knob.name for knob in row.hyperparameters(paper)}:
        thin = Factorise(0.5, "ffn", Phase.STRUCTURE_BEFORE).on_paper(paper)
        assert refused(thin, targets="attention") == refused(paper, targets="attention")


def test_sparse_matrices_are_not_cut():
    paper = ZeroSmallest(0.5).on_paper(Paper(profile_of("bert")))
    for name in ("heads", "ffn", "layers", "mixed", "width", "low_rank"):
        settings = {knob.name: knob.default for knob in TABLE[name].hyperparameters(paper)}
        (reason,) = TABLE[name].objections(paper, settings, Targets())
        assert "cut first" in reason
