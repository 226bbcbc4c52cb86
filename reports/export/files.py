"""Files that several targets write alike: the tokenizer's, and config.json."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from ...spaces.families import plain_config, plain_objection
from ...spaces.profile import Profile
from ...spaces.task import Task

TOKENIZER: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "bpe.codes",
    "chat_template.jinja",
    "*.model",
)
"""What transformers' tokenizers read, by name; `*.model` are sentencepiece's."""


INPUTS: Final = ("input_ids", "attention_mask")
"""What a model is trained, judged and proved with: both texts of a pair are of segment 0."""


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copies the tokenizer's files, and has it return what the model was trained with alone."""
    for pattern in TOKENIZER:
        for path in sorted(source.glob(pattern)):
            shutil.copyfile(path, folder / path.name)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    config["model_input_names"] = list(INPUTS)
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def write_config(profile: Profile, task: Task, folder: Path, dtype: str = "float32") -> None:
    """Writes config.json with the task's labels.

    Of a structure that transformers' plain classes cannot hold it says only what does not depend on
    it: such a config serves the tokenizer and the labels, and no plain class accepts it.
    """
    config = plain_config(profile)
    if config is None:
        config = {"model_type": profile.family, "structure": plain_objection(profile)}
    config |= {"dtype": dtype, "transformers_version": version("transformers")}
    (folder / "config.json").write_text(json.dumps({**config, **labels_of(task)}, indent=2) + "\n")


def labels_of(task: Task) -> dict[str, Any]:
    """The labels as transformers' configs write them; nothing for language models."""
    if not task.labels:
        return {}
    return {
        "id2label": {str(i): label for i, label in enumerate(task.labels)},
        "label2id": {label: i for i, label in enumerate(task.labels)},
    }
