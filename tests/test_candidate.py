from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from paretune.errors import StorageFailed
from paretune.spaces.build import build
from paretune.spaces.candidate import Candidate, TrainState, load_candidate, save_candidate
from paretune.spaces.models import inspect_model, profile_of
from paretune.spaces.paper import Paper
from paretune.spaces.profile import Attention, FeedForward, Layer
from paretune.spaces.recipe import Loss, Recipe
from torch import Tensor


@pytest.fixture(params=["bert", "gpt2", "qwen2"])
def candidate(request, tiny_models: dict[str, Path]) -> Candidate:
    """An unevenly cut model with random weights."""
    profile = profile_of(inspect_model(str(tiny_models[request.param])), "classification", 3)
    groups = 1 if request.param == "qwen2" else 2
    gated = request.param == "qwen2"
    uneven = (Layer(Attention(2, groups, 8), FeedForward(40, gated)), profile.layers[1])
    profile = replace(profile, layers=uneven)
    recipe = Recipe(trainable=("*",), losses=(Loss("task"), Loss("logits", 0.5, 2.0)), teacher="k")
    return Candidate(build(profile, seed=1), Paper(profile, recipe))


def _logits(candidate: Candidate) -> Tensor:
    with torch.no_grad():
        return candidate.module(input_ids=torch.arange(20).reshape(2, 10) + 4).logits


def test_a_candidate_read_back_answers_alike_bit_for_bit(candidate, tmp_path):
    save_candidate(candidate, tmp_path)
    again = load_candidate(tmp_path)
    assert torch.equal(_logits(again), _logits(candidate))
    assert again.paper == candidate.paper
    assert again.train_state is None
    assert again.notes is None
    assert not again.module.training


def test_train_state_and_notes_come_back(candidate, tmp_path):
    name, parameter = next(iter(candidate.module.named_parameters()))
    moment = torch.randn_like(parameter)
    candidate.train_state = TrainState(
        17, {f"{name}/exp_avg": moment, f"{name}/step": torch.ones(())}
    )
    candidate.notes = {"heads": [[0, 1], [2]]}
    save_candidate(candidate, tmp_path)
    again = load_candidate(tmp_path)
    assert again.train_state is not None
    assert again.train_state.step == 17
    assert torch.equal(again.train_state.tensors[f"{name}/exp_avg"], moment)
    assert again.train_state.tensors[f"{name}/step"].shape == ()
    assert again.notes == {"heads": [[0, 1], [2]]}
    assert torch.equal(_logits(again), _logits(candidate))


def test_a_train_state_without_tensors_comes_back(candidate, tmp_path):
    candidate.train_state = TrainState(0, {})
    save_candidate(candidate, tmp_path)
    assert load_candidate(tmp_path).train_state == TrainState(0, {})


def test_a_tied_head_is_written_once(tiny_models, tmp_path):
    profile = profile_of(inspect_model(str(tiny_models["gpt2"])), "language-modelling", 0)
    save_candidate(Candidate(build(profile, seed=1), Paper(profile)), tmp_path)
    module = load_candidate(tmp_path).module
    assert module.lm_head.weight is module.transformer.wte.weight
    from safetensors import safe_open

    with safe_open(tmp_path / "weights.safetensors", "pt") as stored:
        assert set(stored.keys()) == {weight.name for weight in profile.weights()}


def test_a_transposed_view_is_written_as_it_reads(candidate, tmp_path):
    first = candidate.paper.profile.weights()[0].name
    parameter = candidate.module.get_parameter(first)
    parameter.data = parameter.data.t().contiguous().t()
    save_candidate(candidate, tmp_path)
    assert torch.equal(load_candidate(tmp_path).module.get_parameter(first), parameter)


@pytest.mark.parametrize("file", ["paper.json", "weights.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused(candidate, tmp_path, file):
    save_candidate(candidate, tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(StorageFailed, match="does not hold a whole candidate"):
        load_candidate(tmp_path)


@pytest.mark.parametrize("file", ["paper.json", "weights.safetensors"])
def test_a_cut_off_file_is_refused(candidate, tmp_path, file):
    save_candidate(candidate, tmp_path)
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StorageFailed, match="does not hold a whole candidate"):
        load_candidate(tmp_path)


def test_weights_that_are_not_the_papers_are_refused(candidate, tmp_path):
    save_candidate(candidate, tmp_path)
    paper = json.loads((tmp_path / "paper.json").read_text())
    paper["profile"]["head"]["outputs"] = 4
    (tmp_path / "paper.json").write_text(json.dumps(paper))
    with pytest.raises(StorageFailed, match="weights do not fit the paper: "):
        load_candidate(tmp_path)


def test_a_folder_that_is_not_there_cannot_be_written(candidate, tmp_path):
    with pytest.raises(StorageFailed, match="cannot write a candidate"):
        save_candidate(candidate, tmp_path / "missing")
