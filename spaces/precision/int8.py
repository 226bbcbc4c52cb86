"""int8: matrices and tables in 8 bits, one scale a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..configuration import Settings
from ..hyperparameter import Hyperparameter
from ..paper import Paper
from ..steps import Step
from ..technique import Targets
from .declare import Declare, embeddings_knob, head_knob, matrices_and_tables


class Int8:
    """A quarter of the bytes; products of whole numbers, activations rounded as they come."""

    name: ClassVar[str] = "int8"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"bytes", "outputs"})
    source: ClassVar[str] = "arXiv 2103.13630; activations by token as in arXiv 2206.01861"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Formats of the embedding tables and of the head."""
        return (embeddings_knob("int8"), *head_knob(paper, "int8"))

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """None here: the runtime says what it cannot hold."""
        return []

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Declare."""
        return (Declare(tuple(matrices_and_tables("int8", settings).items())),)
