"""Sparsity: which weights become zero, that they stay zero, and that zeros are not stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paretune.spaces.build import build
from paretune.spaces.candidate import Candidate, load_candidate, save_candidate
from paretune.spaces.configuration import Configuration
from paretune.spaces.families import family_of
from paretune.spaces.finetuning import TABLE as FINETUNING
from paretune.spaces.paper import Paper
from paretune.spaces.paper_features import FEATURES, paper_features
from paretune.spaces.profile import Format, Head, Profile, Sparsity, Weight
from paretune.spaces.recipe import Recipe
from paretune.spaces.runtimes import RUNTIMES, open_artifact
from paretune.spaces.runtimes.packing import packed, unpacked
from paretune.spaces.runtimes.payload import parts, with_zeros
from paretune.spaces.runtimes.payload import payload_bytes as bytes_promised
from paretune.spaces.runtimes.sparse_packing import pack_bits, unpack_bits
from paretune.spaces.specimen import MemoryBench, logits_of, random_items
from paretune.spaces.specimen import payload_bytes as bytes_written
from paretune.spaces.steps import Amend, Train
from paretune.spaces.structure import TABLE
from paretune.spaces.structure.factors import damped
from paretune.spaces.structure.sparsity import ZeroAndMend, ZeroQuietest, ZeroSmallest
from paretune.spaces.structure.zeros import mask_of, scores_of, sparsegpt
from paretune.spaces.technique import Targets
from paretune.spaces.training import FinetuneStep, RecoverStep
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")

TINY = ("bert", "gpt2", "llama")
STEPS = (ZeroSmallest, ZeroQuietest, ZeroAndMend)
HALF, TWO_OF_FOUR = Sparsity(0.5), Sparsity(0.5, 4)
TRAINED = Recipe(trainable=("*",), train_items=8, epochs=2, batch=4, learning_rate=1e-2)


def profile_of(family: str) -> Profile:
    sizes = {"vocab_size": 43, "initializer_range": 0.2, "bos_token_id": 2, "eos_token_id": 3}
    sizes |= {"pad_token_id": 0, "max_position_embeddings": 64}
    sizes |= {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return family_of(family).profile(sizes, Head("classification", 3))


def candidate(family: str) -> Candidate:
    profile = profile_of(family)
    return Candidate(build(profile, seed=0), Paper(profile, TRAINED))


def correlated(tokens: int, width: int, seed: int = 0) -> Tensor:
    """Inputs that lie near a few directions, as hidden states do."""
    draw = torch.Generator().manual_seed(seed)
    few = torch.randn(tokens, width // 4, generator=draw, dtype=torch.float64)
    mix = torch.randn(width // 4, width, generator=draw, dtype=torch.float64)
    return few @ mix + 0.3 * torch.randn(tokens, width, generator=draw, dtype=torch.float64)


def matrix(rows: int, columns: int, seed: int = 9) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def rows_of(model: Candidate, weight: Weight) -> Tensor:
    tensor = model.module.get_parameter(weight.name).detach()
    return tensor if weight.input_axis == 1 else tensor.t()


def sparse_weights(model: Candidate) -> list[Weight]:
    profile = model.paper.profile
    return [weight for weight in profile.weights() if profile.zeros(weight)]


def is_two_of_four(rows: Tensor) -> bool:
    blocks = rows.reshape(len(rows), -1, 4)
    return bool(((blocks != 0).sum(dim=2) == 2).all())


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("family", TINY)
def test_every_row_holds_exactly_as_many_zeros_as_the_paper_says(family, step, share):
    big = candidate(family)
    made = step(share).apply(big, MemoryBench(big), 0)
    chosen = sparse_weights(made)
    assert {weight.group for weight in chosen} == {"attention", "ffn"}
    assert all(weight.layer is not None for weight in chosen)
    for weight in chosen:
        rows = rows_of(made, weight)
        wanted = int(share * rows.shape[1] + 0.5)
        assert set((rows == 0).sum(dim=1).tolist()) == {wanted}, weight.name


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("family", TINY)
def test_two_of_every_four_inputs_stay(family, step):
    big = candidate(family)
    made = step(0.5, "2:4", "ffn").apply(big, MemoryBench(big), 0)
    chosen = sparse_weights(made)
    assert {weight.group for weight in chosen} == {"ffn"}
    assert all(is_two_of_four(rows_of(made, weight)) for weight in chosen)


@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_what_stays_outranks_what_goes(rows, columns, seed):
    scores = matrix(rows, columns, seed).abs()
    for wanted in (Sparsity(0.3), HALF, Sparsity(0.7), TWO_OF_FOUR):
        stays = mask_of(scores, wanted)
        assert set((~stays).sum(dim=1).tolist()) == {wanted.zeros(columns)}
        size = wanted.block or columns
        for row, kept in zip(scores, stays, strict=True):
            for start in range(0, columns - columns % size, size):
                part, there = row[start : start + size], kept[start : start + size]
                if there.any() and not there.all():
                    assert part[there].min() >= part[~there].max()
        assert stays[:, columns - columns % size :].all()


def test_wandas_scores_are_size_times_the_norm_of_the_input():
    whole, inputs = matrix(5, 7), correlated(30, 7)
    squares = inputs.square().mean(dim=0)
    scores = scores_of(whole, squares)
    for i in range(5):
        for j in range(7):
            norm = sum(float(token[j]) ** 2 for token in inputs) ** 0.5 / 30**0.5
            assert float(scores[i, j]) == pytest.approx(abs(float(whole[i, j])) * norm)


def slow_sparsegpt(rows: Tensor, wanted: Sparsity, moment: Tensor, block: int):
    """Column by column, with the inverse of what is left of the moment taken anew each time."""
    values, kept = rows.double().clone(), damped(moment)
    stays = torch.ones_like(values, dtype=torch.bool)
    columns = values.shape[1]
    loss = [float(torch.linalg.inv(kept[j:, j:])[0, 0]) for j in range(columns)]
    for i in range(columns):
        size = wanted.block or block
        if i % size == 0:
            until = min(i + size, columns)
            zeros = wanted.zeros(until) - wanted.zeros(i)
            for row in range(len(values)):
                scores = {j: float(values[row, j]) ** 2 / loss[j] for j in range(i, until)}
                for j in sorted(scores, key=scores.__getitem__)[:zeros]:
                    stays[row, j] = False
        inverse = torch.linalg.inv(kept[i:, i:])
        for row in range(len(values)):
            if not stays[row, i]:
                values[row, i:] -= values[row, i] / inverse[0, 0] * inverse[0]
    return values * stays, stays


@pytest.mark.parametrize("wanted", [HALF, Sparsity(0.3), TWO_OF_FOUR], ids=str)
@pytest.mark.parametrize("block", [4, 8, 128])
def test_sparsegpt_equals_the_slow_direct_solution(wanted, block):
    whole, inputs = matrix(6, 18), correlated(60, 18)
    moment = inputs.t() @ inputs / len(inputs)
    values, stays = sparsegpt(whole, wanted, moment, block)
    expected, kept = slow_sparsegpt(whole, wanted, moment, block)
    assert torch.equal(stays, kept)
    torch.testing.assert_close(values.double(), expected, atol=1e-5, rtol=1e-5)


def test_the_last_weight_that_goes_is_made_up_for_as_well_as_can_be():
    """With one zero a row, the rest right of it is the least-squares answer."""
    whole, inputs = matrix(4, 8), correlated(40, 8)
    moment = damped(inputs.t() @ inputs / len(inputs))
    values, stays = sparsegpt(whole, Sparsity(1 / 8), moment - _damping(moment), block=8)
    for row in range(4):
        (gone,) = (~stays[row]).nonzero().flatten().tolist()
        free = list(range(gone + 1, 8))
        expected = whole[row].double().clone()
        expected[gone] = 0
        if free:
            given_up = float(whole[row, gone]) * moment[free, gone]
            expected[free] += torch.linalg.solve(moment[free][:, free], given_up)
        torch.testing.assert_close(values[row].double(), expected, atol=1e-5, rtol=1e-5)


def _damping(damped_moment: Tensor) -> Tensor:
    """What `damped` will add to a moment so that this one comes out."""
    mean = damped_moment.diagonal().mean() / 1.01
    return 0.01 * mean * torch.eye(len(damped_moment), dtype=damped_moment.dtype)


@pytest.mark.parametrize("wanted", [HALF, Sparsity(0.7), TWO_OF_FOUR], ids=str)
def test_on_correlated_inputs_each_judge_is_better_than_the_one_before(wanted):
    inputs = correlated(400, 32) * torch.linspace(0.1, 2, 32, dtype=torch.float64)
    whole = matrix(48, 32)
    moment = inputs.t() @ inputs / len(inputs)

    def error(values: Tensor) -> float:
        return float((inputs @ (values.double() - whole.double()).t()).square().sum())

    magnitude = error(whole * mask_of(scores_of(whole), wanted))
    wanda = error(whole * mask_of(scores_of(whole, moment.diagonal()), wanted))
    mended = error(sparsegpt(whole, wanted, moment)[0])
    assert mended < 0.6 * wanda
    assert wanda < 0.95 * magnitude


def test_zeroing_leaves_the_given_candidate_alone():
    big = candidate("bert")
    before = logits_of(big)
    made = ZeroAndMend(0.5).apply(big, MemoryBench(big), 0)
    assert np.array_equal(before, logits_of(big))
    assert not big.masks
    assert not np.allclose(before, logits_of(made))


@pytest.mark.parametrize("train", [FinetuneStep, RecoverStep])
@pytest.mark.parametrize("family", TINY)
def test_training_fills_no_zero_and_moves_the_rest(family, train):
    big = candidate(family)
    made = ZeroSmallest(0.5).apply(big, MemoryBench(big), 0)
    after = train().run(made, TRAINED.total_steps, MemoryBench(made), 0)
    for weight in sparse_weights(made):
        old, new = rows_of(made, weight), rows_of(after, weight)
        assert torch.equal(old == 0, new == 0)
        assert float((old != new).float().mean()) > 0.3
    assert after.masks.keys() == made.masks.keys()


def test_what_a_mask_holds_is_not_moved_by_weight_decay_either():
    """Values that are held need not be zero."""
    big = candidate("bert")
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    mask = torch.zeros(64, 32, dtype=torch.bool)
    mask[::2] = True
    recipe = replace(TRAINED, weight_decay=0.5)
    held = replace(big, masks={name: mask}, paper=replace(big.paper, recipe=recipe))
    after = FinetuneStep().run(held, recipe.total_steps, MemoryBench(held), 0)
    old, new = (model.module.get_parameter(name) for model in (held, after))
    assert torch.equal(old[~mask], new[~mask])
    assert not torch.isclose(old[mask], new[mask]).all()
    assert torch.equal(after.masks[name], mask)


def test_masks_survive_the_disk(tmp_path: Path):
    big = candidate("gpt2")
    made = ZeroSmallest(0.5).apply(big, MemoryBench(big), 0)
    save_candidate(made, tmp_path)
    again = load_candidate(tmp_path)
    assert again.masks.keys() == made.masks.keys() != set()
    assert all(torch.equal(again.masks[name], mask) for name, mask in made.masks.items())


def done(model: Candidate, technique: str, **changed: Any) -> Candidate:
    row = FINETUNING[technique]
    told = {knob.name: knob.default for knob in row.hyperparameters(model.paper)} | changed
    for step in sorted(row.steps(model.paper, told), key=lambda step: step.phase):
        if isinstance(step, Amend):
            model = replace(model, paper=step.on_paper(model.paper))
        elif isinstance(step, Train):
            model = step.run(model, TRAINED.total_steps, MemoryBench(model), 0)
        else:
            model = step.apply(model, MemoryBench(model), 0)
    return model


def test_a_merged_adapter_that_adds_is_refused_on_sparse_weights():
    big = candidate("bert")
    made = ZeroSmallest(0.5).apply(big, MemoryBench(big), 0)
    row = FINETUNING["lora"]
    told = {knob.name: knob.default for knob in row.hyperparameters(made.paper)}
    (reason,) = row.objections(made.paper, told, Targets())
    assert "choose merge: keep" in reason
    assert not row.objections(made.paper, {**told, "merge": "keep"}, Targets())
    assert not row.objections(big.paper, told, Targets())


@pytest.mark.parametrize(
    ("technique", "merge"), [("lora", "keep"), ("ia3", "keep"), ("ia3", "merge")]
)
def test_masks_follow_the_weights_that_an_adapter_wraps(technique, merge):
    big = candidate("bert")
    made = done(ZeroSmallest(0.5).apply(big, MemoryBench(big), 0), technique, merge=merge)
    names = {weight.name for weight in sparse_weights(made)}
    assert made.masks.keys() == names
    recipe = replace(TRAINED, trainable=("*",))
    made = replace(made, paper=replace(made.paper, recipe=recipe))
    after = RecoverStep().run(made, recipe.total_steps, MemoryBench(made), 0)
    for weight in sparse_weights(after):
        assert set((rows_of(after, weight) == 0).sum(dim=1).tolist()) == {weight.shape[1] // 2}


@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_eight_truths_a_byte_come_back(rows, columns, seed):
    mask = matrix(rows, columns, seed) > 0
    packed_bits = pack_bits(mask)
    assert packed_bits.shape == (rows, -(-columns // 8))
    assert torch.equal(unpack_bits(packed_bits, columns), mask)


WEIGHTS = (
    Weight("linear.weight", (24, 50), "ffn", "matrix", 0),
    Weight("conv.weight", (50, 24), "ffn", "matrix", 0, input_axis=0),
)


def declared(form: str, share: float) -> Profile:
    sparsity = (("ffn", Sparsity(share)),)
    head = Head("classification", 2)
    formats = (("ffn", Format(form)),)  # type: ignore[arg-type]
    return Profile("bert", 32, 10, 8, 2, (), head, formats=formats, sparsity=sparsity)  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", WEIGHTS, ids=lambda weight: weight.name)
@pytest.mark.parametrize("form", ["fp32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.7])
def test_a_sparse_weight_comes_back_as_a_dense_one_would(share, form, weight):
    profile = declared(form, share)
    rows = matrix(*(weight.shape[1 - weight.input_axis], weight.shape[weight.input_axis]))
    rows = rows * mask_of(rows.abs(), Sparsity(share))
    tensor = rows if weight.input_axis == 1 else rows.t().contiguous()
    found = packed(profile, weight, tensor)
    dense = packed(with_zeros(profile), weight, tensor)
    assert torch.equal(unpacked(found, weight), unpacked(dense, weight))
    assert unpacked(found, weight).is_contiguous()
    promised = parts(profile, weight)
    assert {part.name: part.shape for part in promised} == {
        name: tuple(tensor.shape) for name, tensor in found.items()
    }
    written = sum(tensor.nbytes for tensor in found.values())
    assert written == sum(part.bytes for part in promised)
    smaller = written < sum(tensor.nbytes for tensor in dense.values())
    mask = {"fp32": 1 / 32, "bf16": 1 / 16, "int8": 1 / 8, "int4": 1.0}[form]
    assert smaller == (share > mask)


def test_half_of_an_int8_matrix_takes_five_bits_a_weight_and_its_scales():
    weight = Weight("w", (64, 1024), "ffn", "matrix", 0)
    found = sum(part.bytes for part in parts(declared("int8", 0.5), weight))
    assert found == 64 * (1024 // 2 + 1024 // 8 + 4)


def test_a_row_with_zeros_to_spare_takes_as_many_bytes():
    weight, profile = WEIGHTS[0], declared("fp32", 0.5)
    tensor = torch.zeros(weight.shape)
    found = packed(profile, weight, tensor)
    assert found["plain"].shape == (24, 25)
    assert torch.equal(unpacked(found, weight), tensor)


def test_a_row_with_too_few_zeros_is_not_cut_short():
    with pytest.raises(ValueError, match=r"linear.weight: a row has 50 weights that are not zero"):
        packed(declared("fp32", 0.5), WEIGHTS[0], torch.ones(24, 50))


@pytest.mark.parametrize("pattern", ["any", "2:4"])
@pytest.mark.parametrize("form", ["fp32", "int8"])
@pytest.mark.parametrize("family", TINY)
def test_the_file_is_smaller_and_answers_alike(family, form, pattern, tmp_path: Path):
    big = candidate(family)
    made = ZeroSmallest(0.5, pattern).apply(big, MemoryBench(big), 0)
    profile = made.paper.profile.with_formats(
        dict.fromkeys(("attention", "ffn"), Format(form))  # type: ignore[arg-type]
    )
    made = replace(made, paper=replace(made.paper, profile=profile))
    answers = {}
    for name in ("eager", "onnxruntime"):
        row, folder = RUNTIMES[name], tmp_path / name
        folder.mkdir()
        row.steps(made.paper, {})[0].deploy(made, folder, MemoryBench(made))
        runner = open_artifact(folder)
        answers[name] = runner.logits(random_items(profile, 4, 8, seed=7))
        assert bytes_written(runner.files()) == row.payload_bytes(profile)
        runner.close()
    assert RUNTIMES["onnxruntime"].payload_bytes(profile) == bytes_promised(with_zeros(profile))
    assert bytes_promised(profile) < bytes_promised(with_zeros(profile))
    scale = np.abs(logits_of(made)).max()
    assert np.abs(answers["eager"] - answers["onnxruntime"]).max() < 0.2 * scale
    if form == "fp32":
        assert np.array_equal(answers["eager"], logits_of(made))


def test_targets_that_store_zeros_are_refused():
    paper = ZeroSmallest(0.5).on_paper(Paper(profile_of("bert")))
    eager = RUNTIMES["eager"]
    assert any("leave hf out" in r for r in eager.objections(paper, {}, Targets(("hf",))))
    assert any("onnxruntime" in r for r in eager.objections(paper, {}, Targets(("onnx",))))
    assert not RUNTIMES["onnxruntime"].objections(paper, {}, Targets(("onnx",)))


def test_a_surrogate_sees_zeros_in_the_bytes():
    paper = Paper(profile_of("bert"))

    def features(paper: Paper) -> dict[str, float]:
        return dict(zip(FEATURES, paper_features(Configuration(), paper), strict=True))

    whole, thin = features(paper), features(ZeroSmallest(0.5, "2:4", "ffn").on_paper(paper))
    assert {name for name in FEATURES if whole[name] != thin[name]} == {"sparsity_ffn", "log_bytes"}
    assert thin["log_bytes"] < whole["log_bytes"]


def test_two_of_four_is_a_half():
    row, paper = TABLE["sparsity"], Paper(profile_of("bert"))
    told = {knob.name: knob.default for knob in row.hyperparameters(paper)}
    assert not row.objections(paper, {**told, "pattern": "2:4"}, Targets())
    (reason,) = row.objections(paper, {**told, "pattern": "2:4", "share": 0.3}, Targets())
    assert "choose 0.5" in reason
