"""A study's work on a real GPU: the same bits every time, and answers as on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from paretune.errors import StepFailed
from paretune.evaluators.compute.timing import Patience, time_runner
from paretune.evaluators.devices.here import device_problem
from paretune.evaluators.memory.peak import peak_memory
from paretune.search.session import search
from paretune.spaces.build import build
from paretune.spaces.candidate import Candidate
from paretune.spaces.families import family_of
from paretune.spaces.paper import Paper, Workload
from paretune.spaces.profile import GROUPS, Format, Head
from paretune.spaces.recipe import Loss, Recipe
from paretune.spaces.runtimes import RUNTIMES, open_artifact
from paretune.spaces.specimen import MemoryBench, random_items, same_tensors, tensors
from paretune.spaces.structure.importance import block_influence
from paretune.spaces.training import FinetuneStep

PROBLEM = device_problem("cuda")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))]

GPU = "cuda:0"
HEADS = {
    "bert": Head("classification", 3),
    "gpt2": Head("language-modelling", 43, tied=True),
    "llama": Head("language-modelling", 43),
}
SIZES = {
    "vocab_size": 43, "initializer_range": 0.2, "bos_token_id": 2, "eos_token_id": 3,
    "pad_token_id": 0, "max_position_embeddings": 64, "hidden_size": 32, "num_hidden_layers": 2,
    "intermediate_size": 37, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64,
}  # fmt: skip
INNER = ("embeddings", "attention", "ffn", "head")
MIXES = {
    "fp32": {},
    "bf16": dict.fromkeys(GROUPS, Format("bf16")),
    "int8": dict.fromkeys(INNER, Format("int8")),
    "int4": dict.fromkeys(INNER, Format("int4", 32)),
}
TAUGHT = (Loss("task", 0.5), Loss("logits", 0.5, 2.0), Loss("hidden"), Loss("attention"))
RECIPES = {
    "fp32": Recipe(("*",), 8, 1, 4, 1e-2),
    "bf16": Recipe(("*",), 8, 1, 4, 1e-2, compute="bf16"),
    "taught": Recipe(("*",), 8, 1, 4, 1e-2, losses=TAUGHT, teacher="teacher"),
}


def candidate(family: str, recipe: str | None = None, **sizes: int) -> Candidate:
    profile = family_of(family).profile({**SIZES, **sizes}, HEADS[family])
    paper = Paper(profile, RECIPES[recipe]) if recipe else Paper(profile)
    return Candidate(build(profile, seed=0), paper)


def places(made: Candidate) -> set[str]:
    found = {t.device.type for t in (*made.module.parameters(), *made.module.buffers())}
    state = made.train_state.tensors.values() if made.train_state else ()
    return found | {tensor.device.type for tensor in state}


@pytest.mark.parametrize("recipe", list(RECIPES))
@pytest.mark.parametrize("family", list(HEADS))
def test_a_training_gives_the_same_bits_again_and_when_it_pauses(family, recipe):
    given = candidate(family, recipe)
    bench = MemoryBench(given, device=GPU)
    before = tensors(given.module)
    once, again = (FinetuneStep().run(given, 2, bench, 0) for _ in range(2))
    paused = FinetuneStep().run(given, 1, bench, 0)
    assert places(paused) == places(once) == places(given) == {"cpu"}
    went_on = FinetuneStep().run(paused, 2, bench, 0)
    assert same_tensors(tensors(given.module), before)
    assert not same_tensors(tensors(once.module), before)
    assert same_tensors(tensors(once.module), tensors(again.module))
    assert same_tensors(tensors(once.module), tensors(went_on.module))


def test_importance_is_the_same_as_on_the_cpu():
    given = candidate("bert")
    there, here = (block_influence(given, MemoryBench(given, device=d)) for d in (GPU, "cpu"))
    assert torch.allclose(there, here, rtol=1e-4)
    assert places(given) == {"cpu"}


def deployed(family: str, mix: str, folder: Path) -> Candidate:
    given = candidate(family)
    paper = replace(given.paper, profile=given.paper.profile.with_formats(MIXES[mix]))
    made = Candidate(given.module, paper)
    (step,) = RUNTIMES["eager"].steps(paper, {})
    step.deploy(made, folder, MemoryBench(made))
    return made


@pytest.mark.parametrize("mix", list(MIXES))
@pytest.mark.parametrize("family", list(HEADS))
def test_eager_answers_on_a_gpu_what_it_answers_on_the_cpu(family, mix, tmp_path):
    profile = deployed(family, mix, tmp_path).paper.profile
    there, here = (open_artifact(tmp_path, device=device) for device in (GPU, "cpu"))
    items = random_items(profile, 4, 8, seed=7)
    found, wanted = there.logits(items), here.logits(items)
    # what is answered lies in main memory: the GPU has finished, and a clock may be read
    assert torch.cuda.current_stream().query()
    real = items.attention_mask == 1 if found.ndim == 3 else slice(None)
    error = np.abs(found[real] - wanted[real]).max() / np.abs(wanted[real]).max()
    # in fewer bits a last bit that differs may be rounded the other way, and is then a whole step
    assert error < (1e-4 if mix == "fp32" else 0.1)
    if family != "bert":
        assert there.generate(items, 3).shape == (4, 3)
    there.close()


def test_a_timing_and_a_peak_are_the_gpu_s(tmp_path):
    profile = deployed("bert", "fp32", tmp_path).paper.profile
    workload, items = Workload(batch=4, device="cuda"), random_items(profile, 4, 8, seed=7)
    runner = open_artifact(tmp_path, device=GPU)
    timings = time_runner(runner, items, workload, patience=Patience(repeats=5))
    runner.close()
    assert timings.device == torch.cuda.get_device_name(0)
    peak = peak_memory(tmp_path, items, workload)
    assert peak.gpu_bytes >= (tmp_path / "model.safetensors").stat().st_size * 0.9, peak.reason


def test_exhausted_memory_has_its_own_name():
    given = candidate("bert", "fp32", vocab_size=200_000)
    torch.cuda.set_per_process_memory_fraction(1e-4, 0)
    try:
        with pytest.raises(StepFailed) as caught:
            FinetuneStep().run(given, 2, MemoryBench(given, device=GPU), 0)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)
    assert caught.value.kind == "out_of_memory"
    assert places(given) == {"cpu"}


def test_a_whole_search_runs_on_a_gpu(tiny_models, tmp_path, monkeypatch):
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    films, verdicts = tmp_path / "films.csv", [("good", "pos"), ("bad", "neg")] * 80
    lines = [
        f"the film was {word} {chr(97 + i % 26)},{label}"
        for i, (word, label) in enumerate(verdicts)
    ]
    films.write_text("\n".join(["text,label", *lines]))
    study = {
        "model": str(tiny_models["bert"]),
        "task": {"name": str(films), "max_length": 16},
        "workload": {"prompt_tokens": 12, "device": "cuda"},
        "objectives": ["accuracy", "latency_p50", "model_bytes"],
        "space": {
            "finetuning": {"methods": ["full", "bitfit"]},
            "precision": {"methods": ["fp32", "bf16", "int8"]},
        },
        "budget": {"trials": 4},
        "confirm": {"seeds": 0, "points": 1},
    }
    run = search(study, tmp_path / "run")
    assert [record.failure for record in run.records] == [None] * len(run.records)
    figure = run.records[0].measurements["latency_p50"]
    assert dict(figure.conditions)["device"] == torch.cuda.get_device_name(0)
