"""Declare: the Amend that says in which format each group will be stored and computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Literal, cast

from ..configuration import Scalar, Settings
from ..hyperparameter import Hyperparameter, OneOf
from ..paper import Paper
from ..profile import Format, FormatName, Group
from ..steps import Phase, Reads

MATRICES: Final[tuple[Group, ...]] = ("attention", "ffn")
NAMES: Final[tuple[FormatName, ...]] = ("fp32", "bf16", "int8", "int4")
GROUP_SIZE: Final = OneOf("group_size", (32, 64, 128), 32, ordered=True)
"""Weights that share a scale below 8 bits: fewer are more exact, more are smaller."""

FEW_BITS: Final = OneOf("bits", (3, 4), 4, ordered=True)
"""Bits of a weight of attention and feed-forward, scales apart."""


@dataclass(frozen=True)
class Declare:
    """Declares formats; the runtime's Deploy makes them real.

    Args:
        formats: by group; groups left out keep what they have.
    """

    formats: tuple[tuple[Group, Format], ...]
    name: ClassVar[str] = "precision.declare"
    version: ClassVar[int] = 1
    phase: ClassVar[Phase] = Phase.PRECISION
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Reads]] = frozenset()
    amends: ClassVar[Literal[True]] = True

    @property
    def settings(self) -> Settings:
        """Each group's format, and its group size where it has one."""
        told: dict[str, Scalar] = {}
        for group, form in self.formats:
            told[group] = form.name
            if form.group_size is not None:
                told[f"{group}.group_size"] = form.group_size
        return told

    def on_paper(self, paper: Paper) -> Paper:
        """The profile with these formats."""
        return replace(paper, profile=paper.profile.with_formats(dict(self.formats)))


class Calibrated:
    """What steps share that look at the calibration split after formats were declared."""

    version: ClassVar[int] = 1
    phase: ClassVar[Phase] = Phase.PRECISION
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Reads]] = frozenset({"calibration", "formats"})

    def on_paper(self, paper: Paper) -> Paper:
        """The paper as it is: formats were declared before."""
        return paper


def embeddings_knob(method: FormatName) -> Hyperparameter:
    """The format of the embedding tables: the method's unless told otherwise."""
    values = NAMES if method in NAMES else (*NAMES, method)
    return OneOf("embeddings", values, method, ordered=True)


def head_knob(paper: Paper, method: FormatName) -> tuple[Hyperparameter, ...]:
    """The format of the head's own matrices: small and sensitive in classification.

    No knob where the head is the embedding table.
    """
    head = paper.profile.head
    if head.tied and head.kind == "language-modelling":
        return ()
    default = "fp32" if head.kind == "classification" else method
    return (OneOf("head", ("fp32", method), default, ordered=True),)


def few_bits_knobs(paper: Paper) -> tuple[Hyperparameter, ...]:
    """The storage knobs of the methods that choose integers of 3 or 4 bits."""
    return (FEW_BITS, embeddings_knob("int4"), *head_knob(paper, "int4"), GROUP_SIZE)


def few_bits(settings: Settings) -> Declare:
    """The step that declares what `few_bits_knobs` ask for."""
    method = cast(FormatName, f"int{settings['bits']}")
    formats = matrices_and_tables(method, settings, settings["group_size"])
    return Declare(tuple(formats.items()))


def form(name: Scalar, group_size: Scalar = GROUP_SIZE.default) -> Format:
    """The format of that name; only below 8 bits are scales shared within a row."""
    known = cast(FormatName, str(name))
    return Format(known, int(group_size)) if known in {"int4", "int3"} else Format(known)


def matrices_and_tables(
    method: FormatName, settings: Settings, group_size: Scalar = GROUP_SIZE.default
) -> Mapping[Group, Format]:
    """What the settings say for the groups that hold matrices and tables."""
    formats: dict[Group, Format] = {group: form(method, group_size) for group in MATRICES}
    formats["embeddings"] = form(settings["embeddings"], group_size)
    if "head" in settings:
        formats["head"] = form(settings["head"], group_size)
    return formats
