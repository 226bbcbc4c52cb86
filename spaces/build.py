"""build: the module of exactly a profile's structure.

A transformers model whose sub-modules are cut to each layer's own sizes. It serves loading,
extraction, shrinking and reading back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
import transformers
from torch import Tensor, nn
from transformers.initialization import no_init_weights
from transformers.pytorch_utils import Conv1D

from ..errors import ModelError
from .families import carrier_config, family_of, plain_config
from .family import NARROW, WIDEN, Family
from .profile import Adapter, Attention, Profile
from .word_table import WordTable, word_maps


@runtime_checkable
class Attaches(Protocol):
    """A fine-tuning technique that adds parameters."""

    def attach(self, module: nn.Module, adapter: Adapter) -> nn.Module:
        """The module with the adapter in it, under the names that the adapter says."""
        ...


def build(
    profile: Profile, *, attention: Literal["sdpa", "eager"] = "sdpa", seed: int | None = None
) -> nn.Module:
    """A transformers model of a profile's structure, fp32, in eval mode.

    Its `named_parameters()` are `profile.weights()`: names, shapes, ties. The config's dropout is
    kept for training. Torch's random state is left as it was.

    Args:
        profile: what to build.
        attention: how attention is computed: `sdpa` is fast, `eager` shows its products to
            torch's FlopCounterMode and returns attention maps.
        seed: None: every parameter of the model is zero, ready to be filled. A number: drawn as
            transformers draws the family, the same on every call.

    Raises:
        ModelError: the family is unknown, or cannot hold this structure.
    """
    family = family_of(profile.family)
    bare = replace(profile, adapters=())
    config_json = plain_config(bare) or carrier_config(bare)
    config = transformers.AutoConfig.for_model(**config_json)
    model_class = getattr(transformers, family.classes[profile.head.kind])
    with _own_random_state(seed or 0):
        with no_init_weights():
            module: nn.Module = model_class._from_config(config, attn_implementation=attention)
            _cut(module, family, bare)
        cast(Any, module).tie_weights()
        if seed is None:
            _zero(module)
        else:
            cast(Any, module).init_weights()
        return _adapted(module, profile).eval()


@torch.no_grad()
def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Copies tensors into those of the same names that `kept_tensors` lists.

    Returns:
        The names that are missing, left over or of another shape; empty: everything fits. A
        module with such names is not touched.
    """
    kept = kept_tensors(module)
    shapes = {name: tuple(tensor.shape) for name, tensor in kept.items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(n for n in {*shapes, *given} if shapes.get(n) != given.get(n))
    if not wrong:
        for name, tensor in kept.items():
            tensor.copy_(tensors[name])
    return wrong


def kept_tensors(module: nn.Module) -> dict[str, Tensor]:
    """All that makes a built module this one: its parameters, and a map of words."""
    return {**dict(module.named_parameters()), **word_maps(module)}


@contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def _zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.zero_()


def _cut(module: nn.Module, family: Family, profile: Profile) -> None:
    """Gives every layer its own sizes, and takes out the parts that it lacks."""
    if profile.word_rows is not None:
        table = WordTable(profile.word_rows, profile.width, profile.vocabulary)
        module.set_submodule(family.tables["vocabulary"], table)
    layers = cast(nn.ModuleList, module.get_submodule(family.layer))
    seat = 0
    for block, layer in zip(layers, profile.layers, strict=True):
        if layer.attention is None:
            _without_attention(block, family)
        else:
            # Seats in the cache are counted without gaps: its length is read from seat 0.
            set_heads(block, family, layer.attention, seat)
            seat += 1
        if layer.feed_forward is None:
            _without_feed_forward(block, family)
    for weight in profile.weights():
        if weight.role == "matrix" and weight.layer is not None:
            path, _, leaf = weight.name.removesuffix(".weight").rpartition(".")
            if leaf == NARROW:
                _narrow(module, path, weight.shape)
            elif leaf == WIDEN:
                _widen(module, path, weight.shape)
            else:
                _resize(module, f"{path}.{leaf}", weight.shape)


def _resize(module: nn.Module, path: str, shape: tuple[int, ...]) -> None:
    old = cast(nn.Linear, module.get_submodule(path))
    if old.weight.shape == shape:
        return
    if isinstance(old, Conv1D):
        new: nn.Module = Conv1D(shape[1], shape[0])
    else:
        new = nn.Linear(shape[1], shape[0], bias=old.bias is not None)
    module.set_submodule(path, new)


class _Thin(nn.Sequential):
    """Two thin matrices, one after the other."""

    @property
    def weight(self) -> Tensor:
        """The one that writes: transformers draws some matrices by what they write to."""
        return cast(Tensor, self.get_submodule(WIDEN).weight)


def _narrow(module: nn.Module, path: str, shape: tuple[int, ...]) -> None:
    """Puts the first of two thin matrices before the one that is there."""
    first = nn.Linear(shape[1], shape[0], bias=False)
    pair = OrderedDict({NARROW: first, WIDEN: module.get_submodule(path)})
    module.set_submodule(path, _Thin(pair))


def _widen(module: nn.Module, path: str, shape: tuple[int, ...]) -> None:
    """Puts the second thin matrix in the place of the whole one; Linear in every family."""
    bias = getattr(module.get_submodule(f"{path}.{WIDEN}"), "bias", None) is not None
    module.set_submodule(f"{path}.{WIDEN}", nn.Linear(shape[1], shape[0], bias=bias))


def set_heads(block: nn.Module, family: Family, attention: Attention, seat: int) -> None:
    """Tells an attention module its sizes, in each of the words that transformers uses."""
    path = family.modules["attention.query"].rpartition(".")[0]
    module = block.get_submodule(path)
    inner = attention.heads * attention.head_width
    sizes = {
        "num_attention_heads": attention.heads,
        "num_heads": attention.heads,
        "n_heads": attention.heads,
        "attention_head_size": attention.head_width,
        "head_dim": attention.head_width,
        "all_head_size": inner,
        "split_size": inner,
        "num_key_value_groups": attention.heads // attention.kv_heads,
        "layer_idx": seat,
    }
    # GPT-2 may be told not to scale.
    if getattr(module, "scale_attn_weights", True):
        sizes["scaling"] = attention.head_width**-0.5
    for name, size in sizes.items():
        if hasattr(module, name):
            setattr(module, name, size)


class _NoAttention(nn.Module):
    """In an attention's place: `share` of what comes in, and no attention map."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, hidden_states: Tensor, *rest: Any, **named: Any) -> tuple[Tensor, None]:
        return hidden_states * self.share, None


class _NoFeedForward(nn.Module):
    """In a feed-forward part's place: adds nothing to the residual."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return torch.zeros_like(hidden_states)


class _Residual(nn.Module):
    """In the place of BERT's output module: the residual alone."""

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        return input_tensor


def _without_attention(block: nn.Module, family: Family) -> None:
    part = family.modules["attention.output"].partition(".")[0]
    norm = family.modules["attention.norm"]
    if norm.startswith(f"{part}."):
        # The part adds its own residual and normalises: what comes in goes out.
        block.set_submodule(part, _NoAttention(share=1.0))
    else:
        block.set_submodule(part, _NoAttention(share=0.0))
        block.set_submodule(norm, nn.Identity())


def _without_feed_forward(block: nn.Module, family: Family) -> None:
    up, down = (family.modules[role].partition(".")[0] for role in ("ffn.up", "ffn.down"))
    if up != down:
        block.set_submodule(up, nn.Identity())
        block.set_submodule(down, _Residual())
    else:
        block.set_submodule(down, _NoFeedForward())
        block.set_submodule(family.modules["ffn.norm"], nn.Identity())


def _adapted(module: nn.Module, profile: Profile) -> nn.Module:
    from .finetuning import TABLE

    for adapter in profile.adapters:
        technique = TABLE.get(adapter.kind)
        if not isinstance(technique, Attaches):
            raise ModelError(
                f"no fine-tuning technique attaches {adapter.kind!r} adapters; install the package "
                "that added it, or merge the adapter first"
            )
        module = technique.attach(module, adapter)
    return module
