"""The slots' tables in one place: slot -> (its off method, its techniques).

A slot whose table is still empty stays as it is. Entry points of the group
`paretune.techniques.SLOT` add rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points

from ..errors import BadRequest, UnknownName
from .configuration import SLOTS
from .technique import Technique


@dataclass(frozen=True)
class Slot:
    """One slot.

    Args:
        name: one of `SLOTS`.
        off: the method that means "as it is"; it contributes no steps and never appears in a
            canonical configuration.
        techniques: by name, without `off` unless it does something.
    """

    name: str
    off: str
    techniques: Mapping[str, Technique]

    def technique(self, method: str) -> Technique:
        """The technique of that name.

        Raises:
            UnknownName: no such row.
        """
        if method not in self.techniques:
            raise UnknownName(f"{self.name} method", method, [self.off, *self.techniques])
        return self.techniques[method]


@cache
def slots() -> Mapping[str, Slot]:
    """Every slot with its table, built in and added by entry points."""
    from . import (
        architecture,
        dynamics,
        finetuning,
        plans,
        precision,
        recipes,
        recovery,
        runtimes,
        structure,
    )

    rooms = {
        "architecture": architecture,
        "recipe": recipes,
        "finetuning": finetuning,
        "structure": structure,
        "recovery": recovery,
        "precision": precision,
        "dynamics": dynamics,
        "runtime": runtimes,
        "plan": plans,
    }
    return {
        name: Slot(name, rooms[name].OFF, {**rooms[name].TABLE, **_added(name)}) for name in SLOTS
    }


def _added(slot: str) -> dict[str, Technique]:
    rows: dict[str, Technique] = {}
    for entry in entry_points(group=f"paretune.techniques.{slot}"):
        technique = entry.load()()
        if not isinstance(technique, Technique):
            raise BadRequest(f"entry point {entry.value} is no Technique; see CONTRIBUTING.md")
        rows[technique.name] = technique
    return rows
