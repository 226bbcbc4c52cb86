"""A model's costs on paper: what it takes to hold, to train and to ask, without loading it.

Everything is `exact` or `modelled` from structure and data sheets; nothing is run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BadRequest, ModelError
from ..evaluators.compute.backward import training_step_flops
from ..spaces.families import family_of
from ..spaces.models import model_config
from ..spaces.paper import Workload
from ..spaces.profile import Format, Group, Head, Profile, decode_flops, forward_flops, parameters
from ..spaces.runtimes import RUNTIMES

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
        BadRequest: an unknown option, or a value that it cannot have.
    """
    options = _options(overrides)
    profile = _profile(_config(model), options)
    workload = Workload(
        batch=_whole(options, "batch", 1),
        prompt_tokens=_whole(options, "prompt_tokens", 128),
        output_tokens=_whole(options, "output_tokens", 0, least=0),
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
        "training": _training(profile, _tokens(options), workload, count),
    }


def _memory(profile: Profile, workload: Workload) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name in PRECISIONS:
        declared = _declared(profile, name)
        for runtime in RUNTIMES.values():
            if all(name in runtime.holds.get(g, {"fp32"}) for g in ("attention", "ffn")):
                key = f"{runtime.name}_{name}_bytes"
                figures[key] = runtime.payload_bytes(declared)
    if _decodes(profile.family):
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
    family = family_of(str(config.get("model_type")))
    kind = options.get("kind", "language-modelling" if _decodes(family.name) else "classification")
    outputs = _whole(options, "outputs", 2)
    if kind == "classification":
        return family.profile(dict(config), Head("classification", outputs))
    if kind != "language-modelling":
        raise BadRequest(f"kind is {kind!r}; it must be classification or language-modelling")
    tied = config.get("tie_word_embeddings")
    head = Head(
        "language-modelling", config.get("vocab_size", 0), family.tied if tied is None else tied
    )
    return family.profile(dict(config), head)


def _decodes(family: str) -> bool:
    return family_of(family).kind == "decoder"


def _config(model: str) -> Mapping[str, Any]:
    path = Path(model).expanduser()
    if path.is_dir():
        path /= "config.json"
    if not path.is_file():
        if path.suffix == ".json":
            raise ModelError(f"no file {path}; give a config.json, its folder, or a hub id")
        return model_config(model)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}; give a config.json") from error
    if not isinstance(data, dict) or "model_type" not in data:
        raise ModelError(f"{path} does not say its model_type; give a config.json of transformers")
    return data


def _options(overrides: Sequence[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for line in overrides:
        name, sign, value = line.partition("=")
        if name not in OPTIONS or not sign:
            raise BadRequest(f"cannot read --set {line!r}; write one of {', '.join(OPTIONS)}=VALUE")
        options[name] = value
    return options


def _whole(options: Mapping[str, str], name: str, default: int, least: int = 1) -> int:
    written = options.get(name, str(default))
    if not written.isdecimal() or int(written) < least:
        raise BadRequest(f"{name} is {written!r}; it must be a whole number from {least} up")
    return int(written)


def _tokens(options: Mapping[str, str]) -> float:
    written = options.get("train_tokens", "0")
    try:
        value = float(written)
    except ValueError:
        value = math.nan
    if not 0.0 <= value < math.inf:
        raise BadRequest(f"train_tokens is {written!r}; it must be a number from 0 up, as 1e9")
    return value
