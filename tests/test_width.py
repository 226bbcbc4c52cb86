"""Fewer hidden channels: the same ones everywhere, chosen by weights or by activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paretune.spaces.build import build
from paretune.spaces.candidate import Candidate
from paretune.spaces.families import FAMILIES, family_of
from paretune.spaces.paper import Paper
from paretune.spaces.profile import Head, Profile, forward_flops
from paretune.spaces.runtimes import RUNTIMES, open_artifact
from paretune.spaces.runtimes.refusals import hf_refusals
from paretune.spaces.specimen import MemoryBench, counted_flops, logits_of, random_items
from paretune.spaces.structure import TABLE
from paretune.spaces.structure.width import PruneChannels, PruneQuietChannels
from paretune.spaces.technique import Targets

STEPS = (PruneChannels, PruneQuietChannels)


def profile_of(family: str) -> Profile:
    sizes = {"vocab_size": 43, "initializer_range": 0.2, "bos_token_id": 2, "eos_token_id": 3}
    sizes |= {"pad_token_id": 1 if "roberta" in family else 0, "max_position_embeddings": 64}
    sizes |= {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    sizes |= {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    sizes |= {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return family_of(family).profile(sizes, Head("classification", 3))


def candidate(family: str) -> Candidate:
    """A tiny model in which every bias and norm is drawn too: zeros would hide mistakes."""
    profile = profile_of(family)
    module = build(profile, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Candidate(module, Paper(profile))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_keeps_the_same_channels_and_nothing_else_goes(family, step):
    big = candidate(family)
    small = step(0.5).apply(big, MemoryBench(big), 0)
    kept = torch.tensor(small.notes["width"])
    assert len(kept) == 16
    old = dict(big.module.named_parameters())
    for weight in small.paper.profile.weights():
        expected = old[weight.name]
        for axis, (was, now) in enumerate(zip(expected.shape, weight.shape, strict=True)):
            if was != now:
                assert (was, now) == (32, 16)
                expected = expected.index_select(axis, kept)
        assert torch.equal(small.module.get_parameter(weight.name), expected)
    assert [layer.attention for layer in small.paper.profile.layers] == [
        layer.attention for layer in big.paper.profile.layers
    ]
    profile = small.paper.profile
    assert counted_flops(small.module, profile) == forward_flops(profile, 2, 8)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_channels_that_are_nothing_go_first(family, step):
    big = candidate(family)
    dead = torch.arange(0, 32, 4)
    with torch.no_grad():
        for weight in big.paper.profile.weights():
            narrow = PruneChannels(0.5).on_paper(big.paper).profile
            shape = {w.name: w.shape for w in narrow.weights()}[weight.name]
            for axis, (was, now) in enumerate(zip(weight.shape, shape, strict=True)):
                if was != now:
                    big.module.get_parameter(weight.name).index_fill_(axis, dead, 0.0)
    small = step(0.75).apply(big, MemoryBench(big), 0)
    assert small.notes["width"] == [c for c in range(32) if c % 4]


@pytest.mark.parametrize(
    "runtime",
    [pytest.param(n, marks=pytest.mark.slow) if n == "compiled" else n for n in RUNTIMES],
)
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_narrower_model_answers_in_every_runtime(family, runtime, tmp_path: Path):
    big = candidate(family)
    small = PruneChannels(0.5).apply(big, MemoryBench(big), 0)
    row = RUNTIMES[runtime]
    row.steps(small.paper, {})[0].deploy(small, tmp_path, MemoryBench(small))
    runner = open_artifact(tmp_path)
    found = runner.logits(random_items(small.paper.profile, 4, 8, seed=7))
    runner.close()
    expected = logits_of(small)
    assert np.abs(found - expected).max() < 1e-5 * max(1.0, np.abs(expected).max())


def objections(paper: Paper, targets: Targets | None = None, **changed: Any) -> str:
    row = TABLE["width"]
    settings = {knob.name: knob.default for knob in row.hyperparameters(paper)} | changed
    return "; ".join(row.objections(paper, settings, targets or Targets()))


def test_plain_classes_hold_it_only_where_heads_have_a_width_of_their_own():
    (reason,) = hf_refusals(PruneChannels(0.75).on_paper(Paper(profile_of("bert"))))
    assert "do not add up to the width 24" in reason
    assert not list(hf_refusals(PruneChannels(0.75).on_paper(Paper(profile_of("llama")))))
    assert "removes nothing" in objections(Paper(profile_of("bert")), keep=1.0)
