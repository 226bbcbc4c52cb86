"""Why a runtime, or a kind of folder to deploy to, cannot hold a model. On paper, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Final

from ..families import family_of, plain_objection
from ..finetuning import TABLE as FINETUNING
from ..finetuning.adapters import ThroughPeft
from ..profile import WHOLE, FormatName, Group, Profile
from ..technique import Targets
from .activations import ACTIVATIONS, activation_of
from .payload import is_stored_sparse

_TABLES: Final = frozenset({"fp32", "fp16", "int8", "int4"})
_MATRICES: Final = _TABLES | {"int8_static"}
ONNX_HOLDS: Final[Mapping[Group, frozenset[str]]] = {
    "embeddings": _TABLES,
    "attention": _MATRICES,
    "ffn": _MATRICES,
    "head": _MATRICES,
}
"""What ONNX Runtime computes with on CPU, or reads as fp32 (fp16); bf16 it has no kernels for."""

ONNX_ADAPTERS: Final = frozenset({"bottleneck"})
"""Adapters that are written into the graph: those that cannot be merged."""

_ROTATIONS: Final = frozenset({"default", "linear", "llama3", "yarn"})
"""Rotations that do not depend on a text's length."""


def unheld(profile: Profile, holds: Mapping[Group, frozenset[str]], runtime: str) -> Iterator[str]:
    """Declared formats that a runtime cannot hold, one line a format.

    Groups without a weight are passed over: nothing of them is stored.

    Args:
        profile: declares them.
        holds: by group; a group left out holds fp32 only.
        runtime: its name.
    """
    used = {weight.group for weight in profile.weights()}
    wrong: dict[FormatName, list[Group]] = {}
    for group, form in profile.declared():
        if group in used and form.name not in holds.get(group, {"fp32"}):
            wrong.setdefault(form.name, []).append(group)
    for name, groups in wrong.items():
        able = holds.get(groups[0], frozenset({"fp32"}))
        yield (
            f"{runtime} cannot hold {', '.join(groups)} in {name}; it holds {groups[0]} in "
            f"{', '.join(sorted(able))}: choose one of these or another runtime"
        )


def adapter_refusals(profile: Profile) -> Iterator[str]:
    """Adapters that read the matrices beside which they stand, where these are packed."""
    weights = {weight.name: weight for weight in profile.weights()}
    for adapter in (a for a in profile.adapters if a.reads_weights):
        own = profile.format_of("adapter").name
        beside = [weights[f"{path}.base_layer.weight"] for path in adapter.wraps]
        stored = {profile.format_of(weight.group, weight.layer).name for weight in beside}
        # fp16 is read as fp32
        if {"fp32" if name == "fp16" else name for name in stored} - {own}:
            yield (
                f"{adapter.kind} adapters read the weights beside which they stand, and these are "
                f"{', '.join(sorted(stored))}, not {own}; merge the adapters, or keep both alike"
            )


def unlike_adapters(profile: Profile) -> Iterator[str]:
    """Why torch cannot compute with adapters that are not of the hidden states' type."""
    adapter, hidden = profile.format_of("adapter").name, profile.format_of("norm").name
    if profile.adapters and adapter != hidden:
        yield (
            f"adapters in {adapter} beside hidden states in {hidden}; declare both alike, or "
            "merge the adapters"
        )


def beside_refusals(profile: Profile, targets: Targets) -> Iterator[str]:
    """Why folders that are to be deployed to, of another runtime, cannot hold a model."""
    if "hf" in targets.formats:
        yield from hf_refusals(profile)
    if "onnx" in targets.formats:
        yield from onnx_file_refusals(profile)


def onnx_refusals(profile: Profile) -> Iterator[str]:
    """Why a model cannot be written as an ONNX graph for ONNX Runtime."""
    yield from unheld(profile, ONNX_HOLDS, "onnxruntime")
    for adapter in (a for a in profile.adapters if a.kind not in ONNX_ADAPTERS):
        yield (
            f"onnxruntime takes no {adapter.kind} adapter beside the weights; merge it, or use "
            "the eager runtime"
        )
    activation = activation_of(profile)
    if activation is not None and activation not in ACTIVATIONS:
        known = ", ".join(sorted(ACTIVATIONS))
        yield f"onnxruntime has no activation {activation!r}, only {known}; use the eager runtime"
    rotation = _rotation(profile)
    if family_of(profile.family).rope and rotation not in _ROTATIONS:
        known = ", ".join(sorted(_ROTATIONS))
        yield f"onnxruntime has no {rotation!r} rotations, only {known}; use the eager runtime"


def onnx_file_refusals(profile: Profile) -> Iterator[str]:
    """Why an ONNX file would not be what was searched in another runtime."""
    yield from onnx_refusals(profile)
    if any(is_stored_sparse(profile, weight) for weight in profile.weights()):
        yield (
            "an ONNX file stores the zeros of sparse matrices, so that its size is another; choose "
            "the onnxruntime runtime, or leave onnx out of deploy"
        )


def onnx_gpu_refusals(profile: Profile) -> Iterator[str]:
    """Why ONNX Runtime cannot answer on a GPU; beside `onnx_refusals`."""
    if not _onnx_takes_gpus():
        yield (
            "the installed onnxruntime answers on the CPU alone; install onnxruntime-gpu in its "
            "place, or use the eager runtime"
        )
    for name in sorted({form.name for _, form in profile.declared()} & WHOLE):
        # its CUDA provider has no DynamicQuantizeLinear: products would go back to the CPU
        yield f"onnxruntime multiplies {name} on the CPU alone; use fp32, or the eager runtime"


@cache
def _onnx_takes_gpus() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def hf_refusals(profile: Profile) -> Iterator[str]:
    """Why transformers' own classes and a plain safetensors file cannot hold a model."""
    names = {form.name for _, form in profile.declared()}
    for name in sorted(names & WHOLE):
        yield f"plain safetensors do not hold {name}; leave hf out of deploy, or choose bf16"
    if "fp16" in names:
        yield "hf folders are written in fp32 or bf16; leave hf out of deploy, or choose bf16"
    if profile.sparsity:
        yield (
            "plain safetensors store the zeros of sparse matrices; leave hf out of deploy, or "
            "choose a structure without zeros"
        )
    reason = plain_objection(replace(profile, adapters=()))
    if reason is not None:
        yield f"transformers' classes cannot hold this structure: {reason}; leave hf out of deploy"
    for adapter in profile.adapters:
        if not isinstance(FINETUNING.get(adapter.kind), ThroughPeft):
            yield f"peft has no file for {adapter.kind} adapters; leave hf out of deploy"


def _rotation(profile: Profile) -> str:
    """The kind of rotation that the config names, under one of its keys."""
    extra = dict(profile.extra)
    for key in ("rope_parameters", "rope_scaling"):
        for word in ("rope_type", "type"):
            if (kind := extra.get(f"{key}.{word}")) is not None:
                return str(kind)
    return "default"
