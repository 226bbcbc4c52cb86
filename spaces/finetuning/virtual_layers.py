"""Virtual tokens in practice: a backbone is given more than the text, and answers for the text.

What trains hangs below the backbone; hooks put it before what the backbone is given, so that the
model around it is asked, and answers, as if nothing were there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from peft import (
    PromptEmbedding,
    PromptEncoder,
    PromptEncoderConfig,
    PromptEncoderReparameterizationType,
    PromptTuningConfig,
)
from torch import Tensor, nn
from transformers import DynamicCache

from ..families import family_of
from ..family import Family, Role
from ..profile import Adapter
from .virtual_tokens import PREFIX, PROMPT

Given = tuple[tuple[()], dict[str, Any]]
"""What a backbone is called with, all of it by name."""


def prompted(module: nn.Module, adapter: Adapter) -> nn.Module:
    """The model with a table of soft tokens, in place; drawn from torch's random state."""
    return _with_prompt(module, _table(adapter.tokens, _width(module)))


def encoded(module: nn.Module, adapter: Adapter) -> nn.Module:
    """The model with soft tokens that an MLP makes, in place; drawn from torch's random state."""
    config = PromptEncoderConfig(
        num_virtual_tokens=adapter.tokens,
        num_transformer_submodules=1,
        token_dim=_width(module),
        encoder_hidden_size=int(dict(adapter.settings)["encoder_width"]),
        encoder_reparameterization_type=PromptEncoderReparameterizationType.MLP,
    )
    return _with_prompt(module, PromptEncoder(config))  # type: ignore[no-untyped-call]


def prefixed(module: nn.Module, adapter: Adapter) -> nn.Module:
    """The model with keys and values for every attention, in place."""
    family, backbone = _parts(module)
    shapes = _shapes(module, family)
    inner = int(dict(adapter.settings)["encoder_width"])
    backbone.add_module(PREFIX, _Prefix(adapter.past, shapes, _width(module), inner))
    hook = partial(_read_prefix, adapter.past, family.kind == "encoder")
    backbone.register_forward_pre_hook(hook, with_kwargs=True)
    backbone.register_forward_hook(partial(_maps_of_text, adapter.past))
    return module


@torch.no_grad()
def begin_prompt(module: nn.Module) -> None:
    """Soft tokens become words of the vocabulary."""
    backbone = _parts(module)[1]
    table = backbone.get_submodule(PROMPT).embedding
    table.weight.copy_(backbone.get_input_embeddings()(_words(module, table.num_embeddings)))


@torch.no_grad()
def begin_prefix(module: nn.Module, adapter: Adapter) -> None:
    """Keys and values become what the layers keep of words of the vocabulary."""
    backbone = _parts(module)[1]
    cache = DynamicCache(config=backbone.config)
    words = backbone.get_input_embeddings()(_words(module, adapter.past))[None]
    # as a model without a prefix reads them: hooks would put it before
    type(backbone).forward(backbone, inputs_embeds=words, past_key_values=cache)
    prefix = cast(_Prefix, backbone.get_submodule(PREFIX))
    for table, layer in zip(prefix.layers, cache.layers, strict=False):
        kept: Any = layer
        both = torch.cat([kept.keys[0], kept.values[0]])  # (2 heads, n, head width)
        cast(nn.Embedding, table).weight.copy_(both.transpose(0, 1).flatten(1))


@torch.no_grad()
def folded_prompt(module: nn.Module) -> nn.Module:
    """The model with a plain table of the soft tokens that its MLP makes, in place."""
    backbone = _parts(module)[1]
    made = _rows(backbone)
    table = _table(*made.shape)
    table.embedding.weight.copy_(made)
    backbone.set_submodule(PROMPT, table)
    return module


@torch.no_grad()
def folded_prefix(module: nn.Module) -> nn.Module:
    """The model with plain tables of the keys and values that its MLP makes, in place."""
    backbone = _parts(module)[1]
    old = cast(_Prefix, backbone.get_submodule(PREFIX))
    made = old()
    new = _Prefix(len(made[0]), old.shapes, made[0].shape[1], 0)
    for table, value in zip(new.layers, made, strict=True):
        cast(nn.Embedding, table).weight.copy_(value)
    backbone.set_submodule(PREFIX, new)
    return module


