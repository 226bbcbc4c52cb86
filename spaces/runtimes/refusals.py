"""Why a runtime, or a kind of folder to deploy to, cannot hold a model. On paper, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Final

from ..families import family_of, plain_objection
from ..finetuning import TABLE as FINETUNING
from ..finetuning.adapters import ThroughPeft
from ..paper import Paper, structure_of
from ..profile import GROUPS, WHOLE, Format, FormatName, Group, Profile
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

HF_TYPES: Final[Mapping[FormatName, str]] = {"fp32": "float32", "bf16": "bfloat16"}
"""What transformers calls the types that a folder of its own may have."""

ONNX_ADAPTERS: Final = frozenset({"bottleneck", "prefix", "prompt"})
"""Adapters that are written into the graph: those that cannot be merged."""

SOFT_TOKENS_IN_PEFT: Final = (
    "peft lets the head answer for soft tokens too: it classifies by the first of them, and gives "
    "logits of each"
)
"""Why a peft folder would answer otherwise."""

_ROTATIONS: Final = frozenset({"default", "linear", "llama3", "yarn"})
"""Rotations that do not depend on a text's length."""


def unheld(profile: Profile, holds: Mapping[Group, frozenset[str]], runtime: str) -> Iterator[str]:
    """Declared formats that a runtime cannot hold, one line a format, ending open.

    Groups without a weight are passed over: nothing of them is stored.

    Args:
        profile: declares them.
        holds: by group; a group left out holds fp32 only.
        runtime: its name.
    """
    used = {group for section in profile.sections for group in section.groups}
    wrong: dict[FormatName, list[Group]] = {}
    for group, form in profile.declared():
        if group in used and form.name not in holds.get(group, {"fp32"}):
            wrong.setdefault(form.name, []).append(group)
    for name, groups in wrong.items():
        able = holds.get(groups[0], frozenset({"fp32"}))
        mixed = any(group in profile.storage.by_layer for group in groups)
        yield (
            f"{runtime} cannot hold {', '.join(groups)} in {name}; it holds {groups[0]} in "
            f"{', '.join(sorted(able))}: {_instead(name, able, mixed=mixed)}"
        )


def _instead(name: FormatName, able: frozenset[str], *, mixed: bool) -> str:
    """What to choose for a format that is not held; by `precision/mix.py` where layers differ."""
    if not mixed:
        return "choose one of these"
    if name == "int3" and {"int8", "int4"} <= able:
        return "choose reach near with average_bits above 4, which needs no int3"
    return "choose a precision of one of these formats"


def otherwise(reasons: Iterable[str], what: str) -> Iterator[str]:
    """Reasons that end open, each with what else can be done.

    >>> list(otherwise(["too wide; choose less", "unknown"], "leave it out"))
    ['too wide; choose less, or leave it out', 'unknown; leave it out']
    """
    for reason in reasons:
        yield f"{reason}{', or' if ';' in reason else ';'} {what}"


def adapter_refusals(profile: Profile) -> Iterator[str]:
    """Adapters that read the matrices beside which they stand, where these are packed."""
    readers = [adapter for adapter in profile.adapters if adapter.reads_weights]
    weights = {weight.name: weight for weight in profile.weights()} if readers else {}
    for adapter in readers:
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


def beside_refusals(paper: Paper, targets: Targets) -> Iterator[str]:
    """Why folders that are to be deployed to, of another runtime, cannot hold a model."""
    yield from deployed_as_hf(paper, targets)
    if "onnx" in targets.formats:
        yield from otherwise(onnx_file_refusals(paper.profile), "leave onnx out of deploy")


def deployed_as_hf(paper: Paper, targets: Targets) -> Iterator[str]:
    """`hf_refusals` in the words of a study, where it deploys to hf."""
    if "hf" in targets.formats:
        yield from otherwise(hf_refusals(paper), "leave hf out of deploy")


