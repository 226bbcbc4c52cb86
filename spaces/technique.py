"""Technique: one way to make a transformer cheaper. One file, one row in its slot's table.

A technique never trains and never touches weights itself: it says what can be turned, what is
illegal, and which steps do the work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeGuard, runtime_checkable

from .configuration import Choice, Settings
from .device import CPU
from .hyperparameter import Hyperparameter
from .paper import Paper
from .steps import Step


@dataclass(frozen=True)
class Targets:
    """What the result must fit: the export targets named by `deploy:`, the task, the device.

    Args:
        formats: names of export formats that must be able to hold the result (`hf`, `onnx`).
        task_kind: `classification` or `language-modelling`.
        device: where it will answer, `cpu` or `cuda:N`.
        tokens: of the longest text that it reads, with what it writes; 0: not known.
    """

    formats: tuple[str, ...] = ()
    task_kind: str = "classification"
    device: str = CPU
    tokens: int = 0


@runtime_checkable
class Technique(Protocol):
    """One row of a slot's table.

    Attributes:
        name: as the study file writes it.
        version: raised when its results change.
        moves: observables that some non-off setting moves: `parameters`, `trainable`, `flops`,
            `bytes`, `outputs`, `recipe`. The contract suite checks each.
        source: where it comes from (arXiv id).
    """

    name: ClassVar[str]
    version: ClassVar[int]
    moves: ClassVar[frozenset[str]]
    source: ClassVar[str]

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """What can be turned, declared once per study for the given model."""
        ...

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Why these settings are illegal on this paper, each with what to do; empty: legal."""
        ...

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """The steps that do it, any order; `lower` sorts them by phase."""
        ...


class Canonical(Protocol):
    """A technique of whose settings some mean the same."""

    def canonical(self, settings: Settings) -> Settings:
        """The one way to write these settings: equal meaning, equal values."""
        ...


def is_canonical(technique: object) -> TypeGuard[Canonical]:
    """Whether a technique is `Canonical`; `isinstance` with a protocol is too slow for a search."""
    return hasattr(technique, "canonical")


class Settled(Protocol):
    """A technique of whose knobs some have one legal value left beside what was chosen before.

    A space does not ask for these, as it asks for no knob of a method that was not chosen.
    """

    def settled(self, settings: Settings, before: Mapping[str, Choice]) -> Settings:
        """The values of these knobs; those whose every value is illegal are not among them.

        Args:
            settings: its own that are known, in the order of the knobs.
            before: what the slots that are asked earlier hold, where they do something.
        """
        ...


def is_settled(technique: object) -> TypeGuard[Settled]:
    """Whether a technique is `Settled`; see `is_canonical`."""
    return hasattr(technique, "settled")
