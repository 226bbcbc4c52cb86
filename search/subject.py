"""From a study to its subject: the model on paper, the data's digests, what keys depend on."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import StudyError
from ..evaluators.devices.here import device_problem, gpu_of
from ..evaluators.tasks import load_task
from ..spaces.configuration import Choice, Configuration, digest
from ..spaces.load import Load
from ..spaces.lower import Subject, plain
from ..spaces.models import ModelSource, inspect_model, profile_of
from ..spaces.recipe import Recipe
from ..spaces.slots import slots
from ..spaces.task import Items, Task
from ..spaces.technique import Targets

if TYPE_CHECKING:
    from .study import Study

DEFAULT_EPOCHS = 3.0
VERSIONED = ("torch", "transformers", "peft", "onnx", "onnxruntime", "safetensors")
"""Libraries whose version enters every key: their results may change with it."""


@dataclass(frozen=True)
class Material:
    """What a study works on, loaded: the model's files and the task's data."""

    source: ModelSource
    task: Task
    subject: Subject


def load_material(study: Study, cache: Path) -> Material:
    """Loads the task and inspects the model; the given model on paper has the task's head.

    Args:
        study: as resolved.
        cache: where data sets keep what they extracted.

    Raises:
        StudyError: this machine has not the workload's device.
        ModelError, DataError: one that cannot be used, before any work.
    """
    device = study.workload.device
    problem = device_problem(device)
    if problem is not None:
        raise StudyError(f"workload.device is {device!r}, but {problem}")
    return material_on_paper(study, cache)


def material_on_paper(study: Study, cache: Path) -> Material:
    """The same where the workload's device need not be: nothing will run.

    Raises:
        ModelError, DataError: as for `load_material`.
    """
    workload = study.workload.spec()
    source = inspect_model(
        study.model, allow_pickle=study.allow_pickle, trust_remote_code=study.trust_remote_code
    )
    task = load_task(study.task.spec(), source.tokenizer, cache)
    profile = profile_of(source, task.kind, len(task.labels), pad_token_id=task.pad_token_id)
    paper_recipe = Recipe(train_items=len(task.splits["train"]), epochs=DEFAULT_EPOCHS)
    subject = Subject(
        load=Load(source, profile, task.labels),
        profile=profile,
        recipe=paper_recipe,
        digests={
            "model": source.digest,
            "train": items_digest(task.splits["train"]),
            "calibration": items_digest(task.splits["calibration"]),
        },
        targets=Targets(
            tuple(study.deploy),
            task.kind,
            workload.torch_device,
            max(task.max_length, workload.prompt_tokens + workload.output_tokens),
        ),
        rungs=study.fidelity.step_shares,
        environment=environment_pairs(workload.threads, workload.device),
        seed=study.seed,
    )
    return Material(source, task, replace(subject, baseline=baseline_of(study, subject)))


def baseline_of(study: Study, subject: Subject) -> Configuration:
    """The plain way: full fine-tuning where the study trains at all, uncompressed, eager.

    A study trains where it fine-tunes, or trains a super-network.
    The recipe is the study's own where it leaves no choice; a fine-tuning knob that the study
    fixes or narrows takes that value here too.
    """
    from ..spaces.space import Space

    space = Space.of(study.space, subject.paper)
    methods = {part.slot: part.methods for part in space.slots}
    choices: dict[str, Choice] = {}
    if "recipe" in methods:
        method, knobs = next(iter(methods["recipe"].items()))
        choices["recipe"] = Choice.of(method, **{k.name: k.default for k in knobs})
    if any(set(methods.get(s, {})) - {slots()[s].off} for s in ("finetuning", "architecture")):
        full = slots()["finetuning"].technique("full")
        declared = {h.name: h.default for h in full.hyperparameters(subject.paper)}
        narrowed = {k.name: k.default for k in methods.get("finetuning", {}).get("full", ())}
        choices["finetuning"] = Choice.of("full", **{**declared, **narrowed})
    return plain(Configuration.of(**choices))


def items_digest(items: Items) -> str:
    """A name for the content of a split."""
    arrays = (items.input_ids, items.attention_mask, items.labels)
    return digest([[list(a.shape), _crc(a)] for a in arrays])


def environment_pairs(threads: int, device: str = "here") -> tuple[tuple[str, str], ...]:
    """What results depend on beside the work itself: library versions, threads, the kind of GPU.

    Args:
        threads, device: of the workload.
    """
    pairs = {name: _version(name) for name in VERSIONED}
    pairs["python"] = ".".join(platform.python_version_tuple()[:2])
    pairs["machine"] = platform.machine()
    pairs["threads"] = str(threads)
    gpu = gpu_of(device)
    if gpu is not None:
        pairs |= {"device": gpu.name, "onnxruntime-gpu": _version("onnxruntime-gpu")}
    return tuple(sorted(pairs.items()))


def _crc(array: np.ndarray) -> str:
    import hashlib

    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
