"""The commented study file that `paretune init` writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from ..errors import RunError

TEMPLATE: Final = """\
# What to search, on what, and what to care about. `paretune schema` lists every field,
# `paretune spaces` every technique, `paretune metrics` every metric.

model: {model}          # hub id or local folder with config.json and safetensors
task:                   # docstrings, a csv / jsonl / txt file, a hub data set, or module:function
  name: {task}
  max_length: 32        # tokens per item

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


def write_template(out: Path, *, task: str, model: str) -> None:
    """Writes a study file with comments.

    Args:
        out: a path where nothing is yet.
        task, model: filled in as given.

    Raises:
        RunError: something is there already, or there is no such folder.
    """
    if out.exists():
        raise RunError(f"{out} is there already; move it away or choose another --out")
    if not out.parent.is_dir():
        raise RunError(f"no folder {out.parent} to write {out.name} in; make it first")
    text = task.lower()
    language = text.removesuffix(".gz").endswith(".txt")
    filled = {
        "model": _scalar(model),
        "task": _scalar(task),
        "quality": "bits_per_byte" if language else "accuracy",
        "bound": "<= 1.05 * baseline" if language else ">= 0.95 * baseline",
    }
    out.write_text(TEMPLATE.format(**filled), encoding="utf-8")


def _scalar(text: str) -> str:
    """Text as YAML reads it back: in quotes where it could be taken for something else."""
    return text if re.fullmatch(r"[A-Za-z./~][\w./~:+@-]*", text) else json.dumps(text)
