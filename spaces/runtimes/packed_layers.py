"""Small modules that hold packed weights and compute from them, in the places of plain ones.

Int8 products are exact integer products (torch._int_mm on a GPU and where the processor has
instructions for them, else fp32 within its whole numbers): each token's activations are rounded to
int8 with a scale and a zero of their own when they come in (arXiv 2206.01861, section 3.2), so that
nothing is calibrated. On a sentence encoder that moves the logits by 6 %, without zeros by 10 %,
with one scale a tensor by 14 %.

Int4 and int3 matrices stand in memory as int8 rows, for the same product: the second rounding adds
1 % to the error of the first of int4. Tables stay as packed as they are stored; only the words that
are looked up are unpacked. Nothing here is resident in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor, nn

from .packing import pack_int8, unpack_groups
from .payload import PartName

_TOKENS = 128
"""Tokens multiplied at a time: more leave the cache between one pass and the next (2 x slower)."""

_ROWS = 64
"""Packed rows turned into int8 ones at a time."""

_EXACT = 1024
"""Products of int8 whose sum stays within 2^24, at 2^14 each."""


class Int8Linear(nn.Module):
    """A linear map from int8 rows.

    Args:
        values: `(outputs, inputs)` int8.
        scale: `(outputs,)` fp32.
        bias: `(outputs,)` fp32, None: there is none.
    """

    def __init__(self, values: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.values = nn.Buffer(values)
        self.scale = nn.Buffer(scale)
        self.sums = nn.Buffer(values.sum(dim=1, dtype=torch.int32).float())
        self.bias = nn.Buffer(torch.zeros_like(scale) if bias is None else bias.detach())

    def forward(self, hidden: Tensor) -> Tensor:
        """`(..., inputs)` to `(..., outputs)`, in the type that comes in."""
        inputs = hidden.reshape(-1, hidden.shape[-1]).float()
        outputs = inputs.new_empty(inputs.shape[0], self.scale.shape[0])
        size = _TOKENS if inputs.device.type == "cpu" else max(1, inputs.shape[0])
        for start in range(0, inputs.shape[0], size):
            self._multiply(inputs[start : start + size], outputs[start : start + size])
        return outputs.reshape(*hidden.shape[:-1], -1).to(hidden.dtype)

    def _multiply(self, tokens: Tensor, out: Tensor) -> None:
        low = tokens.amin(dim=1, keepdim=True).clamp_(max=0)
        high = tokens.amax(dim=1, keepdim=True).clamp_(min=0)
        step = (high - low).clamp_(min=1e-30).div_(255)
        zero = (low / step).round_().add_(128).neg_()
        rounded = (tokens / step).round_().add_(zero).clamp_(-128, 127).to(torch.int8)
        product = _product(tokens.device.type)
        # x w = step (rounded - zero) values scale
        torch.mul(product(rounded, self.values.t()), step, out=out)
        torch.addcmul(out, zero * step, self.sums, value=-1, out=out)
        torch.addcmul(self.bias, out, self.scale, out=out)


def int8_from_groups(stored: Mapping[PartName, Tensor], columns: int) -> tuple[Tensor, Tensor]:
    """Int8 rows and their scales from packed int4 or int3 rows of `columns` weights.

    A few rows at a time: whole matrices in fp32 would stand in memory longer than they are needed.
    """
    count = len(stored["scale"])
    values = torch.empty(count, columns, dtype=torch.int8)
    steps = torch.empty(count)
    for start in range(0, count, _ROWS):
        part = slice(start, start + _ROWS)
        found = unpack_groups({name: tensor[part] for name, tensor in stored.items()})
        rows = pack_int8(found[:, :columns])
        values[part], steps[part] = rows["int8"], rows["scale"]
    return values, steps


class Int8Table(nn.Module):
    """An embedding table of int8 rows.

    Args:
        values: `(words, width)` int8. scale: `(words,)` fp32.
        dtype: what it answers in.
    """

    def __init__(self, values: Tensor, scale: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.values = nn.Buffer(values)
        self.scale = nn.Buffer(scale)
        self.dtype = dtype

    def forward(self, words: Tensor) -> Tensor:
        """`(...)` numbers to `(..., width)`."""
        return (self.values[words].float() * self.scale[words].unsqueeze(-1)).to(self.dtype)


class GroupTable(nn.Module):
    """An embedding table of packed int4 or int3 rows.

    Args:
        stored: as `pack_groups` returns it.
        width: weights of a row.
        dtype: what it answers in.
    """

    def __init__(self, stored: Mapping[PartName, Tensor], width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.parts: tuple[PartName, ...] = tuple(stored)
        for name, tensor in stored.items():
            setattr(self, name, nn.Buffer(tensor))
        self.width = width
        self.dtype = dtype

    def forward(self, words: Tensor) -> Tensor:
        """`(...)` numbers to `(..., width)`."""
        rows = unpack_groups({name: self.get_buffer(name)[words] for name in self.parts})
        return rows[..., : self.width].to(self.dtype)


class SharedRows(nn.Module):
    """A table whose rows several words share.

    Args:
        table: answers for a row.
        rows: `(words,)` int32, the row that each word reads.
    """

    def __init__(self, table: nn.Module, rows: Tensor) -> None:
        super().__init__()
        self.table = table
        self.rows = nn.Buffer(rows)

    def forward(self, words: Tensor) -> Tensor:
        """`(...)` words to `(..., width)`."""
        answer: Tensor = self.table(self.rows[words])
        return answer


class Cast(nn.Module):
    """A plain module of another type than the hidden states around it.

    Args:
        inner: the module. compute: its type.
        answer: what it answers in.
    """

    def __init__(self, inner: nn.Module, compute: torch.dtype, answer: torch.dtype) -> None:
        super().__init__()
        self.inner = inner
        self.compute = compute
        self.answer = answer

    def forward(self, given: Tensor) -> Tensor:
        """What the inner module answers; word numbers are passed on as they are."""
        fitting = given.to(self.compute) if given.is_floating_point() else given
        answer: Tensor = self.inner(fitting)
        return answer.to(self.answer)


@cache
def has_int8_product() -> bool:
    """Whether this processor has instructions for int8 products, and they keep every bit.

    Without VNNI torch multiplies int8 one by one, at a twentieth of the speed of fp32.
    """
    largest = torch.full((32, 64), 127, dtype=torch.int8)
    exact = bool((torch._int_mm(largest, largest.t()) == 127 * 127 * 64).all())
    return exact and torch.cpu._is_vnni_supported()


def _product(kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    if kind != "cpu":
        return filled_product
    return torch._int_mm if has_int8_product() else wide_product


def filled_product(left: Tensor, right: Tensor) -> Tensor:
    """An int8 product on a GPU, `(m, k)` times `(k, n)`, exact in int32.

    It takes more than 16 rows, and inner and outer sides that 8 divides: zeros fill up the rest.
    """
    (rows, inner), outputs = left.shape, right.shape[1]
    left = _filled(left, max(0, 17 - rows), -inner % 8)
    right = _filled(right.t(), -outputs % 8, -inner % 8).t()
    return torch._int_mm(left, right)[:rows, :outputs]


def _filled(matrix: Tensor, rows: int, columns: int) -> Tensor:
    # `pad` copies even where there is nothing to fill
    return nn.functional.pad(matrix, (0, columns, 0, rows)) if rows or columns else matrix


def wide_product(left: Tensor, right: Tensor) -> Tensor:
    """An int8 product in fp32 arithmetic, `(m, k)` times `(k, n)`, exact.

    fp32 holds whole numbers up to 2^24: sums of `_EXACT` products of int8.
    """
    parts = [
        left[:, start : start + _EXACT].float() @ right[start : start + _EXACT].float()
        for start in range(0, left.shape[1], _EXACT)
    ]
    if len(parts) == 1:
        return parts[0]
    return torch.stack([part.to(torch.int32) for part in parts]).sum(dim=0, dtype=torch.int32)
