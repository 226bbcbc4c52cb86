"""A finished search as a run folder would give it: 60 trials made up by formulas, no work done.

Tests put this folder on `sys.path` and import it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from paretune.evaluators.measurement import Measurement, missing
from paretune.evaluators.metric import StageCost
from paretune.search.budget import Tariff
from paretune.search.records import Failure, Record, Rung
from paretune.search.run import FORMAT, Header, ObjectiveRow, Run, read_run
from paretune.spaces.configuration import Choice, Configuration

BASELINE = Configuration.of(finetuning=Choice.of("full", learning_rate=5e-5))
START = 1_760_000_000.0
ITEMS = 400

METRICS = {
    "accuracy": ("fraction", "maximize", "quality", "Share of items whose highest logit is right."),
    "latency_p50": ("second", "minimize", "computation", "Median wall time of one batch."),
    "model_bytes": ("byte", "minimize", "memory", "Bytes on disk of every file."),
    "energy": ("joule", "minimize", "energy", "Joules to answer one text."),
    "parameters": ("count", "minimize", "memory", "Elements of all parameter tensors."),
    "flops": ("FLOP", "minimize", "computation", "Matrix-product FLOPs of one batch."),
    "peak_memory": ("byte", "minimize", "memory", "Highest resident memory of a process."),
}


def header() -> Header:
    rows = tuple(
        ObjectiveRow(n, *METRICS[n][:2]) for n in ("accuracy", "latency_p50", "model_bytes")
    )
    names = ("unit", "direction", "resource", "definition")
    metrics = {
        n: {**dict(zip(names, row, strict=True)), "source": "made up"} for n, row in METRICS.items()
    }
    study = {
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "task": {"name": "docstrings", "max_length": 32},
        "workload": {"batch": 1, "prompt_tokens": 32, "output_tokens": 0, "threads": 1},
        "objectives": [row.name for row in rows],
        "constraints": ["accuracy >= 0.9 * baseline"],
        "budget": {"trials": 64, "minutes": 60.0},
        "sampler": "greybox",
        "seed": 0,
    }
    return Header("minilm-docstrings", study, rows, metrics, ("accuracy >= 0.9 * baseline",))


def configuration(rng: np.random.Generator) -> Configuration:
    tuned = {
        "full": Choice.of("full", learning_rate=float(rng.choice([2e-5, 5e-5, 1e-4]))),
        "lora": Choice.of(
            "lora", rank=int(rng.choice([4, 8, 16, 32])), alpha_ratio=2.0, targets="attention",
            learning_rate=5e-4, merge="merge",
        ),
        "head": Choice.of("head", learning_rate=1e-3),
    }  # fmt: skip
    cut = {
        "none": None,
        "ffn": Choice.of("ffn", keep=float(rng.choice([0.25, 0.5, 0.75])), when="after"),
        "layers": Choice.of("layers", keep=float(rng.choice([0.5, 0.75])), when="before"),
    }
    choices = {
        "finetuning": tuned[str(rng.choice(list(tuned)))],
        "structure": cut[str(rng.choice(list(cut)))],
        "recovery": Choice.of("distil", teacher="baseline", share=0.2)
        if rng.random() < 0.4
        else None,
        "precision": Choice.of("int8") if rng.random() < 0.55 else None,
        "runtime": Choice.of("onnxruntime") if rng.random() < 0.5 else None,
    }
    return Configuration.of(**{slot: c for slot, c in choices.items() if c})


def measurements(
    c: Configuration, rng: np.random.Generator, share: float = 1.0, split: str = "validation"
):
    """Figures that follow the choices, with the errors that such measurements have."""
    method = {slot: choice.method for slot, choice in c}
    keep = dict(c.get("structure").settings)["keep"] if c.get("structure") else 1.0
    small = 1 - (1 - keep) * {"ffn": 0.35, "layers": 0.5}.get(method.get("structure", ""), 0.0)
    int8, onnx = method.get("precision") == "int8", method.get("runtime") == "onnxruntime"
    accuracy = {"full": 0.818, "lora": 0.812, "head": 0.724}[method["finetuning"]]
    accuracy -= 0.12 * (1 - small) * (0.4 if "recovery" in method else 1.0) + 0.006 * int8
    accuracy = float(np.clip(accuracy - 0.05 * (1 - share) + rng.normal(0, 0.006), 0, 1))
    latency = (
        0.0172 * small * (0.52 if onnx else 1.0) * (0.45 if int8 and onnx else 1.1 if int8 else 1.0)
    )
    latency *= float(np.exp(rng.normal(0, 0.02)))
    size = 90.9e6 * (0.52 + 0.48 * small) * (0.255 if int8 else 1.0)
    n = round(ITEMS * share)
    at = (("device", "8-core CPU"), ("runtime", "onnxruntime" if onnx else "eager"), ("threads", 1))
    return {
        "accuracy": Measurement(
            accuracy, "fraction", "measured", math.sqrt(accuracy * (1 - accuracy) / n), n, "items",
            (("split", split),),
        ),
        "latency_p50": Measurement(
            latency, "second", "measured", latency * 0.011, 60, "repeats", at
        ),
        "model_bytes": Measurement(round(size), "byte", "exact", conditions=(("files", 3),)),
        "energy": Measurement(
            latency * 11.5, "joule", "modelled", latency * 0.13, 60, "repeats", at
        ),
        "parameters": Measurement(round(22.7e6 * (0.52 + 0.48 * small)), "count", "exact"),
        "flops": Measurement(round(0.68e9 * small), "FLOP", "exact"),
        "peak_memory": missing("byte", "taken for points that reach the front"),
    }  # fmt: skip


def stages(c: Configuration, cached: bool):
    method = {slot: choice.method for slot, choice in c}
    seconds = {"full": 41.0, "lora": 30.5, "head": 12.2}[method["finetuning"]]
    rows = [
        StageCost("a" * 32, "load", 0.4, False, cached),
        StageCost("b" * 32, "train.finetune", seconds, True, cached, "tuned"),
    ]
    if "structure" in method:
        rows.append(StageCost("c" * 32, f"prune.{method['structure']}", 1.3, False, False))
    if "recovery" in method:
        rows.append(StageCost("d" * 32, "train.recover", 9.1, True, False, "recovered"))
    return (
        *rows,
        StageCost("e" * 32, f"deploy.{method.get('runtime', 'eager')}", 2.2, False, False),
    )


def record(number: int, c: Configuration, rng, at: float, purpose="search") -> Record:
    """A trial: mostly final; every eleventh failed, every seventh paused at the first rung."""
    costs = stages(c, cached=number % 3 == 0 and number > 0)
    seconds = 6.0 + sum(stage.seconds for stage in costs if not stage.cached)
    base = Record(
        number,
        c,
        "final",
        0,
        purpose,
        stages=costs,
        seconds=seconds,
        started=at,
        finished=at + seconds,
    )
    low = Rung(0, measurements(c, rng, 0.25), 3.0)
    if purpose == "search" and number % 11 == 4:
        kinds = ("out_of_memory", "timeout", "diverged")
        kind = kinds[number // 11 % 3]
        return Record(
            **{
                **vars(base),
                "state": "failed",
                "failure": Failure(kind, f"trial {number} <b>stopped</b>"),
            }
        )
    if purpose == "search" and number % 7 == 5:
        return Record(**{**vars(base), "state": "paused", "rungs": (low,)})
    return Record(**{**vars(base), "rungs": (low, Rung(1, measurements(c, rng), 6.0))})


def confirmation(trial: Record, seed: int, rng) -> Record:
    figures = {**measurements(trial.configuration, rng, split="test")}
    figures["peak_memory"] = Measurement(412e6, "byte", "measured", n=1, over="repeats")
    return Record(
        trial.number,
        trial.configuration,
        "final",
        seed,
        "confirm",
        (Rung(1, figures, 6.0),),
        seconds=8.0,
    )


def data(trials: int = 60, seed: int = 0, confirmed: tuple[int, ...] = ()) -> dict:
    """What `snapshot.json` of such a run holds."""
    rng = np.random.default_rng(seed)
    records, seen, at = [record(0, BASELINE, rng, START, "baseline")], {BASELINE.digest}, START
    while len(records) <= trials:
        c = configuration(rng)
        if trials < 200 and c.digest in seen:
            continue
        seen.add(c.digest)
        at += 21.0
        records.append(record(len(records), c, rng, at))
    repeats = {
        str(n): [confirmation(records[n], s, rng).to_json() for s in (0, 1)] for n in confirmed
    }
    tariff = Tariff(65.0, 1.2, 0.38, 0.19, sources="device table, grid table")
    notes = {
        "tariff": tariff.to_json(),
        "reference": {"accuracy": 0.70, "latency_p50": 0.021, "model_bytes": 101e6},
        "refused": {"asked before": 31, "head is trained alone, so nothing recovers": 12},
        "constraints": ["accuracy >= 0.9 * baseline"],
    }
    return {
        "format": FORMAT, "stamp": [], "header": header().to_json(), "notes": notes,
        "records": [r.to_json() for r in records], "confirmations": repeats,
        "spent_seconds": 21.0 * trials,
    }  # fmt: skip


ENVIRONMENT = {
    "python": "3.11.9", "platform": "Linux", "packages": {"paretune": "0.1.0", "torch": "2.13.0"},
    "processor": "8-core CPU", "threads": 8, "memory_bytes": 16_000_000_000, "gpus": [],
    "meters": {"here": {"name": "utilisation model", "source": "modelled", "reason": None}},
}  # fmt: skip


def run_folder(folder: Path, **settings) -> Path:
    """A run folder with a snapshot that is fresh, and no database."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {"format": FORMAT, "name": "minilm-docstrings", "storage": "sqlite:///study.db"}
    (folder / "run.json").write_text(json.dumps(about))
    (folder / "snapshot.json").write_text(json.dumps(data(**settings)))
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    return folder


def made_up_run(folder: Path, **settings) -> Run:
    return read_run(run_folder(folder, **settings))
