"""Export target `paretune`: the trial's own artifact as its runtime wrote it, tokenizer beside it.

It holds what no other format does: packed int8 and int4 weights, layers of unequal sizes, adapters
of any kind. It is opened with paretune.
"""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Final

from ...spaces.paper import Paper
from ...spaces.runtimes import open_artifact, verify_files
from ...spaces.runtimes.artifact import NAME
from ...spaces.steps import Runner
from .description import Description
from .files import copy_tokenizer, write_config
from .target import Closeness, Piece, Written

ARTIFACT: Final = "artifact"
"""The folder of the artifact; apart from config.json, so that nothing else takes it for its own."""


class Native:
    """The searched files themselves."""

    name: ClassVar[str] = "paretune"
    runtime: ClassVar[str | None] = None

    def objection(self, paper: Paper) -> str | None:
        """None: it was made."""
        return None

    def closeness(self, paper: Paper) -> Closeness:
        """The searched files."""
        return "same files"

    def write(self, piece: Piece, folder: Path) -> Written:
        """Copies the artifact, and writes config.json and the tokenizer."""
        for name in (NAME, *verify_files(piece.artifact).files):
            target = folder / ARTIFACT / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(piece.artifact / name, target)
        copy_tokenizer(piece.source, folder)
        write_config(piece.paper.profile, piece.task, folder)
        return Written()

    def open(self, folder: Path, described: Description, threads: int, device: str) -> Runner:
        """The runtime's own runner.

        Raises:
            VerificationFailed: it is no artifact that this version opens.
        """
        return open_artifact(folder / ARTIFACT, threads=threads, device=device)

    def library(self, described: Description) -> str:
        """paretune, and the runtime with its library."""
        libraries = {"eager": "torch", "compiled": "torch", "onnxruntime": "onnxruntime"}
        below = libraries.get(described.runtime)
        beside = f", {below} {version(below)}" if below else ""
        return f"paretune {version('paretune')}{beside}"

    def usage(self, described: Description) -> str:
        """Loading and one answer."""
        from .usage import native_usage

        return native_usage(described)
