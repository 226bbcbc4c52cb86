"""Fewer rows in the table of words: which stay, who reads them, and that every runtime agrees."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paretune.errors import DataError, ModelError, StepFailed, VerificationFailed
from paretune.reports.export.hf import Hf
from paretune.spaces.build import build, kept_tensors
from paretune.spaces.candidate import Candidate
from paretune.spaces.configuration import Configuration
from paretune.spaces.families import family_of, plain_objection
from paretune.spaces.finetuning import TABLE as FINETUNING
from paretune.spaces.load import Load
from paretune.spaces.models import inspect_model, profile_of
from paretune.spaces.paper import Paper
from paretune.spaces.paper_features import FEATURES, paper_features
from paretune.spaces.precision import TABLE as PRECISION
from paretune.spaces.profile import Format, Head, Profile, parameters
from paretune.spaces.runtimes import RUNTIMES, open_artifact
from paretune.spaces.runtimes.compiler import compiler_problem
from paretune.spaces.runtimes.payload import payload_bytes as promised_bytes
from paretune.spaces.specimen import Case, payload_bytes, walk
from paretune.spaces.structure import TABLE, words
from paretune.spaces.structure.vocabulary import PruneWords
from paretune.spaces.structure.words import nearest_rows
from paretune.spaces.task import Batch
from paretune.spaces.technique import Targets
from paretune.spaces.testing import (
    CHECKS,
    MemoryBench,
    Specimen,
    cases_of,
    check_row,
    random_items,
)

FAMILIES = ("bert", "roberta", "distilbert", "gpt2", "llama", "qwen2")
WORKING = [name for name in RUNTIMES if name != "compiled" or compiler_problem() is None]
MIXES: dict[str, dict[Any, Format]] = {
    "fp32": {},
    "fp16": {"embeddings": Format("fp16")},
    "bf16": {"embeddings": Format("bf16")},
    "int8": {"embeddings": Format("int8"), "ffn": Format("int8")},
    "int4": {"embeddings": Format("int4", 32)},
    "int3": {"embeddings": Format("int3", 32)},
}
HELD = {
    "eager": tuple(MIXES),
    "compiled": ("fp32", "bf16"),
    "onnxruntime": ("fp32", "fp16", "int8", "int4"),
}
"""Mixes that each runtime holds; the others it refuses."""

PAIRS = [
    pytest.param(runtime, mix, marks=pytest.mark.slow if runtime == "compiled" else ())
    for runtime in WORKING
    for mix in HELD[runtime]
]
WORDS = 320


def classifier(family: str) -> Profile:
    sizes = {"vocab_size": WORDS, "initializer_range": 0.2, "bos_token_id": 2, "eos_token_id": 3}
    sizes |= {"pad_token_id": 1 if family == "roberta" else 0, "max_position_embeddings": 64}
    sizes |= {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    sizes |= {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return family_of(family).profile(sizes, Head("classification", 3))


@lru_cache
def candidate(family: str) -> Candidate:
    profile = classifier(family)
    return Candidate(build(profile, seed=0), Paper(profile))


@lru_cache
def smaller(family: str) -> Candidate:
    big = candidate(family)
    return PruneWords(0.25).apply(big, MemoryBench(big), 0)


def overwritten(big: Candidate, small: Candidate) -> Candidate:
    """The big model in which each word has a row of its own with what it reads in the small one."""
    family = family_of(big.paper.profile.family)
    tensors, path = kept_tensors(small.module), family.tables["vocabulary"]
    same = copy.deepcopy(big.module)
    with torch.no_grad():
        same.get_submodule(path).weight.copy_(tensors[f"{path}.weight"][tensors[f"{path}.rows"]])
    return replace(big, module=same)


def declared(given: Candidate, mix: str) -> Candidate:
    profile = given.paper.profile.with_formats(MIXES[mix])
    return replace(given, paper=replace(given.paper, profile=profile))


def answered(given: Candidate, runtime: str, folder: Path) -> tuple[np.ndarray, int]:
    """Logits, and bytes of the tensors that were written."""
    folder.mkdir()
    RUNTIMES[runtime].steps(given.paper, {})[0].deploy(given, folder, MemoryBench(given))
    runner = open_artifact(folder)
    logits = runner.logits(random_items(given.paper.profile, 4, 8, seed=7))
    written = payload_bytes(runner.files())
    runner.close()
    return logits, written


class Texts(MemoryBench):
    """A bench whose splits hold these words, one text each."""

    def __init__(self, teacher: Candidate, **splits: Sequence[int]) -> None:
        super().__init__(teacher)
        self.splits = splits

    def batches(self, split, **rest) -> Iterator[Batch]:
        self.asked.append(split)
        if words := self.splits.get(split, ()):
            ids = np.array([words], dtype=np.int64)
            yield Batch(ids, (ids > 0).astype(np.int64), np.zeros(1, np.int64), np.zeros(1))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_removed_word_reads_the_row_of_the_word_most_like_it(family):
    big, small = candidate(family), smaller(family)
    path = family_of(family).tables["vocabulary"]
    table, kept = big.module.get_submodule(path).weight, small.notes["vocabulary"]
    tensors = kept_tensors(small.module)
    assert torch.equal(tensors[f"{path}.weight"], table[kept])
    cosines = torch.nn.functional.cosine_similarity(table[:, None], table[kept][None], dim=2)
    assert [kept[row] for row in tensors[f"{path}.rows"]] == [
        word if word in kept else kept[int(cosines[word].argmax())] for word in range(WORDS)
    ]


@pytest.mark.parametrize("runtime", WORKING)
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_runtime_refuses_a_smaller_table_in_a_format_that_it_does_not_hold(family, runtime):
    for mix in MIXES:
        found = RUNTIMES[runtime].objections(declared(smaller(family), mix).paper, {}, Targets())
        assert bool(found) == (mix not in HELD[runtime]), (mix, found)


@pytest.mark.parametrize(("runtime", "mix"), PAIRS)
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_every_runtime_answers_as_the_big_table_with_equal_rows(family, runtime, mix, tmp_path):
    small = declared(smaller(family), mix)
    big = declared(overwritten(candidate(family), smaller(family)), mix)
    found, written = answered(small, runtime, tmp_path / "small")
    expected, whole = answered(big, runtime, tmp_path / "big")
    if runtime == "compiled":  # two graphs may add in two orders
        np.testing.assert_allclose(found, expected, atol=1e-5)
    else:
        assert np.array_equal(found, expected)
    assert written == RUNTIMES[runtime].payload_bytes(small.paper.profile)
    assert written < whole


@pytest.mark.parametrize("method", ["vocabulary", "mixed"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_contract_holds_for_decoders_that_classify(family, method, tiny_models):
    profile = profile_of(inspect_model(str(tiny_models[family])), "classification", 3)
    loaded = Load(inspect_model(str(tiny_models[family])), profile).apply(
        None, MemoryBench(candidate(family)), 0
    )
    cases = cases_of(TABLE[method], Specimen.of(loaded))
    words = [case for case in cases if any(isinstance(s, PruneWords) for s in case.steps)]
    assert words
    assert not any(case.objections for case in words)
    for check in CHECKS:
        if check != "what_it_declares_moves" or method == "vocabulary":
            check_row(check, words)


@pytest.mark.parametrize("method", list(PRECISION))
def test_every_way_to_store_weights_works_on_the_smaller_table(method, tmp_path):
    small = smaller("bert")
    row = PRECISION[method]
    settings = {knob.name: knob.default for knob in row.hyperparameters(small.paper)}
    case = Case(row, settings, Specimen.of(small))
    assert not case.objections
    for check in ("parameters_agree", "bytes_agree", "saved_and_loaded_answers_are_equal"):
        CHECKS[check](case)


@pytest.mark.parametrize("method", ["full", "lora", "bitfit"])
def test_what_trains_afterwards_has_as_few_rows_and_leaves_the_map_alone(method):
    small = smaller("bert")
    row, specimen = FINETUNING[method], Specimen.of(small)
    settings = {knob.name: knob.default for knob in row.hyperparameters(small.paper)}
    case = Case(row, settings, specimen)
    for check in ("trainable_parameters_agree", "a_paused_training_ends_the_same"):
        CHECKS[check](case)
    name = "bert.embeddings.word_embeddings"
    for node in walk(case):
        kept = kept_tensors(node.candidate.module)
        assert torch.equal(kept[f"{name}.rows"], kept_tensors(small.module)[f"{name}.rows"])
        if method == "full" and node.candidate.train_state is not None:
            moments = node.candidate.train_state.tensors
            assert moments[f"{name}.weight/exp_avg"].shape == (WORDS // 4, 32)


def test_the_words_that_are_read_most_keep_their_rows_and_of_equals_the_first():
    big = candidate("bert")
    often = [300] * 9 + [200] * 5 + [250, 120, 110]
    bench = Texts(big, train=often, calibration=[200, 90, 80], validation=[7] * 50)
    small = PruneWords(8 / WORDS).apply(big, bench, 0)
    # 0, 2 and 3 are special; 80, 90, 110, 120 and 250 are read once, and three places are left
    assert small.notes["vocabulary"] == [0, 2, 3, 80, 90, 110, 200, 300]
    assert set(bench.asked) == {"train", "calibration"}
    assert small.paper.profile.word_rows == 8


def test_padding_is_no_word_that_is_read():
    big = candidate("bert")
    texts = [301, 302, 303, 304, 305] + [0] * 90
    kept = PruneWords(8 / WORDS).apply(big, Texts(big, train=texts), 0).notes["vocabulary"]
    assert kept == [0, 2, 3, 301, 302, 303, 304, 305]


def test_special_tokens_of_the_tokenizer_keep_their_rows(tiny_models):
    source = inspect_model(str(tiny_models["bert"]))
    load = Load(source, profile_of(source, "classification", 3))
    model = load.apply(None, MemoryBench(candidate("bert")), 0)
    assert model.paper.special == (0, 1, 2, 3, 4)
    bench = Texts(model, train=[20, 21, 22, 23, 24, 25])
    assert PruneWords(0.125).apply(model, bench, 0).notes["vocabulary"] == [
        0,
        1,
        2,
        3,
        4,
        20,
        21,
        22,
    ]


def test_rows_that_do_not_hold_the_special_tokens_are_refused():
    given = candidate("bert")
    big = replace(given, paper=replace(given.paper, special=tuple(range(9))))
    with pytest.raises(
        StepFailed, match="8 rows do not hold the 9 special tokens; choose a share of"
    ):
        PruneWords(8 / WORDS).apply(big, MemoryBench(big), 0)


@pytest.mark.parametrize("name", ["vocabulary", "mixed"])
def test_on_paper_a_share_that_does_not_hold_the_special_tokens_is_refused(name):
    knob = "keep" if name == "vocabulary" else "vocabulary_keep"
    others = {} if name == "vocabulary" else {"heads_keep": 0.5}
    paper = replace(candidate("bert").paper, special=tuple(range(4, 30)))
    # the config names 0, 2 and 3 beside the tokenizer's 26
    assert objections(name, paper, **{knob: 0.0625}, **others) == (
        "24 rows do not hold the 29 special tokens; choose a share of at least 0.1"
    )
    assert not objections(name, paper, **{knob: 0.1}, **others)
    crowded = replace(paper, special=tuple(range(4, 318)))
    assert "choose another structure" in objections(name, crowded, **{knob: 0.5}, **others)


def test_a_task_without_texts_to_count_is_named():
    big = candidate("bert")
    with pytest.raises(DataError, match="give the task training items"):
        PruneWords(0.25).apply(big, Texts(big), 0)


def test_of_equally_near_rows_the_first_is_read_and_words_are_compared_in_parts():
    table = torch.randn(1500, 8, generator=torch.Generator().manual_seed(0))
    table[1400] = 3 * table[20]
    table[30] = table[20]
    told: list[tuple[int, int]] = []
    rows = nearest_rows(table, [5, 20, 30, 700], "cpu", lambda *done: told.append(done))
    assert rows.dtype == torch.int32
    assert rows[[5, 20, 30, 700, 1400]].tolist() == [0, 1, 2, 3, 1]
    assert told == [(1024, 1496), (1496, 1496)]


def test_kept_words_are_compared_in_parts_too(monkeypatch):
    table = torch.randn(300, 8, generator=torch.Generator().manual_seed(1))
    kept = list(range(0, 300, 4))
    whole = nearest_rows(table, kept, "cpu", lambda *_: None)
    monkeypatch.setattr(words, "_KEPT", 20)
    assert torch.equal(nearest_rows(table, kept, "cpu", lambda *_: None), whole)
    unit = torch.nn.functional.normalize(table, dim=1)
    expected = (unit @ unit[kept].t()).argmax(dim=1)
    removed = [word for word in range(300) if word % 4]
    assert whole[removed].tolist() == expected[removed].tolist()


def test_the_big_model_and_the_random_state_are_left_alone():
    big = candidate("bert")
    before, state = copy.deepcopy(kept_tensors(big.module)), torch.get_rng_state()
    PruneWords(0.5).apply(big, MemoryBench(big), 0)
    assert all(torch.equal(before[name], now) for name, now in kept_tensors(big.module).items())
    assert torch.equal(state, torch.get_rng_state())


def test_on_paper_rows_go_and_the_map_counts_as_bytes():
    before = classifier("bert")
    after = PruneWords(0.25).on_paper(Paper(before)).profile
    assert parameters(before) - parameters(after) == 240 * 32
    assert promised_bytes(before) - promised_bytes(after) == 240 * 32 * 4 - WORDS * 4
    assert Profile.from_json(json.loads(json.dumps(after.to_json()))) == after
    written_before = {key: value for key, value in before.to_json().items() if key != "word_rows"}
    assert Profile.from_json(written_before) == before
    place = FEATURES.index("log_parameters")
    seen = [paper_features(Configuration(), Paper(profile))[place] for profile in (before, after)]
    assert seen[1] < seen[0]


def test_an_artifact_without_its_map_is_no_artifact(tmp_path):
    from safetensors.torch import load_file, save_file

    answered(smaller("bert"), "eager", tmp_path / "artifact")
    file = tmp_path / "artifact" / "model.safetensors"
    tensors = load_file(file)
    del tensors["bert.embeddings.word_embeddings.rows"]
    save_file(tensors, file)
    with pytest.raises(VerificationFailed, match="rows is missing, or not int32 of shape"):
        RUNTIMES["eager"].open(tmp_path / "artifact")


def objections(name: str, paper: Paper, targets: Targets | None = None, **changed: Any) -> str:
    row = TABLE[name]
    settings = {knob.name: knob.default for knob in row.hyperparameters(paper)} | changed
    return "; ".join(row.objections(paper, settings, targets or Targets()))


def test_a_language_model_keeps_all_words():
    profile = replace(classifier("gpt2"), head=Head("language-modelling", WORDS, tied=True))
    assert "over the whole vocabulary" in objections("vocabulary", Paper(profile))
    (knob,) = (
        knob
        for knob in TABLE["mixed"].hyperparameters(Paper(profile))
        if knob.name == "vocabulary_keep"
    )
    assert knob.values == (1.0,)
    assert "over the whole vocabulary" in objections("mixed", Paper(profile), vocabulary_keep=0.5)
    with pytest.raises(ModelError, match="for classification only"):
        replace(profile, word_rows=80).weights()


def test_plain_classes_cannot_hold_a_shared_table_and_the_reason_names_it():
    paper, hf = Paper(classifier("bert")), Targets(formats=("hf",))
    why = "320 words share 80 rows of the embedding table"
    after = PruneWords(0.25).on_paper(paper)
    assert plain_objection(after.profile) == why
    assert why in (Hf().objection(after) or "")
    for runtime in RUNTIMES:
        assert why in "; ".join(RUNTIMES[runtime].objections(after, {}, hf))
    assert not RUNTIMES["eager"].objections(after, {}, Targets(formats=("onnx", "paretune")))


def test_words_that_share_rows_already_and_shares_that_remove_nothing_are_refused():
    paper = Paper(classifier("bert"))
    shared = PruneWords(0.25).on_paper(paper)
    assert "share rows of the table already" in objections("vocabulary", shared)
    assert "removes nothing of 320 words" in objections("vocabulary", paper, keep=1.0)
    assert "merge them first" in objections(
        "vocabulary", FINETUNING["lora"].steps(paper, LORA)[0].on_paper(paper)
    )


LORA = {
    "rank": 4,
    "alpha_ratio": 2.0,
    "targets": "attention-qv",
    "learning_rate": 1e-3,
    "merge": "keep",
}


def test_a_mixed_cut_removes_words_first_and_then_the_rest():
    big = candidate("bert")
    settings = {knob.name: knob.default for knob in TABLE["mixed"].hyperparameters(big.paper)}
    settings |= {"vocabulary_keep": 0.25, "layers_keep": 0.5, "heads_keep": 0.5, "ffn_keep": 0.5}
    steps = TABLE["mixed"].steps(big.paper, settings)
    assert [step.name.partition(".")[0] for step in steps] == [
        "vocabulary",
        "layers",
        "heads",
        "ffn",
    ]
    small = big
    for step in steps:
        small = step.apply(small, MemoryBench(big), 0)
    assert {"vocabulary", "layers", "heads", "ffn"} <= set(small.notes)
    rows = "bert.embeddings.word_embeddings.rows"
    assert torch.equal(kept_tensors(small.module)[rows], kept_tensors(smaller("bert").module)[rows])
    assert not objections("mixed", big.paper, vocabulary_keep=0.25, heads_keep=1.0, layers_keep=1.0)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, ()),
        ({"tokenizer.json": {"added_tokens": [{"id": 3, "special": True}, {"id": 1}]}}, (3,)),
        (
            {"tokenizer_config.json": {"added_tokens_decoder": {"7": {"special": True}, "2": {}}}},
            (7,),
        ),
        ({"tokenizer_config.json": {"do_lower_case": True}}, ()),
    ],
)
def test_special_tokens_are_read_from_the_tokenizers_own_files(files, expected, tmp_path):
    from paretune.spaces.special_tokens import special_tokens

    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert special_tokens(tmp_path) == expected


@pytest.mark.parametrize("text", ["no json", "[]", '{"added_tokens": [{"special": true}]}'])
def test_a_broken_tokenizer_file_is_named(text, tmp_path):
    from paretune.spaces.special_tokens import special_tokens

    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError, match="not what a tokenizer writes"):
        special_tokens(tmp_path)
