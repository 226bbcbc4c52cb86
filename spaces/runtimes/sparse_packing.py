"""Sparse packing: rows of a sparse matrix without their zeros, and a mask of where they were."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .payload import PartName


def pack_sparse(
    parts: Mapping[PartName, Tensor], rows: Tensor, zeros: int, name: str
) -> dict[PartName, Tensor]:
    """Packed parts with `plain` or `int8` cut to what is kept, and the `mask`.

    Args:
        parts: of the whole matrix, values as `(n, k)`.
        rows: `(n, k)`, the values before they were packed: they say where zeros are.
        zeros: how many every row holds at least. Where a row holds more, the first of those beyond
            are stored as values: the size is the paper's, whatever the data.
        name: of the weight, for the message.

    Raises:
        ValueError: a row holds fewer.
    """
    kept = rows.shape[1] - zeros
    most = int((rows != 0).sum(dim=1).max())
    if most > kept:
        raise ValueError(
            f"{name}: a row has {most} weights that are not zero, and its sparsity allows {kept}; "
            "whatever changed it must keep the candidate's masks"
        )
    places = (rows == 0).to(torch.uint8).argsort(dim=1, stable=True)[:, :kept].sort(dim=1).values
    mask = torch.zeros(rows.shape, dtype=torch.bool).scatter_(1, places, True)
    key = _values(parts)
    return {**parts, key: parts[key].gather(1, places).contiguous(), "mask": pack_bits(mask)}


def unpack_sparse(parts: Mapping[PartName, Tensor], columns: int) -> dict[PartName, Tensor]:
    """The inverse: values as `(n, columns)`, no mask."""
    key = _values(parts)
    values = parts[key]
    whole = values.new_zeros(len(values), columns)
    whole[unpack_bits(parts["mask"], columns)] = values.flatten()
    return {**{name: part for name, part in parts.items() if name != "mask"}, key: whole}


def pack_bits(mask: Tensor) -> Tensor:
    """Eight truths a byte, the first in the lowest bit: `(n, k)` to `(n, ceil(k / 8))` uint8."""
    filled = torch.nn.functional.pad(mask.to(torch.uint8), (0, -mask.shape[1] % 8))
    bits = filled.reshape(len(mask), -1, 8)
    return (bits << _PLACES).sum(dim=2, dtype=torch.uint8)


def unpack_bits(packed: Tensor, columns: int) -> Tensor:
    """The inverse: `(n, columns)` bool."""
    bits = (packed[..., None] >> _PLACES) & 1
    return bits.flatten(1)[:, :columns].bool()


_PLACES = torch.arange(8, dtype=torch.uint8)


def _values(parts: Mapping[PartName, Tensor]) -> PartName:
    return "plain" if "plain" in parts else "int8"
