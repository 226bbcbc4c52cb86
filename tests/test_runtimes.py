from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paretune.errors import VerificationFailed
from paretune.spaces.build import build
from paretune.spaces.candidate import Candidate
from paretune.spaces.families import FAMILIES, family_of
from paretune.spaces.finetuning import TABLE as FINETUNING
from paretune.spaces.paper import Paper
from paretune.spaces.profile import GROUPS, Format, Head, Profile, Weight
from paretune.spaces.runtimes import OFF, RUNTIMES, TABLE, open_artifact, verify_files
from paretune.spaces.runtimes import onnx_graph as onnx_graph_file
from paretune.spaces.runtimes.compiler import compiler_problem
from paretune.spaces.runtimes.packed_layers import Int8Linear, has_int8_product, wide_product
from paretune.spaces.runtimes.packing import pack_int8, packed, unpacked
from paretune.spaces.runtimes.runtime import Runtime
from paretune.spaces.specimen import MemoryBench, logits_of, random_items, tensors
from paretune.spaces.specimen import payload_bytes as bytes_written
from paretune.spaces.steps import Deploy
from paretune.spaces.task import Batch
from paretune.spaces.technique import Targets

DECODERS = [name for name, family in FAMILIES.items() if family.kind == "decoder"]
CLASSES = Head("classification", 3)
HEADS = {
    "classes": CLASSES,
    "language": Head("language-modelling", 43),
    "tied": Head("language-modelling", 43, tied=True),
}
MODELS = [(family, "classes") for family in FAMILIES]
MODELS += [(family, head) for family in DECODERS for head in ("language", "tied")]
INNER = ("embeddings", "attention", "ffn", "head")
MIXES = {
    "fp32": {},
    "bf16": dict.fromkeys(GROUPS, Format("bf16")),
    "int8": dict.fromkeys(INNER, Format("int8")),
    "int4": dict.fromkeys(INNER, Format("int4", 32)),
    "int3": dict.fromkeys(INNER, Format("int3", 64)),
    "fp16": dict.fromkeys(INNER, Format("fp16")),
    "whole numbers": {
        "embeddings": Format("int4", 64),
        "attention": Format("int8"),
        "ffn": Format("int4", 128),
    },
    "bf16 inside": {
        "attention": Format("bf16"),
        "ffn": Format("int8"),
        "embeddings": Format("int4"),
    },
    "bf16 outside": {"norm": Format("bf16"), "embeddings": Format("int8"), "ffn": Format("int4")},
}
WORKING = [name for name in RUNTIMES if name != "compiled" or compiler_problem() is None]
INTEGERS = [name for name, row in RUNTIMES.items() if {"int8", "int4"} <= row.holds["ffn"]]
LARGEST_ERROR = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 0.1, "int8": 0.2}
"""Of the logits, against the largest: these models are 32 wide, so that little is averaged out."""


