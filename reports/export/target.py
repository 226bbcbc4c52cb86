"""Target: one kind of folder that an artifact can be handed over as. One file, one row a target.

A target writes the folder from what a runtime's Deploy wrote, and opens it again with nothing but
the library that users will open it with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from ...spaces.paper import Paper
from ...spaces.steps import Runner
from ...spaces.task import Task
from .description import Description

Closeness = Literal["same files", "same computation", "other computation"]
"""How near an exported folder is to what was searched; `compare.py` says what each must prove."""


@dataclass(frozen=True)
class Piece:
    """What is to be packaged.

    Args:
        artifact: the folder that the target's runtime wrote.
        paper: the candidate on paper, as deployed there.
        task: labels, padding and length come from it.
        base: the given model as the study names it: a hub id or a folder.
        source: the folder of the given model's files, tokenizer included.
    """

    artifact: Path
    paper: Paper
    task: Task
    base: str
    source: Path


@dataclass(frozen=True)
class Written:
    """What a target wrote.

    Args:
        remarks: where the folder differs from what was searched, one sentence each.
        options: what must be known to open it that its files do not say, JSON.
    """

    remarks: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


class Target(Protocol):
    """One row of `targets()`.

    Attributes:
        name: as `--format` and the study's `deploy` write it.
        runtime: the runtime whose artifact it is made of; None: the one that the trial ran on.
    """

    name: ClassVar[str]
    runtime: ClassVar[str | None]

    def objection(self, paper: Paper) -> str | None:
        """Why it cannot hold a candidate as deployed, and what to do; None: it can."""
        ...

    def closeness(self, paper: Paper) -> Closeness:
        """How near it is to its runtime's artifact of a candidate."""
        ...

    def write(self, piece: Piece, folder: Path) -> Written:
        """Writes model and tokenizer into an empty folder."""
        ...

    def open(self, folder: Path, described: Description, threads: int, device: str) -> Runner:
        """Answers from the folder, with the users' library alone, on a device (`cpu`, `cuda:N`)."""
        ...

    def library(self, described: Description) -> str:
        """What opens it, with versions: `transformers 5.23.0`."""
        ...

    def usage(self, described: Description) -> str:
        """Python that loads the model from the current folder and answers one text."""
        ...