class _Prefix(nn.Module):
    """Keys and values of n virtual tokens, for every attention.

    Args:
        tokens: n. shapes: key heads and their width, of each attention.
        width: of the vectors that an MLP makes them from. inner: the MLP's; 0: tables instead.
    """

    def __init__(
        self, tokens: int, shapes: Sequence[tuple[int, int]], width: int, inner: int
    ) -> None:
        super().__init__()
        self.shapes = tuple(shapes)
        sizes = [2 * heads * head_width for heads, head_width in shapes]
        self.sizes = sizes
        if inner:
            self.embedding = nn.Embedding(tokens, width)
            last = nn.Linear(inner, sum(sizes))
            self.transform = nn.Sequential(nn.Linear(width, inner), nn.Tanh(), last)
        self.layers = nn.ModuleList([] if inner else [nn.Embedding(tokens, n) for n in sizes])

    def forward(self) -> list[Tensor]:
        """`(n, 2 heads x head width)` for each attention, keys first."""
        if len(self.layers):
            return [cast(nn.Embedding, table).weight for table in self.layers]
        return list(self.transform(self.embedding.weight).split(self.sizes, dim=-1))


class _Still(DynamicCache):
    """A cache that keeps nothing of the text: a block that is run again answers the same."""

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """What is kept before, and what is given."""
        kept: Any = self.layers[layer_idx]
        before = kept.keys, kept.values
        given = key_states, value_states
        keys, values = (torch.cat(pair, dim=-2) for pair in zip(before, given, strict=True))
        return keys, values


def _table(tokens: int, width: int) -> Any:
    config = PromptTuningConfig(
        num_virtual_tokens=tokens, num_transformer_submodules=1, token_dim=width
    )
    return PromptEmbedding(config, None)  # type: ignore[no-untyped-call]


def _with_prompt(module: nn.Module, prompt: nn.Module) -> nn.Module:
    family, backbone = _parts(module)
    tokens = len(cast(Any, prompt).embedding.weight)
    padding = backbone.config.pad_token_id if family.positions_after_padding else None
    backbone.add_module(PROMPT, prompt)
    hook = partial(_read_prompt, tokens, padding)
    backbone.register_forward_pre_hook(hook, with_kwargs=True)
    backbone.register_forward_hook(partial(_text_alone, tokens), with_kwargs=True)
    pooler = getattr(backbone, "pooler", None)
    if pooler is not None:
        pooler.register_forward_pre_hook(partial(_states_of_text, tokens))
    return module


def _read_prompt(
    tokens: int, padding: int | None, backbone: Any, args: Any, given: dict[str, Any]
) -> Given:
    """Words become vectors, and soft tokens stand before them unless they lie in the cache."""
    given = _named(args, given)
    ids, places = given.pop("input_ids"), given.get("position_ids")
    given["attention_mask"] = _seen(given.get("attention_mask"), ids, tokens)
    if _has_read(given):
        given["position_ids"] = None if places is None else places + tokens
        return (), {**given, "input_ids": ids}
    words = backbone.get_input_embeddings()(ids)
    soft = _rows(backbone).to(words.dtype).expand(len(words), -1, -1)
    given["inputs_embeds"] = torch.cat([soft, words], dim=1)
    if places is None and padding is not None:
        # as the family counts where it is given words: padding stays at padding
        real = ids.ne(padding).long()
        places = real.cumsum(dim=1) * real + padding
        first = torch.arange(padding + 1, padding + 1 + tokens, device=ids.device)
        behind = torch.where(real == 1, places + tokens, places)
        given["position_ids"] = torch.cat([first.expand(len(ids), -1), behind], dim=1)
    elif places is not None:
        first = torch.arange(tokens, device=ids.device).expand(len(places), -1)
        given["position_ids"] = torch.cat([first, places + tokens], dim=1)
    return (), given


