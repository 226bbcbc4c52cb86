"""packed_module: a model of a profile's structure that computes from packed tensors.

Hidden states have the type of the norms: bf16 from end to end where everything is declared bf16,
fp32 otherwise. A matrix or table of another type answers in the type of the hidden states. What is
stored in fp16 becomes fp32 when it is read: processors multiply fp16 slowly or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..build import build
from ..families import family_of
from ..profile import Profile, Weight
from ..word_table import WordTable
from .packed_layers import (
    Cast,
    GroupTable,
    Int8Linear,
    Int8Table,
    SharedRows,
    int8_from_groups,
)
from .packing import dense_parts
from .payload import Part, PartName, map_parts, parts, sides

Stored = Mapping[PartName, Tensor]

_TYPES: Final = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int32": torch.int32,
}


def packed_module(profile: Profile, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A transformers model, in eval mode, that holds packed tensors and nothing beside them.

    fp16 alone is not held as it is stored.

    Args:
        profile: structure and formats.
        tensors: every part of every weight, by `part_name`, and the map of words, if there is one;
            used in place.

    Raises:
        ValueError: a tensor is missing, or of another shape or type.
    """
    with _WithoutStorage():
        module = build(profile)
    stored = {weight.name: _stored(profile, weight, tensors) for weight in profile.weights()}
    for name, found in stored.items():
        if "plain" in found:
            _set(module, name, found["plain"])
    family = family_of(profile.family)
    for part in map_parts(profile):
        words = module.get_submodule(family.tables["vocabulary"])
        words.rows = nn.Buffer(_checked(family.word_map, part, tensors))
    hidden = _TYPES[profile.format_of("norm").name]
    for weight in profile.weights():
        if weight.role != "vector":
            _place(module, _path(weight), weight, stored[weight.name], hidden)
    if profile.head.kind == "language-modelling" and profile.head.tied:
        table = next(weight for weight in profile.weights() if weight.role == "table")
        _place_tied(module, profile, table, stored[table.name], hidden)
    return module.eval()


class _WithoutStorage(TorchFunctionMode):
    """Keeps the plain model from standing in memory beside the packed one.

    Modules make matrices with `torch.empty`, and what they look up in with anything else.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        elsewhere = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **{**(kwargs or {}), **elsewhere})


def part_name(weight: Weight, part: PartName) -> str:
    """The name under which a part is stored."""
    return weight.name if part == "plain" else f"{weight.name}:{part}"


def _stored(profile: Profile, weight: Weight, tensors: Mapping[str, Tensor]) -> Stored:
    found: dict[PartName, Tensor] = {}
    for part in parts(profile, weight):
        tensor = _checked(part_name(weight, part.name), part, tensors)
        halved = part.name == "plain" and part.dtype == "fp16"
        found[part.name] = tensor.float() if halved else tensor
    return dense_parts(found, weight)


def _checked(name: str, part: Part, tensors: Mapping[str, Tensor]) -> Tensor:
    tensor = tensors.get(name)
    if tensor is None or (tuple(tensor.shape), tensor.dtype) != (part.shape, _TYPES[part.dtype]):
        raise ValueError(f"{name} is missing, or not {part.dtype} of shape {part.shape}")
    return tensor


def _path(weight: Weight) -> str:
    return weight.name.rpartition(".")[0]


def _set(module: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(path), leaf, nn.Parameter(tensor, requires_grad=False))


def _place(
    module: nn.Module, path: str, weight: Weight, stored: Stored, hidden: torch.dtype
) -> None:
    """Puts a module that computes from `stored` where the plain one was."""
    old = module.get_submodule(path)
    if "plain" in stored:
        dtype = stored["plain"].dtype
        if dtype != hidden:
            module.set_submodule(path, Cast(old, dtype, hidden))
    elif weight.role == "table":
        table = _table(weight, stored, hidden)
        placed = SharedRows(table, old.rows) if isinstance(old, WordTable) else table
        module.set_submodule(path, placed)
    else:
        module.set_submodule(path, _linear(weight, stored, getattr(old, "bias", None)))


def _place_tied(
    module: nn.Module, profile: Profile, table: Weight, stored: Stored, hidden: torch.dtype
) -> None:
    """Lets the language-modelling head compute from the table's own tensors."""
    path = family_of(profile.family).language_head
    if "plain" in stored:
        _set(module, f"{path}.weight", stored["plain"])
    # As a matrix the table is (outputs, inputs), like any head.
    head = Weight(table.name, table.shape, table.group, "matrix")
    _place(module, path, head, stored, hidden)


def _table(weight: Weight, stored: Stored, hidden: torch.dtype) -> nn.Module:
    if "int8" in stored:
        return Int8Table(stored["int8"], stored["scale"], hidden)
    return GroupTable(stored, sides(weight)[1], hidden)


def _linear(weight: Weight, stored: Stored, bias: Tensor | None) -> nn.Module:
    if "int8" in stored:
        return Int8Linear(stored["int8"], stored["scale"], bias)
    return Int8Linear(*int8_from_groups(stored, sides(weight)[1]), bias)
