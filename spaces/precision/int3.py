"""int3: matrices and tables in 3 bits, a scale and a zero for every few weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..configuration import Settings
from ..hyperparameter import Hyperparameter
from ..paper import Paper
from ..steps import Step
from ..technique import Targets
from .declare import GROUP_SIZE, Declare, embeddings_knob, head_knob, matrices_and_tables


class Int3:
    """A tenth of the bytes, scales and zeros apart, rounded to the nearest; for the eager runtime.

    Little survives it without training: gptq, awq and hqq store as few bytes and lose less. It is
    computed as int8, so it is not faster than that.
    """

    name: ClassVar[str] = "int3"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"bytes", "outputs"})
    source: ClassVar[str] = "arXiv 2210.17323 (storage by group; rounded to nearest here)"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Formats of the embedding tables and of the head; weights that share a scale."""
        return (embeddings_knob("int3"), *head_knob(paper, "int3"), GROUP_SIZE)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """None here: the runtime says what it cannot hold."""
        return []

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Declare."""
        formats = matrices_and_tables("int3", settings, settings["group_size"])
        return (Declare(tuple(formats.items())),)
