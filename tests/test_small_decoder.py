"""The blank decoder of the example: its files are transformers' own, and paretune reads them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from paretune.benchmarks.small_decoder import main
from paretune.spaces.models import inspect_model, profile_of
from transformers import AutoTokenizer

TEXT = "\n".join(
    f"The {n}th line says that the film was good, and then {n * n}." for n in range(400)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    at = tmp_path_factory.mktemp("decoder")
    (at / "text.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    sizes = ["--width", "32", "--layers", "2", "--heads", "2"]
    assert main(["--text", str(at / "text.txt.gz"), "--to", str(at / "model"), *sizes]) == 0
    return at


def test_the_model_is_read_with_the_sizes_that_were_asked_for(folder: Path):
    source = inspect_model(str(folder / "model"))
    profile = profile_of(source, "language-modelling", 0, pad_token_id=0)
    assert (profile.family, profile.width, len(profile.layers)) == ("gpt2", 32, 2)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    ids = tokenizer("the film was good")["input_ids"]
    assert tokenizer.decode(ids) == "the film was good"
    assert len(ids) < len("the film was good") / 2


def test_the_same_text_and_seed_give_the_same_files(folder: Path):
    again = folder / "again"
    sizes = ["--width", "32", "--layers", "2", "--heads", "2"]
    assert main(["--text", str(folder / "text.txt.gz"), "--to", str(again), *sizes]) == 0
    for name in ("config.json", "tokenizer.json"):
        one, other = ((at / name).read_text() for at in (folder / "model", again))
        assert json.loads(one) == json.loads(other)
    weights = [(at / "model.safetensors").read_bytes() for at in (folder / "model", again)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("text", "to", "words"),
    [("absent.txt", "new", "give a text file"), ("text.txt.gz", "model", "is there already")],
)
def test_a_wrong_path_is_one_clear_error(folder: Path, capsys, text: str, to: str, words: str):
    assert main(["--text", str(folder / text), "--to", str(folder / to)]) == 2
    assert words in capsys.readouterr().err