def onnx_refusals(profile: Profile) -> Iterator[str]:
    """Why a model cannot be written as an ONNX graph for ONNX Runtime, each ending open."""
    yield from unheld(profile, ONNX_HOLDS, "onnxruntime")
    for adapter in (a for a in profile.adapters if a.kind not in ONNX_ADAPTERS):
        yield f"onnxruntime takes no {adapter.kind} adapter beside the weights; merge it"
    activation = activation_of(profile)
    if activation is not None and activation not in ACTIVATIONS:
        known = ", ".join(sorted(ACTIVATIONS))
        yield f"onnxruntime has no activation {activation!r}, only {known}"
    rotation = _rotation(profile)
    if family_of(profile.family).rope and rotation not in _ROTATIONS:
        known = ", ".join(sorted(_ROTATIONS))
        yield f"onnxruntime has no {rotation!r} rotations, only {known}"


def onnx_file_refusals(profile: Profile) -> Iterator[str]:
    """Why an ONNX file would not be what was searched in another runtime, each ending open."""
    yield from onnx_refusals(profile)
    if any(is_stored_sparse(profile, weight) for weight in profile.weights()):
        yield (
            "an ONNX file stores the zeros of sparse matrices, so that its size is another; choose "
            "the onnxruntime runtime"
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


def hf_refusals(paper: Paper) -> Iterator[str]:
    """Why neither transformers nor peft has a folder for a candidate, each with what to choose.

    The one rule: what it passes is exported as `hf`, and what it refuses is not. Each reason ends
    open, for its caller to say what else can be done.
    """
    profile = paper.profile
    for name in sorted({form.name for _, form in _stored(profile)} - set(HF_TYPES)):
        groups = [group for group, form in _stored(profile) if form.name == name]
        yield (
            f"hf folders do not hold {', '.join(groups)} in {name}, only in "
            f"{' or '.join(HF_TYPES)}; choose one of these"
        )
    if profile.sparsity:
        yield (
            "plain safetensors store the zeros of sparse matrices; choose a structure without zeros"
        )
    reason = plain_objection(replace(profile, adapters=()))
    if reason is not None:
        yield (
            f"transformers' {profile.family} classes cannot hold this structure: {reason}; choose "
            "one that is the same in every layer, such as ffn or layers of slope 0"
        )
    if profile.adapters:
        yield from _peft_refusals(paper)


def _peft_refusals(paper: Paper) -> Iterator[str]:
    """Why peft's folder, which adds adapters to the given model, would not be this candidate."""
    profile = paper.profile
    kinds = [adapter.kind for adapter in profile.adapters]
    if len(kinds) > 1:
        yield f"a peft folder holds one adapter, not {', '.join(kinds)}; merge the others"
    if profile.soft_tokens:
        yield f"{SOFT_TOKENS_IN_PEFT}; choose another fine-tuning"
    for kind in kinds:
        if not profile.soft_tokens and not isinstance(FINETUNING.get(kind), ThroughPeft):
            yield f"peft has no file for {kind} adapters; choose another fine-tuning"
    types = {form.name for _, form in _stored(profile)} & set(HF_TYPES)
    if types != {"fp32"}:
        yield (
            f"an unmerged adapter is exported in fp32, not {', '.join(sorted(types))}; choose "
            "precision fp32, or merge: merge"
        )
    if paper.given not in (None, structure_of(profile)):
        yield (
            "peft adds an adapter to the given model, and this one's structure is another; choose "
            "structure none (and architecture given), or merge: merge"
        )
    body = [w.name for w in profile.weights() if w.group not in ("head", "adapter")]
    moved = next((name for name in body if paper.knows(name)), None)
    if moved is not None:
        yield (
            f"peft adds an adapter to the given model, and here {moved} was trained as well; "
            "choose recovery none (and architecture given), or merge: merge"
        )


def _stored(profile: Profile) -> list[tuple[Group, Format]]:
    """The groups that have weights, with each format that some layer of theirs has."""
    pairs = ((w.group, profile.format_of(w.group, w.layer)) for w in profile.weights())
    return sorted(dict.fromkeys(pairs), key=lambda pair: GROUPS.index(pair[0]))


def _rotation(profile: Profile) -> str:
    """The kind of rotation that the config names, under one of its keys."""
    extra = dict(profile.extra)
    for key in ("rope_parameters", "rope_scaling"):
        for word in ("rope_type", "type"):
            if (kind := extra.get(f"{key}.{word}")) is not None:
                return str(kind)
    return "default"
