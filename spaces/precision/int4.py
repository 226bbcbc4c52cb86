"""int4: matrices and tables in 4 bits, a scale and a zero for every few weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..configuration import Settings
from ..hyperparameter import Hyperparameter
from ..paper import Paper
from ..steps import Step
from ..technique import Targets
from .declare import GROUP_SIZE, Declare, embeddings_knob, head_knob, matrices_and_tables


class Int4:
    """An eighth of the bytes, scales and zeros apart, rounded to the nearest.

    It saves bytes on disk. In the eager runtime matrices stand in memory and are computed as int8,
    no faster and no smaller there; gptq, awq and hqq store as few bytes and lose less.
    """

    name: ClassVar[str] = "int4"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"bytes", "outputs"})
    source: ClassVar[str] = "arXiv 2210.17323 (storage by group; rounded to nearest here)"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Formats of the embedding tables and of the head; weights that share a scale."""
        return (embeddings_knob("int4"), *head_knob(paper, "int4"), GROUP_SIZE)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """None here: the runtime says what it cannot hold."""
        return []

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Declare."""
        formats = matrices_and_tables("int4", settings, settings["group_size"])
        return (Declare(tuple(formats.items())),)