def profile_of(family: str, head: Head, **config) -> Profile:
    sizes = {"vocab_size": 43, "initializer_range": 0.2, "bos_token_id": 2, "eos_token_id": 3}
    sizes |= {"pad_token_id": 1 if "roberta" in family else 0, "max_position_embeddings": 64}
    sizes |= {"hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 64}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    sizes |= {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64}
    sizes |= {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
    return family_of(family).profile({**sizes, **config}, head)


@lru_cache
def candidate(family: str, head: str = "classes") -> Candidate:
    profile = profile_of(family, HEADS[head])
    return Candidate(build(profile, seed=0), Paper(profile))


def declared(given: Candidate, mix: str) -> Candidate:
    profile = given.paper.profile.with_formats(MIXES[mix])
    return Candidate(given.module, replace(given.paper, profile=profile))


def deploy(given: Candidate, runtime: str, folder: Path) -> Path:
    (step,) = RUNTIMES[runtime].steps(given.paper, {})
    assert isinstance(step, Deploy)
    assert step.on_paper(given.paper).runtime == runtime
    step.deploy(given, folder, MemoryBench(given))
    return folder


def answers(given: Candidate, runtime: str, folder: Path) -> np.ndarray:
    runner = open_artifact(deploy(given, runtime, folder))
    found = runner.logits(random_items(given.paper.profile, 4, 8, seed=7))
    runner.close()
    return found


def refused(given: Candidate, runtime: str, *formats: str) -> list[str]:
    return RUNTIMES[runtime].objections(given.paper, {}, Targets(formats))


def error_of(found: np.ndarray, expected: np.ndarray, given: Candidate) -> float:
    if found.ndim == 3:  # what is answered at padding is nobody's concern
        real = random_items(given.paper.profile, 4, 8, seed=7).attention_mask == 1
        found, expected = found[real], expected[real]
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_the_off_row_is_a_row_that_deploys():
    assert OFF == "eager"
    assert TABLE is RUNTIMES
    assert list(RUNTIMES) == ["eager", "compiled", "onnxruntime"]
    assert all(isinstance(row, Runtime) for row in RUNTIMES.values())


@pytest.mark.parametrize(("family", "head"), MODELS)
def test_eager_answers_what_the_module_answers_bit_for_bit(family, head, tmp_path):
    given = candidate(family, head)
    assert np.array_equal(answers(given, "eager", tmp_path), logits_of(given))


@pytest.mark.parametrize(("family", "head"), MODELS)
def test_onnxruntime_answers_what_the_module_answers(family, head, tmp_path):
    given = candidate(family, head)
    assert error_of(answers(given, "onnxruntime", tmp_path), logits_of(given), given) < 1e-5


@pytest.mark.parametrize("mix", list(MIXES))
@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("bert", "classes"),
        ("distilbert", "classes"),
        ("gpt2", "tied"),
        ("gpt2", "classes"),
        ("llama", "language"),
        ("llama", "tied"),
        ("qwen3", "classes"),
    ],
)
def test_the_payload_on_paper_is_the_payload_in_the_files(family, head, mix, tmp_path):
    given = declared(candidate(family, head), mix)
    for name, row in RUNTIMES.items():
        if not refused(given, name):
            folder = tmp_path / name
            folder.mkdir()
            runner = row.open(deploy(given, name, folder))
            assert bytes_written(runner.files()) == row.payload_bytes(given.paper.profile), name


@pytest.mark.parametrize(
    ("runtime", "mix"),
    [
        ("eager", "bf16"),
        ("eager", "fp16"),
        ("eager", "int8"),
        ("onnxruntime", "fp16"),
        ("onnxruntime", "int8"),
    ],
)
@pytest.mark.parametrize(("family", "head"), MODELS)
def test_fewer_bits_stay_close(family, head, mix, runtime, tmp_path):
    given = declared(candidate(family, head), mix)
    assert not refused(given, runtime)
    found = answers(given, runtime, tmp_path)
    assert found.dtype == np.float32
    assert error_of(found, logits_of(given), given) < LARGEST_ERROR[mix]


@pytest.mark.parametrize("runtime", INTEGERS)
@pytest.mark.parametrize(("family", "head"), [("bert", "classes"), ("gpt2", "tied")])
def test_int4_answers_as_a_plain_module_of_the_stored_weights_would(
    family, head, runtime, tmp_path
):
    given = declared(candidate(family, head), "int4")
    profile = given.paper.profile
    twin = build(profile)
    with torch.no_grad():
        for weight in profile.weights():
            value = given.module.get_parameter(weight.name)
            stored = unpacked(packed(profile, weight, value), weight)
            twin.get_parameter(weight.name).copy_(stored)
    found = answers(given, runtime, tmp_path)
    assert error_of(found, logits_of(Candidate(twin, given.paper)), given) < 0.1


def test_bf16_computes_in_bf16_from_end_to_end(tmp_path):
    given = declared(candidate("bert"), "bf16")
    runner = open_artifact(deploy(given, "eager", tmp_path))
    assert {p.dtype for p in runner._module.parameters()} == {torch.bfloat16}
    seen = []
    for layer in runner._module.modules():
        layer.register_forward_hook(lambda _, __, out: seen.append(getattr(out, "dtype", None)))
    runner.logits(random_items(given.paper.profile, 2, 8, seed=1))
    assert {dtype for dtype in seen if dtype is not None} == {torch.bfloat16}


