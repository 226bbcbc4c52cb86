"""What a runtime stores for each weight, on paper: parts, their types, shapes and bytes.

`packing.py` makes exactly these parts. No torch here.

    fp32, bf16, fp16   the tensor as it is; vectors are never below 16 bits
    int8, int8_static  (rows, columns) int8, symmetric, one fp32 scale a row
    int4               two a byte in groups along a row, with an fp16 scale and a 4-bit zero a group
                       (two zeros a byte); the last group of a row is filled up
    int3               the same with eight in three bytes; zeros still take four bits

A row is what one output reads (or what one word looks up), however the module lays it out.

Sparse matrices are stored without their zeros where that is smaller, in fp32, bf16, fp16 and int8:

    mask               one bit a weight, eight a byte, the first in the lowest bit
    plain or int8      (rows, kept): every row holds as many zeros as the profile says

A map of words, where there is one, is stored as it is: int32, one number for each word.

For 2:4 the mask takes the four bits for four weights that two 2-bit indices would take, so that one
form serves all patterns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal

from ..profile import WHOLE, Format, Profile, Storage, Weight
from ..sections import Section

PartName = Literal["plain", "int8", "int4", "int3", "scale", "zero", "mask", "rows"]
DEFAULT_GROUP: Final = 32
"""Weights that share an int4 or int3 scale where the format does not say."""

_BYTES: Final = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1, "uint8": 1, "int32": 4}


@dataclass(frozen=True)
class Part:
    """One stored tensor."""

    name: PartName
    dtype: Literal["fp32", "bf16", "fp16", "int8", "uint8", "int32"]
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * _BYTES[self.dtype]


def stored_format(profile: Profile, weight: Weight) -> Format:
    """The format that a weight is stored in: declared, but vectors stay at 16 bits or more."""
    return _form(profile.storage, weight)


def parts(profile: Profile, weight: Weight) -> tuple[Part, ...]:
    """The tensors that are stored for a weight."""
    return _parts(profile.storage, weight)


def is_stored_sparse(profile: Profile, weight: Weight) -> bool:
    """Whether a weight is stored without its zeros."""
    return any(part.name == "mask" for part in parts(profile, weight))


def with_zeros(profile: Profile) -> Profile:
    """The profile as a runtime stores it that keeps zeros like any other weight."""
    return replace(profile, sparsity=())


def _form(storage: Storage, weight: Weight) -> Format:
    declared = storage.format_of(weight.group, weight.layer)
    vector = weight.role == "vector"
    return Format() if vector and declared.name in WHOLE else declared


def _parts(storage: Storage, weight: Weight) -> tuple[Part, ...]:
    whole = _whole(_form(storage, weight), weight)
    zeros = storage.zeros(weight)
    if not zeros or whole[0].name not in ("plain", "int8"):
        return whole
    rows, columns = sides(weight)
    values = replace(whole[0], shape=(rows, columns - zeros))
    sparse = (Part("mask", "uint8", (rows, -(-columns // 8))), values, *whole[1:])
    return min(whole, sparse, key=lambda found: sum(part.bytes for part in found))


def _whole(form: Format, weight: Weight) -> tuple[Part, ...]:
    if form.name == "int8" or form.name == "int8_static":
        rows, columns = sides(weight)
        return (Part("int8", "int8", (rows, columns)), Part("scale", "fp32", (rows,)))
    if form.name == "int4" or form.name == "int3":
        rows, columns = sides(weight)
        size = form.group_size or DEFAULT_GROUP
        groups = -(-columns // size)
        return (
            Part(form.name, "uint8", (rows, groups, size * form.bits // 8)),
            Part("scale", "fp16", (rows, groups)),
            Part("zero", "uint8", (rows, -(-groups // 2))),
        )
    return (Part("plain", form.name, weight.shape),)


def sides(weight: Weight) -> tuple[int, int]:
    """Rows (one for each output or word) and columns of a matrix or table."""
    if weight.role == "table":
        return weight.shape[0], weight.shape[1]
    return weight.shape[1 - weight.input_axis], weight.shape[weight.input_axis]


def payload_bytes(profile: Profile) -> int:
    """Bytes of all parts of all weights, and of the map of words."""
    storage = profile.storage
    # Where layers differ in their formats, blocks of one size do not take the same bytes.
    sections = profile.sections if storage.by_layer else [s.alike for s in profile.sections]
    stored = sum(_bytes(section, storage) for section in sections)
    return stored + sum(part.bytes for part in map_parts(profile))


@lru_cache(maxsize=32_768)
def _bytes(section: Section, storage: Storage) -> int:
    return sum(part.bytes for weight in section.weights for part in _parts(storage, weight))


def map_parts(profile: Profile) -> tuple[Part, ...]:
    """The map from words to rows of their table, where the table has fewer rows; else nothing."""
    return () if profile.word_rows is None else (Part("rows", "int32", (profile.vocabulary,)),)
