"""Fixtures that many tests share: tiny models saved to disk, with tokenizers made here."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

WORDS = [chr(c) for c in range(97, 123)]
WORDS += ["the", "of", "to", "good", "bad", "film", "was", "very", "not", "it", "and"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def _tokenizer(folder: Path, kind: str) -> None:
    """Writes a whole-word tokenizer of `len(SPECIAL) + len(WORDS)` entries."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if kind == "encoder":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)


def _save(folder: Path, family: str) -> Path:
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    vocabulary = len(SPECIAL) + len(WORDS)
    sizes = {"vocab_size": vocabulary, "pad_token_id": 0}
    encoder = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }
    configs = {
        "bert": lambda: transformers.BertConfig(**sizes, **encoder),
        "roberta": lambda: transformers.RobertaConfig(**sizes, **encoder),
        "distilbert": lambda: transformers.DistilBertConfig(
            **sizes, dim=32, n_layers=3, n_heads=4, hidden_dim=64, max_position_embeddings=64
        ),
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=vocabulary, n_positions=64, n_embd=32, n_layer=3, n_head=4,
            bos_token_id=2, eos_token_id=3, pad_token_id=0,
        ),
        "llama": lambda: transformers.LlamaConfig(
            **sizes, **encoder, num_key_value_heads=2, bos_token_id=2, eos_token_id=3
        ),
        "qwen2": lambda: transformers.Qwen2Config(
            **sizes, **encoder, num_key_value_heads=2, bos_token_id=2, eos_token_id=3,
            tie_word_embeddings=True,
        ),
    }  # fmt: skip
    torch.manual_seed(0)
    decoder = family in {"gpt2", "llama", "qwen2"}
    auto = AutoModelForCausalLM if decoder else AutoModelForMaskedLM
    model = auto.from_config(configs[family]())
    model.save_pretrained(folder)
    _tokenizer(folder, "decoder" if decoder else "encoder")
    assert json.loads((folder / "config.json").read_text())["model_type"] == family
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what runs `compiled` where nothing compiles; fails there if a compiler is required."""
    from paretune.spaces.runtimes.compiler import compiler_problem

    problem = compiler_problem()
    if problem is None:
        return
    if "compiler" in os.environ.get("PARETUNE_REQUIRED", ""):
        raise pytest.UsageError(f"a C++ compiler is required here: {problem}")
    for item in items:
        if "compiled" in getattr(getattr(item, "callspec", None), "params", {}).values():
            item.add_marker(pytest.mark.skip(reason=problem))


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny models by family: width 32, 3 layers, 4 heads, FFN 64, 43 words."""
    root = tmp_path_factory.mktemp("models")
    families = ("bert", "roberta", "distilbert", "gpt2", "llama", "qwen2")
    return {family: _save(root / family, family) for family in families}


@pytest.fixture(scope="session")
def bench_data() -> Path:
    """The folder of measured data that is not part of the repository."""
    folder = Path(os.environ.get("PARETUNE_BENCH_DATA", Path(__file__).parents[2] / "shared/bench"))
    if not folder.is_dir():
        pytest.skip(f"no measured data at {folder}; set PARETUNE_BENCH_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 short texts, good or bad."""
    rng = random.Random(0)
    lines = ["text,label"]
    for i in range(160):
        noise = " ".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(6))
        lines.append(f"the film was {('good', 'bad')[i % 2]} {noise},{('pos', 'neg')[i % 2]}")
    path = tmp_path_factory.mktemp("films") / "films.csv"
    path.write_text("\n".join(lines))
    return path
