"""The table of export targets: every kind of folder that a trial can be exported as.

Entry points of the group `paretune.export_targets` add rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Final

from ...errors import UnknownName
from ...spaces.paper import Paper
from .hf import Hf
from .native import Native
from .onnx import Onnx
from .target import Target

GROUP: Final = "paretune.export_targets"
BUILT_IN: Final[tuple[Target, ...]] = (Hf(), Onnx(), Native())


@cache
def targets() -> Mapping[str, Target]:
    """Every target, by the name that `--format` writes."""
    added: list[Target] = [entry.load()() for entry in entry_points(group=GROUP)]
    return {row.name: row for row in (*BUILT_IN, *added)}


def target_of(name: str) -> Target:
    """The target of that name.

    Raises:
        UnknownName: no such row.
    """
    if name not in targets():
        raise UnknownName("export format", name, targets())
    return targets()[name]


def default_target(paper: Paper) -> Target:
    """What a candidate's runtime is made for: hf for plain eager ones, onnx, else paretune."""
    if paper.runtime == "onnxruntime":
        return target_of("onnx")
    plain = paper.runtime == "eager" and target_of("hf").objection(paper) is None
    return target_of("hf" if plain else "paretune")
