"""Export target `hf`: a folder that plain transformers loads, or peft where adapters stay apart."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from ...spaces.paper import Paper
from ...spaces.profile import GROUPS, Profile
from ...spaces.runtimes.refusals import HF_TYPES, hf_refusals, otherwise
from ...spaces.steps import Runner
from .description import Description
from .files import copy_tokenizer, write_config
from .target import Closeness, Piece, Written


class Hf:
    """transformers' own classes, config.json, one safetensors file of one type."""

    name: ClassVar[str] = "hf"
    runtime: ClassVar[str | None] = "eager"

    def objection(self, paper: Paper) -> str | None:
        """What a study that deploys to hf refuses before anything is made."""
        return next(otherwise(hf_refusals(paper), "use --format paretune"), None)

    def closeness(self, paper: Paper) -> Closeness:
        """Torch computes the same where all of it has one type."""
        mixed = len(_types(paper.profile)) > 1
        return "other computation" if mixed else "same computation"

    def write(self, piece: Piece, folder: Path) -> Written:
        """Writes config.json and model.safetensors, or peft's two files, and the tokenizer."""
        copy_tokenizer(piece.source, folder)
        if piece.paper.profile.adapters:
            from .peft_folder import write_peft

            return Written(options=write_peft(piece, folder))
        return _write_whole(piece, folder)

    def open(self, folder: Path, described: Description, threads: int, device: str) -> Runner:
        """A runner over transformers' Auto class, or peft's model on its base.

        Raises:
            VerificationFailed: it does not load whole, or the base is another one.
        """
        from .hf_runner import HfRunner

        if not described.options:
            return HfRunner(folder, described.kind, threads, device)
        from .peft_folder import base_of

        base = base_of(described)
        told = described.options
        return HfRunner(folder, described.kind, threads, device, base=base, options=told)

    def library(self, described: Description) -> str:
        """transformers, and peft where it takes part."""
        names = ("transformers", "peft") if described.options else ("transformers",)
        return ", ".join(f"{name} {version(name)}" for name in names)

    def usage(self, described: Description) -> str:
        """Loading and one answer."""
        from .usage import hf_usage, peft_usage

        return peft_usage(described) if described.options else hf_usage(described)


def _write_whole(piece: Piece, folder: Path) -> Written:
    import torch
    from safetensors.torch import load_file, save_file

    from ...spaces.runtimes.eager_runner import TENSORS

    profile = piece.paper.profile
    dtype = HF_TYPES[profile.format_of("norm").name]
    tensors = load_file(piece.artifact / TENSORS)
    cast = {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()}
    save_file(cast, folder / "model.safetensors", metadata={"format": "pt"})
    write_config(profile, piece.task, folder, dtype)
    return Written(tuple(_remarks(profile, dtype)))


def _remarks(profile: Profile, dtype: str) -> Iterator[str]:
    for group in GROUPS:
        form = profile.format_of(group).name
        if any(w.group == group for w in profile.weights()) and HF_TYPES[form] != dtype:
            yield f"The {group} weights, searched in {form}, are stored in {dtype}."


def _types(profile: Profile) -> set[str]:
    return {profile.format_of(weight.group).name for weight in profile.weights()}
