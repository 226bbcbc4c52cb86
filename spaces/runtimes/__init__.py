"""The table of the `runtimes` folder: one row a runtime, and how an artifact is opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ...errors import VerificationFailed
from ..device import CPU
from ..steps import Runner
from ..technique import Technique
from .artifact import read_description, verify_files
from .compiled import Compiled
from .eager import Eager
from .onnx_runtime import OnnxRuntime
from .runtime import Runtime

__all__ = ["OFF", "RUNTIMES", "TABLE", "open_artifact", "verify_files"]

OFF: Final = "eager"
RUNTIMES: Final[Mapping[str, Runtime]] = {
    row.name: row for row in (Eager(), Compiled(), OnnxRuntime())
}
"""Every runtime, by the name that a study file writes."""

TABLE: Final[Mapping[str, Technique]] = RUNTIMES


def open_artifact(folder: Path, threads: int = 1, device: str = CPU) -> Runner:
    """A runner over an artifact, in the runtime that wrote it.

    Args:
        folder: what a Deploy wrote, wherever it lies now.
        threads: CPU threads that it may use.
        device: where it answers, `cpu` or `cuda:N`.

    Raises:
        VerificationFailed: it is no artifact, or one of a runtime or version not known here.
    """
    described = read_description(folder)
    row = RUNTIMES.get(described.runtime)
    if row is None or row.version != described.version:
        known = ", ".join(f"{name} {known.version}" for name, known in RUNTIMES.items())
        raise VerificationFailed(
            f"{folder} was written by {described.runtime} {described.version}; this version opens "
            f"{known}: export it anew"
        )
    return row.open(folder, threads=threads, device=device)