@pytest.mark.parametrize("mix", ["int8", "int4"])
def test_packed_weights_are_not_resident_in_fp32(mix, tmp_path):
    given = declared(candidate("gpt2", "language"), mix)
    runner = open_artifact(deploy(given, "eager", tmp_path))
    held = [*runner._module.parameters(), *runner._module.buffers()]
    assert all(tensor.ndim < 2 for tensor in held if tensor.dtype == torch.float32)
    assert not any(tensor.is_meta for tensor in held)


def test_an_int8_product_is_exact_where_every_number_is_whole():
    rng = torch.Generator().manual_seed(0)
    weights = torch.randint(-127, 128, (16, 64), generator=rng).float()
    weights[:, 0] = 127
    hidden = torch.randint(0, 256, (300, 64), generator=rng).float()
    hidden[:, 0], hidden[:, 1] = 0, 255
    parts = pack_int8(weights)
    linear = Int8Linear(parts["int8"], parts["scale"], None)
    expected = hidden @ weights.t()
    assert torch.allclose(linear(hidden), expected, rtol=1e-5, atol=0.5)


@pytest.mark.parametrize("inner", [40, 1024, 1032, 3072])
@pytest.mark.parametrize("largest", [False, True])
def test_both_int8_products_agree(inner: int, largest: bool):
    rng = torch.Generator().manual_seed(0)
    shape = (24, inner)
    left, right = (torch.randint(-128, 128, shape, generator=rng) for _ in "ab")
    if largest:  # the sum of these is no whole number of fp32 from 1,041 on
        left, right = torch.full(shape, -127), torch.full(shape, 127)
    exact = left @ right.t()
    product = wide_product(left.to(torch.int8), right.to(torch.int8).t())
    assert torch.equal(product.to(torch.int64), exact)
    if has_int8_product():
        fast = torch._int_mm(left.to(torch.int8), right.to(torch.int8).t())
        assert torch.equal(fast.to(torch.int64), exact)


