"""Integers that a step chose reach the stored bytes in every runtime; how they are chosen."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from paretune.errors import DataError, StepFailed
from paretune.spaces import testing
from paretune.spaces.build import build
from paretune.spaces.candidate import Candidate, load_candidate, save_candidate
from paretune.spaces.configuration import Choice, Configuration
from paretune.spaces.families import FAMILIES, family_of
from paretune.spaces.finetuning import TABLE as FINETUNING
from paretune.spaces.load import Load
from paretune.spaces.lower import Subject, lower
from paretune.spaces.models import inspect_model, profile_of
from paretune.spaces.paper import Paper
from paretune.spaces.precision import TABLE
from paretune.spaces.precision.columns import output_error
from paretune.spaces.precision.fed import Fed, by_block
from paretune.spaces.precision.folds import fold, folds_of
from paretune.spaces.precision.rounding import Rounding
from paretune.spaces.precision.scaling import SHARES, awq_numbers, clipped, smooth_numbers
from paretune.spaces.profile import Format, Head, Profile, Weight
from paretune.spaces.recipe import Recipe
from paretune.spaces.runtimes import RUNTIMES, open_artifact
from paretune.spaces.runtimes.grid import extremes, grid_of, grouped, is_whole, rows_of
from paretune.spaces.runtimes.packing import packed, unpacked
from paretune.spaces.runtimes.payload import stored_format
from paretune.spaces.steps import Change, Deploy
from paretune.spaces.technique import Targets
from paretune.spaces.testing import (
    ContractBroken,
    MemoryBench,
    Specimen,
    cases_of,
    check_row,
    random_items,
)
from safetensors.torch import load_file

CHOOSE = ("gptq", "awq", "hqq")
"""Methods that choose integers."""

CLASSES = Head("classification", 3)
KINDS = {
    "bert": CLASSES,
    "gpt2": Head("language-modelling", 43, tied=True),
    "llama": Head("language-modelling", 43),
}
UNEVEN = ("bert", "gpt2", "llama", "qwen3")


def profile(family: str, head: Head = CLASSES) -> Profile:
    sizes: dict[str, Any] = {"vocab_size": 43, "initializer_range": 0.2, "pad_token_id": 0}
    sizes |= {"bos_token_id": 2, "eos_token_id": 3, "max_position_embeddings": 64}
    sizes |= {"hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 72}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    sizes |= {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 72}
    sizes |= {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
    if "roberta" in family:
        sizes["pad_token_id"] = 1
    return family_of(family).profile(sizes, head)


@lru_cache
def candidate(family: str, head: Head = CLASSES) -> Candidate:
    """A tiny model in which every bias and norm is drawn too: zeros would hide mistakes."""
    paper = Paper(profile(family, head), Recipe(train_items=8, epochs=1))
    module = build(paper.profile, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return Candidate(module, paper)


def told(method: str, on: Paper, **settings: Any) -> dict[str, Any]:
    return {knob.name: knob.default for knob in TABLE[method].hyperparameters(on)} | settings


def made(method: str, given: Candidate, **settings: Any) -> Candidate:
    """What a method makes of a candidate."""
    for step in TABLE[method].steps(given.paper, told(method, given.paper, **settings)):
        after = step.on_paper(given.paper)
        if isinstance(step, Change):
            given = step.apply(given, MemoryBench(given), 0)
        given = replace(given, paper=after)
    return given


def logits(model: Candidate) -> torch.Tensor:
    items = random_items(model.paper.profile, 4, 8, seed=5)
    ids, mask = torch.from_numpy(items.input_ids), torch.from_numpy(items.attention_mask)
    with torch.no_grad():
        found: torch.Tensor = model.module(input_ids=ids, attention_mask=mask).logits
    return found[mask == 1] if found.dim() == 3 else found


def whole(given: Candidate) -> list[Weight]:
    p = given.paper.profile
    return [weight for weight in p.weights() if is_whole(p, weight)]


def deploy(given: Candidate, runtime: str, folder):
    (step,) = RUNTIMES[runtime].steps(given.paper, {})
    assert isinstance(step, Deploy)
    folder.mkdir()
    step.deploy(given, folder, MemoryBench(given))
    return folder


def parts_of(given: Candidate, weight: Weight):
    p = given.paper.profile
    tensor = given.module.get_parameter(weight.name)
    return packed(p, weight, tensor, grid_of(given.grids, p, weight))


@pytest.mark.parametrize("bits", [4, 3])
@pytest.mark.parametrize("method", CHOOSE)
@pytest.mark.parametrize("family", list(KINDS))
def test_every_whole_weight_is_what_its_stored_parts_stand_for(family, method, bits):
    given = made(method, candidate(family, KINDS[family]), bits=bits, embeddings="int4")
    assert len(whole(given)) > 10
    for weight in whole(given):
        assert grid_of(given.grids, given.paper.profile, weight) is not None
        value = given.module.get_parameter(weight.name)
        assert torch.equal(unpacked(parts_of(given, weight), weight), value), weight.name


@pytest.mark.parametrize("method", CHOOSE)
@pytest.mark.parametrize("family", list(KINDS))
def test_integers_are_the_same_after_saving_and_loading(family, method, tmp_path):
    given = made(method, candidate(family, KINDS[family]))
    save_candidate(given, tmp_path)
    loaded = load_candidate(tmp_path)
    for weight in whole(given):
        one, other = parts_of(given, weight), parts_of(loaded, weight)
        assert all(torch.equal(one[part], other[part]) for part in one), weight.name


@pytest.mark.parametrize("method", CHOOSE)
@pytest.mark.parametrize("family", list(KINDS))
def test_both_runtimes_store_the_integers_that_were_chosen(family, method, tmp_path):
    given = made(method, candidate(family, KINDS[family]))
    eager = load_file(deploy(given, "eager", tmp_path / "eager") / "model.safetensors")
    model = onnx.load(deploy(given, "onnxruntime", tmp_path / "onnx") / "model.onnx")
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for weight in whole(given):
        for part, tensor in parts_of(given, weight).items():
            name = f"{weight.name}:{part}"
            assert torch.equal(eager[name], tensor), name
            assert np.array_equal(stored[name], tensor.numpy()), name


@pytest.mark.parametrize("method", CHOOSE)
@pytest.mark.parametrize("family", list(KINDS))
def test_bytes_do_not_depend_on_how_integers_are_chosen(family, method):
    plain = candidate(family, KINDS[family])
    chosen, nearest = made(method, plain).paper.profile, made("int4", plain).paper.profile
    for row in RUNTIMES.values():
        assert row.payload_bytes(chosen) == row.payload_bytes(nearest)


def test_without_a_grid_the_chosen_values_would_be_rounded_otherwise():
    given = made("gptq", candidate("bert"))
    bare = replace(given, grids={})
    differ = [w for w in whole(given) if not equal_parts(parts_of(given, w), parts_of(bare, w))]
    assert len(differ) > 10


def equal_parts(one, other) -> bool:
    return all(torch.equal(one[part], other[part]) for part in one)


def test_weights_that_left_their_grid_are_not_stored():
    given = made("gptq", candidate("bert"))
    (weight,) = [w for w in whole(given) if w.name.endswith("layer.1.intermediate.dense.weight")]
    p, grid = given.paper.profile, grid_of(given.grids, given.paper.profile, weight)
    value = given.module.get_parameter(weight.name).detach() * 1.001
    with pytest.raises(StepFailed, match="was changed after its integers were chosen") as caught:
        packed(p, weight, value, grid)
    assert caught.value.kind == "crashed"


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
@pytest.mark.parametrize("method", CHOOSE)
@pytest.mark.parametrize("family", list(KINDS))
def test_runtimes_answer_as_the_chosen_module_does(family, method, runtime, tmp_path):
    given = made(method, candidate(family, KINDS[family]))
    runner = open_artifact(deploy(given, runtime, tmp_path / runtime))
    items = random_items(given.paper.profile, 4, 8, seed=5)
    found, expected = torch.from_numpy(runner.logits(items)), logits(given)
    runner.close()
    if found.dim() == 3:
        found = found[torch.from_numpy(items.attention_mask) == 1]
    assert (found - expected).norm() < 0.2 * expected.norm()  # activations are rounded too


@pytest.mark.parametrize("head", ["fp32", "int3"])
def test_int3_answers_as_a_module_of_the_stored_weights_would(head, tmp_path):
    given = made("int3", candidate("llama", KINDS["llama"]), head=head)
    twin = build(given.paper.profile)
    with torch.no_grad():
        for weight in given.paper.profile.weights():
            stored = unpacked(parts_of(given, weight), weight)
            twin.get_parameter(weight.name).copy_(stored)
    runner = open_artifact(deploy(given, "eager", tmp_path / "eager"))
    items = random_items(given.paper.profile, 4, 8, seed=5)
    found = torch.from_numpy(runner.logits(items))[torch.from_numpy(items.attention_mask) == 1]
    expected = logits(replace(given, module=twin))
    assert (found - expected).norm() < 0.2 * expected.norm()


def test_what_cannot_hold_three_bits_says_so():
    paper = made("int3", candidate("bert")).paper
    (reason,) = RUNTIMES["onnxruntime"].objections(paper, {}, Targets())
    assert "cannot hold embeddings, attention, ffn in int3" in reason
    (reason,) = RUNTIMES["eager"].objections(paper, {}, Targets(("hf",)))
    assert "do not hold embeddings, attention, ffn in int3, only in fp32 or bf16" in reason
    assert not RUNTIMES["eager"].objections(paper, {}, Targets())


# What matrices are fed


def fed_of(given: Candidate):
    found: dict[str, Any] = {}
    by_block(given, MemoryBench(given), lambda weights, fed: found.update(fed))
    return found


def seen_by_hooks(given: Candidate) -> dict[str, torch.Tensor]:
    """What every matrix is fed in whole passes, padding left out: the slow and plain way."""
    rows: dict[str, list[torch.Tensor]] = {}
    mask = torch.ones(0)

    def note(name):
        def hook(_, args):
            real = mask.bool() if args[0].dim() == 3 else slice(None)
            rows.setdefault(name, []).append(args[0][real].double())

        return hook

    handles = [
        given.module.get_submodule(w.name.removesuffix(".weight")).register_forward_pre_hook(
            note(w.name)
        )
        for w in whole(given)
        if w.role == "matrix"
    ]
    for batch in MemoryBench(given).batches("calibration", batch=8):
        mask = torch.from_numpy(batch.attention_mask)
        with torch.no_grad():
            given.module(input_ids=torch.from_numpy(batch.input_ids), attention_mask=mask)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(found) for name, found in rows.items()}


def int4(given: Candidate) -> Candidate:
    """Every matrix declared in int4; a tied head has no format of its own."""
    tied = given.paper.profile.head.tied
    return made("int4", given) if tied else made("int4", given, head="int4")


@pytest.mark.parametrize("family", list(FAMILIES))
def test_block_by_block_every_matrix_is_fed_what_whole_passes_feed_it(family):
    given = int4(candidate(family))
    found, expected = fed_of(given), seen_by_hooks(given)
    assert found.keys() == expected.keys()
    for name, rows in expected.items():
        assert torch.allclose(found[name].gram, rows.t() @ rows, rtol=1e-4, atol=1e-4), name
        assert torch.allclose(found[name].total, rows.abs().sum(dim=0), rtol=1e-4), name
        largest = rows.abs().amax(dim=0)
        assert torch.allclose(found[name].largest.double(), largest, rtol=1e-4), name


@pytest.mark.parametrize("family", list(KINDS))
def test_a_block_is_fed_what_the_changed_blocks_before_it_let_through(family):
    given = int4(candidate(family, KINDS[family]))
    rounding, found = Rounding(given), {}

    def visit(weights, fed):
        found.update(fed)
        for weight in weights:
            rows = rounding.rows(weight)
            grid = extremes(rows, rounding.form(weight))
            rounding.put(weight, grid, grid.nearest(rows))

    by_block(rounding.candidate, MemoryBench(given), visit)
    expected = seen_by_hooks(rounding.candidate)
    family_paths = family_of(family)
    for layer in range(3):
        name = f"{family_paths.path('attention.query', layer)}.weight"
        rows = expected[name]
        assert torch.allclose(found[name].gram, rows.t() @ rows, rtol=1e-4, atol=1e-4), name


def test_layers_without_a_part_are_walked_through():
    first = profile("llama")
    layers = list(first.layers)
    layers[0] = replace(layers[0], attention=None)
    layers[1] = replace(layers[1], feed_forward=None)
    uneven = replace(first, layers=tuple(layers))
    given = Candidate(build(uneven, seed=0), Paper(uneven))
    for method in ("gptq", "awq", "smoothquant"):
        assert torch.isfinite(logits(made(method, given))).all()


def test_an_empty_calibration_split_is_an_error_that_says_what_to_do():
    class Empty(MemoryBench):
        def batches(self, split, **told):
            return iter(())

    given = int4(candidate("bert"))
    with pytest.raises(DataError, match="choose a precision that reads no data"):
        by_block(given, Empty(given), lambda weights, fed: None)


@pytest.mark.parametrize("method", ["gptq", "hqq"])
@pytest.mark.parametrize("adapter", ["lora", "ia3"])
def test_matrices_under_adapters_are_rounded_too(method, adapter):
    given = adapted(adapter)
    after = made(method, given)
    wrapped = [w for w in whole(after) if ".base_layer." in w.name]
    assert wrapped
    for weight in wrapped:
        value = after.module.get_parameter(weight.name)
        assert torch.equal(unpacked(parts_of(after, weight), weight), value)
        assert not torch.equal(value, given.module.get_parameter(weight.name))


def adapted(adapter: str) -> Candidate:
    given = candidate("bert")
    technique = FINETUNING[adapter]
    knobs = technique.hyperparameters(given.paper)
    settings = {knob.name: knob.default for knob in knobs} | {"merge": "keep"}
    for step in sorted(technique.steps(given.paper, settings), key=lambda step: step.phase):
        if isinstance(step, Change):
            given = step.apply(given, MemoryBench(given), 0)
    return given


@pytest.mark.parametrize("method", ["awq", "smoothquant"])
def test_channels_are_not_scaled_under_adapters(method):
    paper = adapted("lora").paper
    (reason,) = TABLE[method].objections(paper, told(method, paper), Targets())
    assert "merge the adapters" in reason


# Folds


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_fold_moves_weights_and_no_answer(family):
    given = candidate(family)
    after = Rounding(int4(given)).candidate
    axes = {w.name: w.input_axis for w in given.paper.profile.weights() if w.role == "matrix"}
    folds = [place for layer in range(3) for place in folds_of(given.paper.profile, layer)]
    for place in folds:
        fold(after.module, place, torch.linspace(2.0, 0.5, place.channels), axes)
    each = {"encoder": 1, "decoder": 3 if family == "gpt2" else 4}[family_of(family).kind]
    assert len(folds) == 3 * each
    assert torch.allclose(logits(given), logits(after), rtol=1e-3, atol=1e-4)
    moved = [
        name
        for name, value in after.module.named_parameters()
        if not torch.equal(value, given.module.get_parameter(name))
    ]
    for place in folds:
        assert {f"{path}.weight" for path in (place.maker, *place.readers)} <= set(moved)


@pytest.mark.parametrize("strength", [0.25, 0.75])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_smoothing_moves_weights_and_no_answer(family, strength):
    given = candidate(family)
    after = made("smoothquant", given, strength=strength)
    assert torch.allclose(logits(given), logits(after), rtol=1e-3, atol=1e-4)
    assert not after.grids


def test_at_half_strength_activations_and_weights_are_equally_large():
    # gpt2: what reads its second norm makes nothing that a later fold would scale
    given = made("smoothquant", candidate("gpt2"), strength=0.5)
    place = folds_of(given.paper.profile, 0)[2]
    fed = fed_of(given)
    rows = [
        rows_of(w, given.module.get_parameter(w.name))
        for w in whole(given)
        if w.name.removesuffix(".weight") in place.readers
    ]
    weights = torch.cat([part.abs() for part in rows]).amax(dim=0)
    assert torch.allclose(fed[f"{place.readers[0]}.weight"].largest, weights, rtol=1e-3)


@pytest.mark.parametrize("family", UNEVEN)
def test_what_matrices_are_fed_follows_a_fold(family):
    given = int4(candidate(family))
    rounding, foretold = Rounding(given), {}

    def choose(place, readers, fed):
        return torch.linspace(0.5, 2.0, place.channels)

    by_block(
        rounding.candidate,
        MemoryBench(given),
        lambda weights, fed: foretold.update(rounding.fold(weights, fed, choose)),
    )
    found = fed_of(rounding.candidate)
    for name, fed in foretold.items():
        assert torch.allclose(fed.gram, found[name].gram, rtol=1e-3, atol=1e-3), name
        assert torch.allclose(fed.largest, found[name].largest, rtol=1e-3, atol=1e-4), name


def test_numbers_of_a_fold_never_lose_against_none():
    given = int4(candidate("llama"))
    fed, p = fed_of(given), given.paper.profile
    named = {w.name: w for w in p.weights()}
    form = Format("int3", 32)
    for place in folds_of(p, 1):
        names = [f"{path}.weight" for path in place.readers]
        rows = [rows_of(named[n], given.module.get_parameter(n).detach()) for n in names]
        seen = [fed[name] for name in names]
        numbers = awq_numbers(place, [(r, form) for r in rows], seen)

        def error(columns, rows=rows, seen=seen):
            total = 0.0
            for part, one in zip(rows, seen, strict=True):
                grid = extremes(part * columns, form)
                change = grid.values(grid.nearest(part * columns)) / columns - part
                total += float(output_error(change, one.gram).sum())
            return total

        assert error(place.read(numbers)) <= error(torch.ones(place.read(numbers).shape))


def test_channels_that_are_silent_are_not_blown_up():
    place = folds_of(profile("llama"), 0)[0]
    rows, gram = torch.randn(8, 32, generator=torch.Generator().manual_seed(0)), torch.eye(32)
    total = torch.ones(32, dtype=torch.float64)
    total[3] = 0.0
    fed = Fed(gram.double(), total, total.float())
    for numbers in (
        awq_numbers(place, [(rows, Format("int4", 32))], [fed]),
        smooth_numbers(place, [(rows, Format("int8"))], [fed], 0.75),
    ):
        assert torch.isfinite(numbers).all()
        assert numbers.max() / numbers.min() <= 1000


@pytest.mark.parametrize("form", [Format("int4", 32), Format("int3", 64), Format("int8")], ids=str)
def test_cutting_extremes_loses_in_no_group(form):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 100, generator=generator) ** 3
    inputs = torch.randn(300, 100, generator=generator).double()
    gram = inputs.t() @ inputs
    grids = [clipped(rows, gram, form), extremes(rows, form)]
    blocks = torch.nn.functional.pad(gram, (0, 60, 0, 60))

    def error(grid):
        change = grouped(grid.values(grid.nearest(rows)) - rows, grid.size).double()
        parts = []
        for group in range(change.shape[1]):
            part = slice(group * grid.size, (group + 1) * grid.size)
            parts.append(output_error(change[:, group], blocks[part, part]))
        return torch.stack(parts, dim=1)

    one, other = (error(grid) for grid in grids)
    assert (one <= other * (1 + 1e-5)).all()
    assert one.sum() <= {"int8": 1.0, "int4": 0.99, "int3": 0.95}[form.name] * other.sum()
    assert SHARES[0] == 1.0


# Better than round to nearest


@pytest.mark.parametrize("family", list(KINDS))
@pytest.mark.parametrize("bits", [4, 3])
def test_the_first_blocks_outputs_are_nearer_than_after_round_to_nearest(family, bits):
    given = candidate(family, KINDS[family])
    nearest = made(f"int{bits}", given, embeddings="fp32")
    fed, p = fed_of(nearest), nearest.paper.profile
    better = {}
    for method in ("gptq", "awq"):
        chosen = made(method, given, bits=bits, embeddings="fp32")
        total = [0.0, 0.0]
        for weight in (w for w in whole(chosen) if w.layer == 0 and w.role == "matrix"):
            plain = rows_of(weight, given.module.get_parameter(weight.name).detach())
            grid = extremes(plain, stored_format(p, weight))
            kept = rows_of(weight, chosen.module.get_parameter(weight.name).detach())
            pairs = (kept, grid.values(grid.nearest(plain)))
            for place, rows in enumerate(pairs):
                total[place] += float(output_error(rows - plain, fed[weight.name].gram).sum())
        better[method] = total[0] / total[1]
    assert better["gptq"] < 0.8


# In its place among the other steps


@pytest.fixture(scope="module")
def subject(tiny_models) -> Subject:
    source = inspect_model(str(tiny_models["llama"]))
    p = profile_of(source, "language-modelling", 3)
    digests = {"model": "m", "train": "t", "calibration": "c"}
    return Subject(Load(source, p), p, Recipe(train_items=8, epochs=1), digests)


def graph(subject: Subject, method: str, **settings: Any):
    choice = Choice.of(method, **told(method, subject.paper, **settings))
    return lower(Configuration.of(precision=choice), subject)


@pytest.mark.parametrize("method", [*CHOOSE, "smoothquant"])
def test_formats_are_declared_before_integers_are_chosen(method, subject):
    nodes = graph(subject, method).nodes
    assert [node.slot for node in nodes] == ["model", "precision", "runtime"]
    assert dict(nodes[1].before.profile.formats)["ffn"].name.startswith("int")
    assert nodes[1].before == nodes[1].after


def test_every_setting_gives_another_key(subject):
    tried = [
        graph(subject, "gptq", **settings).nodes[1].key
        for settings in (
            {},
            {"bits": 3},
            {"group_size": 64},
            {"embeddings": "int8"},
            {"order": "given"},
        )
    ]
    tried += [graph(subject, "awq", rounding=how).nodes[1].key for how in ("nearest", "gptq")]
    tried += [graph(subject, "hqq").nodes[1].key]
    tried += [graph(subject, "smoothquant", strength=s).nodes[1].key for s in (0.25, 0.5)]
    assert len(set(tried)) == len(tried)


def test_the_suite_sees_grids_that_get_lost(monkeypatch):
    cases = cases_of(TABLE["hqq"], Specimen.of(candidate("bert")))[:1]
    check_row("saved_and_loaded_answers_are_equal", cases)
    monkeypatch.setattr(
        testing, "load_candidate", lambda folder: replace(load_candidate(folder), grids={})
    )
    with pytest.raises(ContractBroken, match="what was saved and loaded"):
        check_row("saved_and_loaded_answers_are_equal", cases)
