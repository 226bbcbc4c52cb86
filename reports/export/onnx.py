"""Export target `onnx`: one ONNX file for ONNX Runtime, with the tokenizer beside it."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from ...spaces.paper import Paper
from ...spaces.runtimes.onnx_runtime import MODEL
from ...spaces.steps import Runner
from .description import Description
from .files import copy_tokenizer, write_config
from .target import Closeness, Piece, Written


class Onnx:
    """`model.onnx`, for a trial of any runtime that ONNX Runtime can follow."""

    name: ClassVar[str] = "onnx"
    runtime: ClassVar[str | None] = "onnxruntime"

    def objection(self, paper: Paper) -> str | None:
        """None: what ONNX Runtime cannot hold, its own row refuses."""
        return None

    def closeness(self, paper: Paper) -> Closeness:
        """The runtime's own file."""
        return "same files"

    def write(self, piece: Piece, folder: Path) -> Written:
        """Copies the graph, and writes config.json and the tokenizer."""
        for path in sorted(piece.artifact.glob(f"{MODEL}*")):
            shutil.copyfile(path, folder / path.name)
        copy_tokenizer(piece.source, folder)
        write_config(piece.paper.profile, piece.task, folder)
        return Written()

    def open(self, folder: Path, described: Description, threads: int, device: str) -> Runner:
        """A runner over an InferenceSession.

        Raises:
            VerificationFailed: ONNX Runtime cannot load the file.
        """
        from ...spaces.runtimes.onnx_runner import OnnxRunner

        return OnnxRunner(folder / MODEL, threads, device)

    def library(self, described: Description) -> str:
        """ONNX Runtime."""
        return f"onnxruntime {version('onnxruntime')}"

    def usage(self, described: Description) -> str:
        """Loading and one answer."""
        from .usage import onnx_usage

        return onnx_usage(described)
