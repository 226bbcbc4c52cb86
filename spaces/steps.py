"""The five kinds of step: how work is done.

A technique contributes steps; `lower.py` puts them in order, names each by its key, and the stage
store makes each once. Every step has a face on paper (`on_paper`, no torch, microseconds) and, but
for Amend, a face in practice. The contract suite holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

from .configuration import Settings
from .paper import Paper

if TYPE_CHECKING:
    import numpy as np

    from .candidate import Candidate
    from .task import Batch

Key = str
"""A name for a piece of work: hex digits of a hash over all that it depends on."""

Split = Literal["train", "calibration", "validation", "test"]

Reads = Literal["model", "train", "calibration", "recipe", "formats"]
"""What a step's result depends on beside its settings and its input: it enters the step's key."""


class Phase(IntEnum):
    """The place of a step in the order of work; ties keep slot order."""

    LOAD = 0
    RECIPE = 5
    ARCHITECTURE = 10
    ARCHITECTURE_AMEND = 12
    ARCHITECTURE_TRAIN = 14
    EXTRACT = 16
    STRUCTURE_BEFORE = 20
    ATTACH = 30
    AMEND = 40
    TRAIN = 50
    MERGE = 60
    STRUCTURE_AFTER = 70
    RECOVERY_AMEND = 80
    RECOVERY_TRAIN = 90
    PRECISION = 100
    DEPLOY = 110
    WRAP = 120


class Bench(Protocol):
    """What a step may ask for; implemented by `search/workshop.py`."""

    @property
    def device(self) -> str:
        """Where steps that compute much do so, `cpu` or `cuda:N`; candidates stay on the CPU."""
        ...

    def candidate(self, key: Key) -> Candidate:
        """The candidate that a key names, made or found."""
        ...

    def batches(
        self, split: Split, *, batch: int, share: float = 1.0, seed: int | None = None
    ) -> Iterator[Batch]:
        """One pass over a split. A seed shuffles; None keeps the order of the items."""
        ...

    def training_turn(self) -> None:
        """Called by Train between two optimiser steps: yields the host to a waiting measurement."""
        ...

    def progress(self, done: int, total: int) -> None:
        """Says how far a step is; may be called often."""
        ...


class Runner(Protocol):
    """A deployed model that answers. Opened from the files that were written, never from memory.

    What it answers lies in main memory: a GPU has finished by then, so a clock needs no other wait.
    """

    def logits(self, batch: Batch) -> np.ndarray:
        """`(b, outputs)` for classification, `(b, s, vocabulary)` for language modelling."""
        ...

    def generate(self, batch: Batch, tokens: int) -> np.ndarray:
        """Greedy continuation: `(b, tokens)` token ids."""
        ...

    def files(self) -> Sequence[Path]:
        """Every file that this runner needs: their sizes are the model's bytes."""
        ...

    def close(self) -> None:
        """Frees what it holds."""
        ...


@runtime_checkable
class Step(Protocol):
    """What all kinds share.

    Attributes:
        name: `technique.verb`, unique.
        version: raised when the step's results change.
        phase: its place in the order.
        draws: it uses the seed.
        reads: what its key depends on beside settings and input.
        settings: its own settings, JSON scalars.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    draws: ClassVar[bool]
    reads: ClassVar[frozenset[Reads]]

    @property
    def phase(self) -> Phase:
        """Its place: a class variable, or a field where a setting decides it."""
        ...

    @property
    def settings(self) -> Settings:
        """What this instance was told."""
        ...

    def on_paper(self, paper: Paper) -> Paper:
        """The paper after this step. No torch, no input or output, microseconds."""
        ...


@runtime_checkable
class Change(Step, Protocol):
    """Attach, merge, prune, extract: changes a candidate without gradient steps."""

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """The changed candidate (None comes in only for the first step, which loads)."""
        ...


@runtime_checkable
class Amend(Step, Protocol):
    """Edits the recipe or declares formats: paper only, so it makes no stage.

    A step is an Amend when it has none of the other kinds' verbs and `amends = True`.
    """

    amends: ClassVar[Literal[True]]


@runtime_checkable
class Train(Step, Protocol):
    """The only place where gradients flow."""

    def run(self, candidate: Candidate, until_step: int, bench: Bench, seed: int) -> Candidate:
        """Follows `candidate.paper.recipe` up to a step, resuming from the train state."""
        ...


@runtime_checkable
class Deploy(Step, Protocol):
    """Resolves declared formats into stored tensors: here bytes are defined."""

    def deploy(self, candidate: Candidate, folder: Path, bench: Bench) -> None:
        """Writes the artifact into an empty folder; the runtime's `open` answers from it."""
        ...


@runtime_checkable
class Wrap(Step, Protocol):
    """Cascade, speculative decoding: a Runner made of Runners."""

    def wrap(self, runners: Sequence[Runner]) -> Runner:
        """The runner that uses the others."""
        ...


Kind = Literal["change", "amend", "train", "deploy", "wrap"]
_VERBS: tuple[tuple[str, Kind], ...] = (
    ("run", "train"),
    ("deploy", "deploy"),
    ("wrap", "wrap"),
    ("apply", "change"),
)


@cache
def kind_of(step: type[Step]) -> Kind:
    """Which kind a class of steps is, by its verb.

    The same as `isinstance` with the protocols, which costs too much for thousands of candidates.
    """
    return next((kind for verb, kind in _VERBS if hasattr(step, verb)), "amend")
