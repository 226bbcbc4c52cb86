"""The commented study file that `paretune init` writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from ..errors import RunError
from ..evaluators.tasks.columns import Columns, find_columns
from ..evaluators.tasks.local import is_local

RESERVED: Final = ("true", "false", "null")
"""Words that YAML 1.2 reads as something else than text."""

TEMPLATE: Final = """\
# What to search, on what, and what to care about. `paretune schema` lists every field,
# `paretune spaces` every technique, `paretune metrics` every metric.

model: {model}          # hub id or local folder with config.json and safetensors
task:                   # docstrings, a csv / jsonl / txt file, a hub data set, or module:function
  name: {task}
{columns}  max_length: 32        # tokens per item

workload:               # the use for which speed and memory are judged
  batch: 1
  prompt_tokens: 32
  threads: 1

objectives: [{quality}, latency_p50, model_bytes]
constraints: ["{quality} {bound}"]    # more such as "model_bytes <= 40 MB"

space:                  # a slot that is left out stays as it is
  finetuning: {{methods: [full, lora, head]}}
  structure: {{methods: [none, ffn, layers]}}
  recovery: {{methods: [none, finetune]}}
  precision: {{methods: [fp32, int8]}}
  runtime: {{methods: [eager, onnxruntime]}}

fidelity: {{rungs: [0.25, 1.0]}}    # shares of the training steps and of the validation items
budget: {{trials: 40, trainings: 6}}
trial: {{timeout: 30 min}}
engine: {{kind: optuna, workers: 1}}
sampler: greybox
seed: 0
"""


def write_template(out: Path, *, task: str, model: str) -> str:
    """Writes a study file with comments; the columns of a local table are looked up in it.

    Args:
        out: a path where nothing is yet.
        task, model: filled in as given.

    Returns:
        What was found out about the task, for a person; empty where it was not looked at.

    Raises:
        RunError: something is there already, or there is no such folder.
        DataError: the task is a local file without a column of text.
    """
    if out.exists():
        raise RunError(f"{out} is there already; move it away or choose another --out")
    if not out.parent.is_dir():
        raise RunError(f"no folder {out.parent} to write {out.name} in; make it first")
    found = find_columns(Path(task).expanduser()) if is_local(task) else None
    plain = task.lower().removesuffix(".gz").endswith(".txt")
    language = plain if found is None else found.label is None
    filled = {
        "model": _scalar(model),
        "task": _scalar(task),
        "columns": "" if found is None else _columns(found),
        "quality": "bits_per_byte" if language else "accuracy",
        "bound": "<= 1.05 * baseline" if language else ">= 0.95 * baseline",
    }
    out.write_text(TEMPLATE.format(**filled), encoding="utf-8")
    if found is None:
        absent = is_local(task) and not Path(task).expanduser().exists()
        return f"there is no {task} yet, so its columns were not looked at" if absent else ""
    label = f"label from {found.label!r}" if found.label else "no label: the text is modelled"
    return f"text from column {found.text!r}, {label}; columns: {', '.join(found.known)}"


def _columns(found: Columns) -> str:
    known = " ".join(", ".join(found.known).split())
    label = f"label: {_scalar(found.label)}" if found.label else "kind: language-modelling"
    return f"  text: {_scalar(found.text)}    # columns there: {known}\n  {label}\n"


def _scalar(text: str) -> str:
    """Text as YAML reads it back: in quotes where it could be taken for something else."""
    # a dot alone may begin a number: .5, .inf
    named = re.fullmatch(r"([A-Za-z/]|\.{1,2}/|~/)([\w./~:+@-]*[\w./~+@-])?", text)
    plain = named and text.lower() not in RESERVED
    return text if plain else json.dumps(text, ensure_ascii=False)
