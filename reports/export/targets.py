"""TARGETS: every kind of folder that a trial can be exported as."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ...errors import UnknownName
from ...spaces.paper import Paper
from .hf import Hf
from .native import Native
from .onnx import Onnx
from .target import Target

TARGETS: Final[Mapping[str, Target]] = {row.name: row for row in (Hf(), Onnx(), Native())}
"""By the name that `--format` writes."""


def target_of(name: str) -> Target:
    """The target of that name.

    Raises:
        UnknownName: no such row.
    """
    if name not in TARGETS:
        raise UnknownName("export format", name, TARGETS)
    return TARGETS[name]


def default_target(paper: Paper) -> Target:
    """What a candidate's runtime is made for: hf for plain eager ones, onnx, else paretune."""
    if paper.runtime == "onnxruntime":
        return TARGETS["onnx"]
    plain = paper.runtime == "eager" and TARGETS["hf"].objection(paper) is None
    return TARGETS["hf" if plain else "paretune"]
