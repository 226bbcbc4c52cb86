"""int8 with ranges that were fixed beforehand: what they are, what a runtime makes of them."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from paretune.errors import DataError, StepFailed
from paretune.spaces.build import build
from paretune.spaces.candidate import Candidate, load_candidate, save_candidate
from paretune.spaces.configuration import Choice, Configuration
from paretune.spaces.families import family_of
from paretune.spaces.names import in_short
from paretune.spaces.paper import Paper
from paretune.spaces.precision import TABLE
from paretune.spaces.precision.ranges import Ends, beyond_of, entering_ranges
from paretune.spaces.profile import Head, Weight
from paretune.spaces.recipe import Recipe
from paretune.spaces.runtimes import RUNTIMES, open_artifact
from paretune.spaces.runtimes.entering import Range, range_of
from paretune.spaces.runtimes.packing import packed, unpacked
from paretune.spaces.runtimes.payload import stored_format
from paretune.spaces.specimen import payload_bytes as bytes_written
from paretune.spaces.steps import Change, Deploy
from paretune.spaces.technique import Targets
from paretune.spaces.testing import MemoryBench, random_items

HEADS = {
    "bert": Head("classification", 3),
    "distilbert": Head("classification", 3),
    "gpt2": Head("language-modelling", 43, tied=True),
    "llama": Head("language-modelling", 43),
}


@lru_cache
def candidate(family: str) -> Candidate:
    sizes: dict[str, Any] = {"vocab_size": 43, "initializer_range": 0.1, "pad_token_id": 0}
    sizes |= {"bos_token_id": 2, "eos_token_id": 3, "max_position_embeddings": 64}
    sizes |= {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 72}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    sizes |= {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 72}
    sizes |= {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    paper = Paper(family_of(family).profile(sizes, HEADS[family]), Recipe(train_items=8, epochs=1))
    return Candidate(build(paper.profile, seed=0), paper)


def made(method: str, on: Candidate, **settings: Any) -> Candidate:
    row = TABLE[method]
    told = {knob.name: knob.default for knob in row.hyperparameters(on.paper)} | settings
    for step in row.steps(on.paper, told):
        after = step.on_paper(on.paper)
        if isinstance(step, Change):
            on = step.apply(on, MemoryBench(on), 0)
        on = replace(on, paper=after)
    return on


def static(on: Candidate) -> list[Weight]:
    """The matrices that are declared int8_static."""
    profile = on.paper.profile
    found = [w for w in profile.weights() if stored_format(profile, w).name == "int8_static"]
    return [weight for weight in found if weight.role == "matrix"]


def deploy(on: Candidate, folder):
    (step,) = RUNTIMES["onnxruntime"].steps(on.paper, {})
    assert isinstance(step, Deploy)
    folder.mkdir()
    step.deploy(on, folder, MemoryBench(on))
    return folder


def entering(on: Candidate) -> dict[str, torch.Tensor]:
    """Every number of real tokens that enters each static matrix, by whole passes."""
    found: dict[str, list[torch.Tensor]] = {weight.name: [] for weight in static(on)}
    (batch,) = MemoryBench(on).batches("calibration", batch=16)
    mask = torch.from_numpy(batch.attention_mask)

    def hook(name):
        def note(_, args):
            (given,) = args
            if given.dim() == 3:
                given = given[mask == 1]
            elif len(given) == mask.numel():
                given = given[mask.flatten() == 1]
            found[name].append(given.flatten())

        return note

    handles = [
        on.module.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(hook(name))
        for name in found
    ]
    with torch.no_grad():
        on.module(input_ids=torch.from_numpy(batch.input_ids), attention_mask=mask)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}


@pytest.mark.parametrize("family", list(HEADS))
def test_at_100_a_range_is_from_the_smallest_to_the_largest_and_holds_zero(family):
    on = made("int8_static", candidate(family), **_head(family))
    seen = entering(on)
    assert len(seen) == len(static(on)) > 6
    for weight in static(on):
        found, numbers = range_of(on.grids, weight), seen[weight.name]
        assert found.low == pytest.approx(min(0.0, float(numbers.min())), rel=1e-5, abs=1e-6)
        assert found.high == pytest.approx(max(0.0, float(numbers.max())), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("share", [0.9, 0.99, 1.0])
def test_percentiles_are_exact_over_all_batches(share):
    numbers = torch.randn(7, 40, 9, generator=torch.Generator().manual_seed(0))
    ends = Ends(beyond_of(numbers.numel(), share) + 1, torch.device("cpu"))
    for part in numbers:
        ends.add(part)
    ordered = numbers.flatten().sort().values
    beyond = int(len(ordered) * (1 - share) / 2 + 1e-9)
    assert ends.within(share) == (float(ordered[beyond]), float(ordered[-1 - beyond]))


def test_a_lower_percentile_cuts_more_off():
    on = candidate("bert")
    weights = [w for w in on.paper.profile.weights() if w.role == "matrix" and w.layer is not None]
    found = [entering_ranges(on, MemoryBench(on), weights, share) for share in (0.9, 0.99, 1.0)]
    for name in found[0]:
        sizes = [high - low for low, high in (ranges[name] for ranges in found)]
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[-1]


def _head(family: str) -> dict[str, Any]:
    """Everything that can be static is."""
    return {} if HEADS[family].tied else {"head": "int8_static"}


@pytest.mark.parametrize("family", list(HEADS))
def test_every_matrix_is_one_integer_product_and_equal_inputs_are_rounded_once(family, tmp_path):
    on = made("int8_static", candidate(family), **_head(family))
    graph = onnx.load(deploy(on, tmp_path / "a") / "model.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("MatMulIntegerToFloat") == len(static(on))
    assert "MatMul" not in kinds
    layers = len(on.paper.profile.layers)
    outside = sum(weight.layer is None for weight in static(on))
    # what query, key and value read, what the output, up (and gate) and down do
    assert kinds.count("QuantizeLinear") == 4 * layers + outside


@pytest.mark.parametrize("family", list(HEADS))
def test_answers_are_those_of_a_module_that_rounds_alike_and_near_fp32(family, tmp_path):
    # the embeddings in fp32, or a tied head would round what it is fed for every batch
    on = made("int8_static", candidate(family), embeddings="fp32")
    module, profile = copy.deepcopy(on.module), on.paper.profile
    for weight in profile.weights():
        value = module.get_parameter(weight.name)
        value.data.copy_(unpacked(packed(profile, weight, value.detach()), weight))

    def rounding(found: Range):
        def hook(_, args):
            whole = torch.round(args[0] / found.step) + found.zero
            return ((whole.clamp(-128, 127) - found.zero) * found.step,)

        return hook

    for weight in static(on):
        path = weight.name.removesuffix(".weight")
        hook = rounding(range_of(on.grids, weight))
        module.get_submodule(path).register_forward_pre_hook(hook)
    items = random_items(profile, 4, 8, seed=7)
    ids, mask = torch.from_numpy(items.input_ids), torch.from_numpy(items.attention_mask)
    with torch.no_grad():
        rounded, plain = (
            m(input_ids=ids, attention_mask=mask).logits.numpy() for m in (module, on.module)
        )
    runner = open_artifact(deploy(on, tmp_path / "a"))
    answered = runner.logits(items)
    runner.close()
    real = items.attention_mask == 1 if plain.ndim == 3 else slice(None)
    size = np.abs(plain[real]).max()
    # where a number falls the other way when it is rounded, little moves
    assert np.abs(answered - rounded)[real].max() < 0.03 * size
    assert np.abs(answered - plain)[real].max() < 0.1 * size


def test_an_answer_does_not_depend_on_what_else_is_in_the_batch(tmp_path):
    items = random_items(candidate("bert").paper.profile, 6, 8, seed=3)
    alone = replace(items, input_ids=items.input_ids[:1], attention_mask=items.attention_mask[:1])
    moved = {}
    for method in ("int8", "int8_static"):
        runner = open_artifact(deploy(made(method, candidate("bert")), tmp_path / method))
        moved[method] = np.abs(runner.logits(items)[:1] - runner.logits(alone)).max()
        runner.close()
    assert moved["int8_static"] < 1e-5 < moved["int8"]


@pytest.mark.parametrize("family", list(HEADS))
def test_bytes_are_those_of_int8(family, tmp_path):
    row = RUNTIMES["onnxruntime"]
    on = made("int8_static", candidate(family))
    other = made("int8", candidate(family))
    runner = open_artifact(deploy(on, tmp_path / "a"))
    written = bytes_written(runner.files())
    runner.close()
    assert written == row.payload_bytes(on.paper.profile) == row.payload_bytes(other.paper.profile)


def test_ranges_survive_saving(tmp_path):
    on = made("int8_static", candidate("bert"))
    save_candidate(on, tmp_path)
    kept = load_candidate(tmp_path).grids
    assert all(range_of(kept, weight) == range_of(on.grids, weight) for weight in static(on))


@pytest.mark.parametrize("runtime", ["eager", "compiled"])
def test_other_runtimes_refuse_with_what_they_hold(runtime):
    paper = made("int8_static", candidate("bert")).paper
    start = f"{runtime} cannot hold attention, ffn in int8_static; it holds attention in bf16"
    found = RUNTIMES[runtime].objections(paper, {}, Targets())
    (said,) = [line for line in found if line.startswith(start)]
    assert said.endswith("choose one of these, or another runtime")


def test_what_else_cannot_hold_it_says_so():
    paper = made("int8_static", candidate("bert")).paper
    row = RUNTIMES["onnxruntime"]
    assert not row.objections(paper, {}, Targets())
    said = row.objections(paper, {}, Targets(formats=("hf",)))
    assert any(
        line.startswith("hf folders do not hold attention, ffn in int8_static") for line in said
    )
    found = row.objections(paper, {}, Targets(device="cuda:0"))
    assert any("multiplies int8_static on the CPU alone" in line for line in found)


def test_a_matrix_without_a_range_is_not_written(tmp_path):
    on = replace(made("int8_static", candidate("bert")), grids={})
    with pytest.raises(StepFailed, match="int8_static must be the last step"):
        deploy(on, tmp_path / "a")


def test_no_calibration_items_and_numbers_that_are_not_finite_are_errors():
    class Empty(MemoryBench):
        def batches(self, split, **_):
            return iter(())

    on = candidate("bert")
    declare, fix = TABLE["int8_static"].steps(
        on.paper, {"embeddings": "int8", "head": "fp32", "percentile": 100.0}
    )
    declared = replace(on, paper=declare.on_paper(on.paper))
    with pytest.raises(DataError, match="calibration split is empty; choose a precision"):
        fix.apply(declared, Empty(on), 0)
    broken = replace(declared, module=copy.deepcopy(on.module))
    broken.module.bert.embeddings.LayerNorm.weight.data.fill_(float("nan"))
    with pytest.raises(StepFailed, match="is not finite everywhere"):
        fix.apply(broken, MemoryBench(on), 0)


def test_a_range_without_width_stands_for_zero_alone():
    found = Range(0.0, 0.0)
    assert (found.step, found.zero) == (1.0, -128)


def test_it_is_called_by_its_name():
    told = {"embeddings": "int8", "percentile": 100.0}
    assert in_short(Configuration.of(precision=Choice.of("int8_static", **told))) == "int8 static"
