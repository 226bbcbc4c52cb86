"""A model's costs on paper: what it takes to hold, to train and to ask, without loading it.

Everything is `exact` or `modelled` from structure and data sheets; nothing is run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BadRequest, ModelError
from ..evaluators.compute.backward import training_step_flops
from ..spaces.families import FAMILIES, family_of
from ..spaces.models import inspect_model
from ..spaces.paper import Workload
from ..spaces.profile import Format, Group, Head, Profile, decode_flops, forward_flops, parameters
from ..spaces.runtimes import RUNTIMES
from ..spaces.task import TaskKind

OPTIONS = ("batch", "prompt_tokens", "output_tokens", "outputs", "train_tokens", "kind")
PRECISIONS = ("fp32", "bf16", "int8", "int4")
GROUPS: tuple[Group, ...] = ("embeddings", "attention", "ffn", "head")
ADAM_MIXED_BYTES = 16
"""Weights 2, gradients 2, fp32 master and two moments 12 bytes a parameter (arXiv 1910.02054)."""


def estimate_model(model: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a model costs, on paper.

    Args:
        model: a config.json, a folder or a hub id; weights are not needed.
        overrides: `batch=8`, `prompt_tokens=512`, `output_tokens=128`, `outputs=2` (classes),
            `train_tokens=1e9`, `kind=classification`.

    Returns:
        Sections `model`, `memory`, `computation`, `training`, every figure with its unit.

    Raises:
        ModelError: no such model, or a family that is not known.
        BadRequest: an unknown option.
    """
    options = _options(overrides)
    profile = _profile(_config(model), options)
    workload = Workload(
        batch=int(options.get("batch", 1)),
        prompt_tokens=int(options.get("prompt_tokens", 128)),
        output_tokens=int(options.get("output_tokens", 0)),
    )
    count = parameters(profile)
    return {
        "model": {
            "family": profile.family,
            "layers": len(profile.layers),
            "width": profile.width,
            "parameters": count,
            "source": "exact",
        },
        "memory": _memory(profile, workload),
        "computation": _computation(profile, workload),
        "training": _training(profile, float(options.get("train_tokens", 0)), workload, count),
    }


def _memory(profile: Profile, workload: Workload) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name in PRECISIONS:
        declared = _declared(profile, name)
        for runtime in RUNTIMES.values():
            if all(name in runtime.holds.get(g, {"fp32"}) for g in ("attention", "ffn")):
                key = f"{runtime.name}_{name}_bytes"
                figures[key] = runtime.payload_bytes(declared)
    if family_of(profile.family).kind == "decoder":
        per_token = sum(
            2 * layer.attention.kv_heads * layer.attention.head_width * 2
            for layer in profile.layers
            if layer.attention is not None
        )
        length = workload.prompt_tokens + workload.output_tokens
        figures["kv_cache_bytes_fp16"] = per_token * length * workload.batch
    return {**figures, "source": "exact"}


def _computation(profile: Profile, workload: Workload) -> dict[str, Any]:
    prompt = forward_flops(profile, workload.batch, workload.prompt_tokens, last_only=True)
    figures: dict[str, Any] = {"prefill_flops": prompt}
    if workload.output_tokens:
        contexts = range(
            workload.prompt_tokens + 1, workload.prompt_tokens + workload.output_tokens
        )
        figures["decode_flops"] = sum(
            decode_flops(profile, context, batch=workload.batch) for context in contexts
        )
    return {**figures, "flop_convention": "2 per multiply-accumulate", "source": "exact"}


def _training(profile: Profile, tokens: float, workload: Workload, count: int) -> dict[str, Any]:
    length = workload.prompt_tokens
    forward, backward = training_step_flops(profile, ("*",), 1, length)
    figures: dict[str, Any] = {
        "flops_per_token": (forward + backward) / length,
        "adam_mixed_states_bytes": ADAM_MIXED_BYTES * count,
        "gradient_payload_bytes_fp16": 2 * count,
    }
    if tokens:
        figures["flops"] = figures["flops_per_token"] * tokens
    return {**figures, "source": "exact"}


def _declared(profile: Profile, name: str) -> Profile:
    if name == "fp32":
        return profile
    size = 32 if name == "int4" else None
    groups = GROUPS if name == "bf16" else ("embeddings", "attention", "ffn")
    return profile.with_formats({g: Format(name, size) for g in groups})  # type: ignore[arg-type]


def _profile(config: Mapping[str, Any], options: Mapping[str, str]) -> Profile:
    name = str(config.get("model_type"))
    if name not in FAMILIES:
        raise ModelError(f"model_type {name!r} is not known; known: {', '.join(sorted(FAMILIES))}")
    family = family_of(name)
    default = "language-modelling" if family.kind == "decoder" else "classification"
    kind: TaskKind = options.get("kind", default)  # type: ignore[assignment]
    if kind == "classification":
        return family.profile(dict(config), Head(kind, int(options.get("outputs", 2))))
    tied = bool(config.get("tie_word_embeddings", True))
    return family.profile(dict(config), Head(kind, int(config["vocab_size"]), tied))


def _config(model: str) -> Mapping[str, Any]:
    path = Path(model)
    if path.is_file():
        data: Mapping[str, Any] = json.loads(path.read_text())
        return data
    if (path / "config.json").is_file():
        return _config(str(path / "config.json"))
    return inspect_model(model).config


def _options(overrides: Sequence[str]) -> dict[str, str]:
    options = dict(line.split("=", 1) for line in overrides if "=" in line)
    for line in overrides:
        if line.split("=")[0] not in OPTIONS or "=" not in line:
            raise BadRequest(f"cannot read --set {line!r}; allowed: {', '.join(OPTIONS)}")
    return options
