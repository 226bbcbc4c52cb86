"""Answering through torch.compile."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch._inductor.config as inductor
from torch import nn

from ..task import Batch
from .eager_runner import EagerRunner
from .rereading import written_anew


class CompiledRunner(EagerRunner):
    """Answers from the files of an eager artifact through a compiled graph.

    The graph is the same for every length of text, so that an answer does not depend on what was
    asked before.

    Args:
        folder: where the files lie.
        threads: torch's, for the whole process.
        device: where it answers, `cpu` or `cuda:N`.

    Raises:
        VerificationFailed: a file is missing, broken, or of another structure.
    """

    def __init__(self, folder: Path, threads: int, device: str) -> None:
        super().__init__(folder, threads, device)
        # Compilers in processes of their own would stay, and count as the worker's memory.
        inductor.compile_threads = 1
        # What the process compiled for other models counts against the same limit.
        torch.compiler.reset()
        module = cast(Any, self._module)
        module.config.use_cache = False
        self._module = cast(nn.Module, torch.compile(module, fullgraph=True, dynamic=True))

    def generate(self, batch: Batch, tokens: int) -> np.ndarray:
        """Greedy continuation: `(b, tokens)`; the whole text is read anew for every token."""
        return written_anew(self._answered, batch, tokens)

    def close(self) -> None:
        """Frees the module and its code; nothing answers afterwards."""
        super().close()
        torch.compiler.reset()