def uneven(layers):
    first, second, third = layers
    half = replace(first.attention, heads=2, kv_heads=first.attention.kv_heads // 2)
    narrow = replace(second.feed_forward, width=37)
    return (
        replace(first, attention=half),
        replace(second, feed_forward=narrow, attention=None),
        replace(third, feed_forward=None),
    )


@pytest.mark.parametrize("family", list(FAMILIES))
def test_layers_of_their_own_sizes_deploy_to_every_runtime(family, tmp_path):
    profile = profile_of(family, CLASSES)
    profile = replace(profile, layers=uneven(profile.layers))
    given = Candidate(build(profile, seed=0), Paper(profile))
    for runtime, mix in (("eager", "int4"), ("onnxruntime", "fp32"), ("onnxruntime", "int4")):
        folder = tmp_path / f"{runtime} {mix}"
        folder.mkdir()
        found = answers(declared(given, mix), runtime, folder)
        assert error_of(found, logits_of(given), given) < (1e-5 if mix == "fp32" else 3)


@pytest.mark.parametrize(
    "config",
    [
        {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
        {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
        {"sliding_window": 3},
    ],
    ids=["linear", "llama3", "yarn", "window"],
)
def test_positions_of_every_kind_reach_the_graph(config, tmp_path):
    family = "mistral" if "sliding_window" in config else "llama"
    profile = profile_of(family, HEADS["language"], **config)
    given = Candidate(build(profile, seed=0), Paper(profile))
    assert error_of(answers(given, "onnxruntime", tmp_path), logits_of(given), given) < 1e-5


def test_a_rotation_that_follows_the_length_is_refused():
    scaling = {"rope_type": "dynamic", "factor": 4.0}
    paper = Paper(profile_of("llama", CLASSES, rope_scaling=scaling))
    (reason,) = RUNTIMES["onnxruntime"].objections(paper, {}, Targets())
    assert "no 'dynamic' rotations" in reason


def test_an_unknown_activation_is_refused():
    paper = Paper(profile_of("bert", CLASSES, hidden_act="mish"))
    (reason,) = RUNTIMES["onnxruntime"].objections(paper, {}, Targets())
    assert "no activation 'mish'" in reason


def test_a_format_that_is_not_held_is_refused_with_those_that_are():
    (reason,) = refused(declared(candidate("bert"), "bf16"), "onnxruntime")
    assert "in bf16; it holds embeddings in fp16, fp32, int4, int8" in reason
    assert not refused(declared(candidate("bert"), "bf16"), "eager")


def test_a_format_of_a_group_without_weights_is_no_matter():
    given = candidate("bert")
    profile = given.paper.profile.with_formats({"adapter": Format("bf16")})
    for row in RUNTIMES.values():
        plain = row.objections(Paper(given.paper.profile), {}, Targets())
        assert row.objections(Paper(profile), {}, Targets()) == plain


def test_what_a_target_cannot_hold_is_refused_in_every_runtime():
    whole, packed = candidate("bert"), declared(candidate("bert"), "int8")
    assert not refused(whole, "eager", "hf", "onnx")
    assert not refused(packed, "eager", "onnx")
    for runtime in RUNTIMES:
        assert any(
            "in int8, only in fp32 or bf16; choose" in reason
            for reason in refused(packed, runtime, "hf")
        )
    assert refused(declared(whole, "bf16"), "eager", "onnx")


def adapted(family: str, method: str, *, seed: int = 0) -> Candidate:
    given, technique = candidate(family), FINETUNING[method]
    knobs = technique.hyperparameters(given.paper)
    settings = {knob.name: knob.default for knob in knobs} | {"merge": "keep"}
    for step in sorted(technique.steps(given.paper, settings), key=lambda step: step.phase):
        if hasattr(step, "apply"):
            given = step.apply(given, MemoryBench(given), seed)
    generator = torch.Generator().manual_seed(seed)
    for weight in given.paper.profile.weights():
        if weight.group == "adapter":
            given.module.get_parameter(weight.name).data.normal_(0, 0.2, generator=generator)
    return given


@pytest.mark.parametrize("method", ["lora", "ia3"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_adapters_stay_unmerged_in_eager_and_are_refused_elsewhere(family, method, tmp_path):
    given = adapted(family, method)
    assert np.array_equal(answers(given, "eager", tmp_path), logits_of(given))
    assert f"{method} adapter" in refused(given, "onnxruntime")[0]


@pytest.mark.parametrize("formats", [{"attention": "int8", "ffn": "int4"}, "bf16"])
def test_adapters_answer_beside_packed_weights(formats, tmp_path):
    given = adapted("bert", "lora")
    chosen = dict.fromkeys(GROUPS, formats) if isinstance(formats, str) else formats
    forms = {group: Format(name) for group, name in chosen.items()}
    profile = given.paper.profile.with_formats(forms)
    given = Candidate(given.module, Paper(profile))
    assert not refused(given, "eager")
    assert error_of(answers(given, "eager", tmp_path), logits_of(given), given) < 0.5


def test_adapters_of_another_type_than_the_hidden_states_are_refused():
    given = adapted("bert", "lora")
    profile = given.paper.profile.with_formats({"adapter": Format("bf16")})
    (reason,) = RUNTIMES["eager"].objections(Paper(profile), {}, Targets())
    assert "adapters in bf16 beside hidden states in fp32" in reason


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("head", ["language", "tied"])
def test_continuations_are_those_of_reading_everything_anew(family, head, tmp_path):
    given = candidate(family, head)
    items = random_items(given.paper.profile, 4, 8, seed=7)
    expected = []
    for ids, mask in zip(items.input_ids, items.attention_mask, strict=True):
        text = ids[mask == 1].tolist()
        for _ in range(6):
            with torch.no_grad():
                logits = given.module(input_ids=torch.tensor([text])).logits
            text.append(int(logits[0, -1].argmax()))
        expected.append(text[-6:])
    for runtime in WORKING:
        folder = tmp_path / runtime
        folder.mkdir()
        runner = open_artifact(deploy(given, runtime, folder))
        assert runner.generate(items, 6).tolist() == expected, runtime


def passes(runner: Any, items: Batch, tokens: int) -> list[tuple[int, int]]:
    """Positions that each pass of a runner reads while it writes, and those it gives logits of."""
    seen, run = [], getattr(runner, "_run", None)

    def watched(ids, mask):
        answer = run(ids, mask)
        seen.append((ids.shape[1], answer.shape[1]))
        return answer

    def hook(module, args, told, answer):
        seen.append((told["input_ids"].shape[1], answer.logits.shape[1]))

    if run is None:
        runner._module.register_forward_hook(hook, with_kwargs=True)
    else:
        runner._run = watched
    runner.generate(items, tokens)
    return seen


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_a_runtime_says_whether_it_writes_with_a_cache(runtime, tmp_path):
    given = candidate("gpt2", "language")
    items = random_items(given.paper.profile, 4, 8, seed=7)
    items = replace(items, attention_mask=np.ones_like(items.attention_mask))
    expected = [(8, 1), (1, 1), (1, 1)] if RUNTIMES[runtime].caches else [(8, 8), (9, 9), (10, 10)]
    assert passes(open_artifact(deploy(given, runtime, tmp_path)), items, 3) == expected


@pytest.mark.parametrize(
    "runtime",
    [pytest.param(n, marks=pytest.mark.slow) if n == "compiled" else n for n in RUNTIMES],
)
def test_continuations_do_not_depend_on_the_side_of_the_padding(runtime, tmp_path):
    runner = open_artifact(deploy(candidate("gpt2", "tied"), runtime, tmp_path))
    items = random_items(candidate("gpt2", "tied").paper.profile, 2, 8, seed=7)
    left = replace(
        items,
        input_ids=np.roll(items.input_ids[1:], 3, axis=1),
        attention_mask=np.roll(items.attention_mask[1:], 3, axis=1),
    )
    assert runner.generate(left, 4).tolist() == runner.generate(items, 4)[1:].tolist()


@pytest.mark.parametrize("runtime", INTEGERS)
def test_any_batch_and_length_is_answered_the_same_each_time(runtime, tmp_path):
    given = declared(candidate("bert"), "int8")
    runner = open_artifact(deploy(given, runtime, tmp_path), threads=1)
    for batch, tokens in ((1, 1), (3, 5), (2, 64)):
        items = random_items(given.paper.profile, batch, max(tokens, 4), seed=batch)
        first = runner.logits(items)
        assert first.shape == (batch, 3)
        assert np.array_equal(first, runner.logits(items))


@pytest.mark.parametrize("runtime", INTEGERS)
def test_deploying_leaves_the_candidate_as_it_was(runtime, tmp_path):
    given = declared(candidate("gpt2", "tied"), "int8")
    before, state = tensors(given.module), torch.get_rng_state()
    answers(given, runtime, tmp_path)
    after = tensors(given.module)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_a_closed_runner_says_so(runtime, tmp_path):
    given = candidate("bert")
    runner = open_artifact(deploy(given, runtime, tmp_path))
    runner.close()
    with pytest.raises(RuntimeError, match="open the artifact again"):
        runner.logits(random_items(given.paper.profile, 1, 8, seed=0))


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_the_description_names_every_file(runtime, tmp_path):
    deploy(candidate("bert"), runtime, tmp_path)
    body = json.loads((tmp_path / "artifact.json").read_text())
    assert (body["format"], body["runtime"], body["task_kind"]) == (1, runtime, "classification")
    runner = open_artifact(tmp_path)
    assert {path.name for path in runner.files()} == set(body["files"])
    assert verify_files(tmp_path).runtime == runtime
    for path in runner.files():
        assert body["files"][path.name]["bytes"] == path.stat().st_size


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_a_flipped_bit_is_caught_by_name(runtime, tmp_path):
    deploy(candidate("bert"), runtime, tmp_path)
    path = max(tmp_path.iterdir(), key=lambda file: file.stat().st_size)
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    with pytest.raises(VerificationFailed, match=path.name):
        verify_files(tmp_path)


def test_a_missing_or_shortened_file_is_caught_by_name(tmp_path):
    path = deploy(candidate("bert"), "eager", tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VerificationFailed, match=r"model\.safetensors has \d+ bytes instead"):
        verify_files(tmp_path)
    with pytest.raises(VerificationFailed, match="cannot open"):
        open_artifact(tmp_path)
    path.unlink()
    with pytest.raises(VerificationFailed, match=r"model\.safetensors is missing"):
        verify_files(tmp_path)


def test_a_broken_graph_is_caught(tmp_path):
    path = deploy(candidate("bert"), "onnxruntime", tmp_path) / "model.onnx"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(VerificationFailed, match=r"cannot open .*model\.onnx"):
        open_artifact(tmp_path)


@pytest.mark.parametrize("change", [{"runtime": "abacus"}, {"version": 99}, {"format": 2}])
def test_an_artifact_of_another_kind_is_refused(change, tmp_path):
    path = deploy(candidate("bert"), "eager", tmp_path) / "artifact.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(VerificationFailed, match="export it anew"):
        open_artifact(tmp_path)


def test_a_folder_without_a_description_is_no_artifact(tmp_path):
    with pytest.raises(VerificationFailed, match="is no artifact"):
        open_artifact(tmp_path)


def test_tensors_of_another_structure_are_refused(tmp_path):
    deploy(candidate("bert"), "eager", tmp_path)
    path = tmp_path / "paper.json"
    body = json.loads(path.read_text())
    body["profile"]["formats"] = [["ffn", {"name": "int8", "group_size": None}]]
    path.write_text(json.dumps(body))
    with pytest.raises(VerificationFailed, match="is missing, or not int8"):
        open_artifact(tmp_path)


def test_a_model_too_large_for_one_file_keeps_its_tensors_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_graph_file, "_LARGEST", 10_000)
    given = candidate("gpt2", "tied")
    found = answers(given, "onnxruntime", tmp_path)
    assert error_of(found, logits_of(given), given) < 1e-5
    runner = open_artifact(tmp_path)
    assert [path.name for path in runner.files()] == ["model.onnx", "model.onnx.data"]
    expected = RUNTIMES["onnxruntime"].payload_bytes(given.paper.profile)
    assert bytes_written(runner.files()) == expected
    verify_files(tmp_path)


def test_every_initializer_is_a_weight_of_the_profile(tmp_path):
    import onnx

    given = declared(candidate("llama", "language"), "whole numbers")
    model = onnx.load(deploy(given, "onnxruntime", tmp_path) / "model.onnx")
    onnx.checker.check_model(model)
    names = {tensor.name.partition(":")[0] for tensor in model.graph.initializer}
    assert names == {weight.name for weight in given.paper.profile.weights()}


def test_paper_alone_says_how_many_bytes_a_plain_model_takes():
    profile = candidate("bert").paper.profile
    expected = 4 * sum(weight.count for weight in profile.weights())
    assert all(row.payload_bytes(profile) == expected for row in RUNTIMES.values())
    assert isinstance(profile.weights()[0], Weight)


_ANSWER = """
import sys
import numpy as np
from pathlib import Path
from paretune.spaces.profile import Profile
from paretune.spaces.runtimes import open_artifact
from paretune.spaces.task import Batch
root = Path(sys.argv[1])
items = Batch(**np.load(root / "items.npz"))
for folder in sorted(path for path in root.iterdir() if path.is_dir()):
    np.save(root / f"{folder.name}.npy", open_artifact(folder).logits(items))
"""


@pytest.mark.slow
def test_another_process_answers_the_same(tmp_path):
    given = candidate("bert")
    items = random_items(given.paper.profile, 4, 8, seed=7)
    np.savez(tmp_path / "items.npz", **vars(items))
    expected = {}
    for runtime, mix in (("eager", "bf16"), ("eager", "int4"), ("onnxruntime", "int8")):
        name = f"{runtime}-{mix}"
        (tmp_path / name).mkdir()
        expected[name] = answers(declared(given, mix), runtime, tmp_path / name)
    subprocess.run([sys.executable, "-c", _ANSWER, str(tmp_path)], check=True)
    for name, logits in expected.items():
        assert np.array_equal(np.load(tmp_path / f"{name}.npy"), logits), name