def _text_alone(tokens: int, _: nn.Module, __: Any, given: dict[str, Any], out: Any) -> Any:
    """What is said of the text: the head answers for nothing else."""
    if given.get("inputs_embeds") is None:  # they were read before, with the text's beginning
        return out
    out.last_hidden_state = out.last_hidden_state[:, tokens:]
    if out.hidden_states is not None:
        out.hidden_states = tuple(state[:, tokens:] for state in out.hidden_states)
    if out.attentions is not None:
        out.attentions = tuple(maps[..., tokens:, tokens:] for maps in out.attentions)
    return out


def _states_of_text(tokens: int, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a pooler reads: its first position is the text's."""
    return args[0][:, tokens:], *args[1:]


def _read_prefix(
    tokens: int, encoder: bool, backbone: Any, args: Any, given: dict[str, Any]
) -> Given:
    """A cache that holds the prefix stands before the text unless one already does."""
    given = _named(args, given)
    ids, places = given["input_ids"], given.get("position_ids")
    mask = _seen(given.get("attention_mask"), ids, tokens)
    prefix = backbone.get_submodule(PREFIX)
    if not _has_read(given):
        cache = given.get("past_key_values")
        if cache is None:
            kind = DynamicCache if given.get("use_cache") else _Still
            cache = kind(config=backbone.config)
        for seat, (both, (heads, width)) in enumerate(zip(prefix(), prefix.shapes, strict=True)):
            apart = both.view(tokens, 2, heads, width).permute(1, 2, 0, 3)[:, None]
            keys, values = apart.expand(-1, len(ids), -1, -1, -1)
            DynamicCache.update(cache, keys, values, seat)
        given["past_key_values"] = cache
    if places is not None:
        given["position_ids"] = places + tokens
    if encoder:
        # encoders expect no past, and make a mask as wide as the text
        kind = next(prefix.parameters()).dtype
        mask = (1 - mask[:, None, None, :].to(kind)) * torch.finfo(kind).min
    given["attention_mask"] = mask
    return (), given


def _maps_of_text(tokens: int, _: nn.Module, __: Any, out: Any) -> Any:
    if out.attentions is not None:
        out.attentions = tuple(maps[..., tokens:] for maps in out.attentions)
    return out


def _named(args: tuple[Any, ...], given: dict[str, Any]) -> dict[str, Any]:
    # transformers' heads name all but, some of them, the words
    return {**given, **dict(zip(("input_ids",), args, strict=True))} if args else dict(given)


def _seen(mask: Tensor | None, ids: Tensor, tokens: int) -> Tensor:
    mask = torch.ones_like(ids) if mask is None else mask
    return torch.cat([mask.new_ones(len(mask), tokens), mask], dim=1)


def _has_read(given: dict[str, Any]) -> bool:
    """Whether a cache already holds something: virtual tokens came first."""
    past = given.get("past_key_values")
    return past is not None and past.get_seq_length() > 0


def _rows(backbone: nn.Module) -> Tensor:
    """The soft tokens, `(n, width)`."""
    prompt = cast(Any, backbone.get_submodule(PROMPT))
    table = prompt.embedding.weight
    rows: Tensor = prompt(torch.arange(len(table), device=table.device))
    return rows


def _parts(module: Any) -> tuple[Family, Any]:
    family = family_of(module.config.model_type)
    return family, module.get_submodule(family.base)


def _width(module: nn.Module) -> int:
    family, backbone = _parts(module)
    return int(getattr(backbone.config, family.sizes.width))


def _words(module: nn.Module, count: int) -> Tensor:
    vocabulary = int(_parts(module)[1].config.vocab_size)
    return torch.randint(0, vocabulary, (count,))


def _shapes(module: nn.Module, family: Family) -> list[tuple[int, int]]:
    """Key heads and their width, of each attention that there is."""
    inside = family.modules["attention.query"].rpartition(".")[0]
    key: Role = "attention.key"
    found = []
    for block in cast(nn.ModuleList, module.get_submodule(family.layer)):
        modules = dict(block.named_modules())
        matrix: Any = modules.get(family.modules[key])
        if matrix is None:  # what stands in the place of an attention has no keys
            continue
        attention: Any = modules[inside]
        width = getattr(attention, "head_dim", None) or attention.attention_head_size
        fused = len(family.fused(key)) > 1
        inner = attention.split_size if fused else matrix.weight.shape[0]
        found.append((inner // width, width))
    return found
