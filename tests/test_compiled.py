"""The runtime `compiled`: eager's files, one graph, and what stands in its way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from paretune.spaces.build import build
from paretune.spaces.candidate import Candidate
from paretune.spaces.families import family_of
from paretune.spaces.paper import Paper
from paretune.spaces.profile import GROUPS, Format, Head
from paretune.spaces.runtimes import RUNTIMES, compiled, compiler, open_artifact
from paretune.spaces.specimen import MemoryBench, logits_of, random_items
from paretune.spaces.technique import Targets

HEADS = {
    "bert": Head("classification", 3),
    "gpt2": Head("language-modelling", 43, tied=True),
    "llama": Head("language-modelling", 43),
}
SIZES = {
    "vocab_size": 43, "initializer_range": 0.2, "bos_token_id": 2, "eos_token_id": 3,
    "pad_token_id": 0, "max_position_embeddings": 64, "hidden_size": 32, "num_hidden_layers": 2,
    "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64,
}  # fmt: skip

needs_a_compiler = pytest.mark.skipif(
    compiler.compiler_problem() is not None, reason=str(compiler.compiler_problem())
)


def candidate(family: str, **formats: Format) -> Candidate:
    profile = family_of(family).profile(SIZES, HEADS[family])
    module = build(profile, seed=0)
    return Candidate(module, Paper(profile.with_formats(formats)))


def deploy(given: Candidate, runtime: str, folder: Path) -> Path:
    folder.mkdir()
    (step,) = RUNTIMES[runtime].steps(given.paper, {})
    step.deploy(given, folder, MemoryBench(given))
    return folder


def refused(given: Candidate, *formats: str, device: str = "cpu") -> list[str]:
    return RUNTIMES["compiled"].objections(given.paper, {}, Targets(formats, device=device))


@pytest.fixture
def no_compiler(monkeypatch, tmp_path):
    """A machine whose compiler is not there; what is known of the real one is kept."""
    monkeypatch.setenv("CXX", str(tmp_path / "g++"))
    for found in (compiler.compiler_problem, compiler.compiler_version):
        found.cache_clear()
    yield
    monkeypatch.undo()
    for found in (compiler.compiler_problem, compiler.compiler_version):
        found.cache_clear()


def test_without_a_compiler_it_is_refused_and_says_what_to_install(no_compiler):
    (reason,) = refused(candidate("bert"))
    assert "does not run" in reason
    assert "install g++" in reason
    assert RUNTIMES["compiled"].steps(Paper(candidate("bert").paper.profile), {})[0].settings == {
        "compiler": "absent"
    }


def test_a_compiler_that_fails_is_quoted(no_compiler, monkeypatch, tmp_path):
    failing = tmp_path / "g++"
    failing.write_text("#!/bin/sh\necho 'fatal error: Python.h: No such file' >&2; exit 1\n")
    failing.chmod(0o755)
    assert "fatal error: Python.h" in compiler.compiler_problem()


@needs_a_compiler
def test_this_compiler_is_named_in_the_key():
    (step,) = RUNTIMES["compiled"].steps(candidate("bert").paper, {})
    assert step.settings["compiler"] == compiler.compiler_version() != "absent"


def test_whole_numbers_are_refused_and_on_a_gpu_a_missing_triton(monkeypatch):
    monkeypatch.setattr(compiled, "compiler_problem", lambda: None)
    assert refused(candidate("bert")) == []
    assert "cannot hold ffn in int8" in refused(candidate("bert", ffn=Format("int8")))[0]
    monkeypatch.setattr(compiled, "find_spec", lambda name: None)
    assert "install triton" in refused(candidate("bert"), device="cuda:0")[0]
    assert refused(candidate("bert")) == []


def test_its_files_are_eager_s_but_for_the_name(tmp_path):
    given = candidate("bert", **dict.fromkeys(GROUPS, Format("bf16")))
    ours, theirs = (deploy(given, name, tmp_path / name) for name in ("compiled", "eager"))
    tensors = "model.safetensors"
    assert (ours / tensors).read_bytes() == (theirs / tensors).read_bytes()
    assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in theirs.iterdir())
    assert RUNTIMES["compiled"].files == "eager"


@pytest.mark.slow
@needs_a_compiler
@pytest.mark.parametrize("family", list(HEADS))
def test_it_answers_what_the_module_answers_for_every_length(family, tmp_path):
    given = candidate(family)
    runner = open_artifact(deploy(given, "compiled", tmp_path / "a"))
    plain = open_artifact(deploy(given, "eager", tmp_path / "b"))
    items = random_items(given.paper.profile, 4, 8, seed=7)
    assert np.allclose(runner.logits(items), logits_of(given), atol=1e-5)
    # one text is another graph, which takes another minute
    for shape in ((1, 5), (3, 6)) if family == "bert" else ((3, 6),):
        asked = random_items(given.paper.profile, *shape, seed=1)
        found, wanted = runner.logits(asked), plain.logits(asked)
        real = asked.attention_mask == 1 if found.ndim == 3 else slice(None)
        assert np.allclose(found[real], wanted[real], atol=1e-5)
    if family != "bert":
        assert np.array_equal(runner.generate(items, 4), plain.generate(items, 4))
    runner.close()
    with pytest.raises(RuntimeError, match="closed"):
        runner.logits(items)


@pytest.mark.slow
@needs_a_compiler
def test_an_answer_does_not_depend_on_what_was_asked_before(tmp_path):
    given = candidate("bert", **dict.fromkeys(GROUPS, Format("bf16")))
    folder = deploy(given, "compiled", tmp_path / "a")
    short, long = (random_items(given.paper.profile, 4, n, seed=2) for n in (5, 9))
    one = open_artifact(folder)
    first = one.logits(short)
    one.close()
    other = open_artifact(folder)
    other.logits(long)
    assert np.array_equal(other.logits(short), first)
    other.close()


@pytest.mark.slow
@needs_a_compiler
def test_layers_of_their_own_sizes_make_one_graph(tmp_path):
    given = candidate("bert")
    profile = given.paper.profile
    first, second = profile.layers
    layers = (
        replace(first, feed_forward=replace(first.feed_forward, width=37)),
        replace(second, attention=None),
    )
    profile = replace(profile, layers=layers)
    uneven = Candidate(build(profile, seed=0), Paper(profile))
    runner = open_artifact(deploy(uneven, "compiled", tmp_path / "a"))
    items = random_items(profile, 4, 8, seed=7)
    assert np.allclose(runner.logits(items), logits_of(uneven), atol=1e-5)
    runner.close()
