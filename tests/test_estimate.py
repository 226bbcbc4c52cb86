"""`paretune estimate`: what a model costs on paper, from config.json alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paretune.errors import BadRequest, ModelError
from paretune.search.estimate import estimate_model

FAMILIES = ("bert", "roberta", "distilbert", "gpt2", "llama", "qwen2")


@pytest.fixture
def config(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    """A config.json of a decoder without weights beside it."""
    shutil.copy(tiny_models["llama"] / "config.json", tmp_path)
    return tmp_path / "config.json"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_estimated_from_its_config_without_weights(
    tiny_models: dict[str, Path], tmp_path: Path, family: str
):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    shutil.copy(tiny_models[family] / "config.json", tmp_path)
    figures = estimate_model(str(tmp_path))
    settings = AutoConfig.from_pretrained(tmp_path)
    decoder = family in ("gpt2", "llama", "qwen2")
    auto = AutoModelForCausalLM if decoder else AutoModelForSequenceClassification
    with torch.device("meta"):
        model = auto.from_config(settings)
    assert figures["model"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert figures["model"]["family"] == family
    assert figures["memory"]["eager_fp32_bytes"] == 4 * figures["model"]["parameters"]
    assert ("kv_cache_bytes_fp16" in figures["memory"]) == decoder


def test_a_folder_and_its_config_file_give_the_same_figures(config: Path):
    assert estimate_model(str(config)) == estimate_model(str(config.parent))


def test_no_torch_is_loaded(config: Path):
    code = (
        "import sys; from paretune.cli import main\n"
        f"try: main(['estimate', {str(config)!r}, '--json'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print(sorted({'torch', 'transformers', 'optuna'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"
    assert json.loads(done.stdout)["model"]["layers"] == 3


def test_twice_the_batch_is_twice_the_computation_and_the_cache(config: Path):
    one = estimate_model(str(config), ["prompt_tokens=16"])
    two = estimate_model(str(config), ["prompt_tokens=16", "batch=2"])
    assert two["computation"]["prefill_flops"] == 2 * one["computation"]["prefill_flops"]
    assert two["memory"]["kv_cache_bytes_fp16"] == 2 * one["memory"]["kv_cache_bytes_fp16"]


def test_written_tokens_cost_decoding_and_cache(config: Path):
    none = estimate_model(str(config))
    some = estimate_model(str(config), ["output_tokens=4"])
    assert "decode_flops" not in none["computation"]
    assert some["computation"]["decode_flops"] > 0
    assert some["memory"]["kv_cache_bytes_fp16"] > none["memory"]["kv_cache_bytes_fp16"]


def test_training_flops_are_flops_per_token_times_tokens(config: Path):
    training = estimate_model(str(config), ["train_tokens=1e9"])["training"]
    assert training["flops"] == training["flops_per_token"] * 1e9


def test_a_decoder_can_be_asked_to_classify(config: Path):
    model = estimate_model(str(config))["model"]
    classifier = estimate_model(str(config), ["kind=classification", "outputs=2"])["model"]
    words = json.loads(config.read_text())["vocab_size"]
    width = classifier["width"]
    assert model["parameters"] - classifier["parameters"] == (words - 2) * width


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("depth=3", "batch, prompt_tokens"),
        ("batch", "batch, prompt_tokens"),
        ("batch=x", "'x'; it must be a whole number from 1 up"),
        ("batch=0", "'0'; it must be a whole number from 1 up"),
        ("output_tokens=-1", "from 0 up"),
        ("train_tokens=many", "'many'; it must be a number from 0 up"),
        ("kind=regression", "'regression'; it must be classification or language-modelling"),
    ],
)
def test_an_option_that_cannot_be_read_says_what_is_allowed(config: Path, option: str, says: str):
    with pytest.raises(BadRequest, match=says):
        estimate_model(str(config), [option])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "does not say its model_type"),
        ('{"model_type": "mamba"}', "'mamba' is not supported; known: bert"),
    ],
)
def test_a_config_that_cannot_be_used_says_why(tmp_path: Path, text: str, says: str):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=says):
        estimate_model(str(tmp_path))


def test_a_config_that_is_not_there_is_an_error(tmp_path: Path):
    with pytest.raises(ModelError, match=r"no file .*config.json; give a config.json"):
        estimate_model(str(tmp_path / "config.json"))
