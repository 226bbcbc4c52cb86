"""bf16: everything in 16 bits, stored and computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..configuration import Settings
from ..hyperparameter import Hyperparameter
from ..paper import Paper
from ..profile import Format
from ..steps import Step
from ..technique import Targets
from .declare import Declare, embeddings_knob, head_knob, matrices_and_tables


class Bf16:
    """Half the bytes; hidden states, norms, biases and unmerged adapters are bf16 too."""

    name: ClassVar[str] = "bf16"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"bytes", "outputs"})
    source: ClassVar[str] = "arXiv 1905.12322"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Formats of the embedding tables and of the head."""
        return (embeddings_knob("bf16"), *head_knob(paper, "bf16"))

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """None here: the runtime says what it cannot hold."""
        return []

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Declare."""
        formats = {
            **matrices_and_tables("bf16", settings),
            "norm": Format("bf16"),
            "adapter": Format("bf16"),
        }
        return (Declare(tuple(formats.items())),)
