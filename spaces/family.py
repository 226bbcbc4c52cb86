"""Family: what a transformers model family calls its parts, as data.

One description serves the names and shapes on paper, the modules in practice and the config that
both come from. No torch here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Final, Literal, NamedTuple

from ..errors import ModelError
from .profile import (
    REMEMBERED,
    Attention,
    FeedForward,
    Group,
    Head,
    Layer,
    Profile,
    Weight,
    is_thin,
)
from .sections import Section

Kind = Literal["encoder", "decoder"]
Role = Literal[
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "attention.norm",
    "ffn.up",
    "ffn.gate",
    "ffn.down",
    "ffn.norm",
]
"""The modules of one layer, by what they do."""

NARROW: Final = "narrow"
WIDEN: Final = "widen"
"""The two thin matrices in the place of one, by their paths below its own: `widen @ narrow`."""


class Biases(NamedTuple):
    """Which matrices of a block have one."""

    qkv: bool
    output: bool
    ffn: bool


@dataclass(frozen=True)
class SizeKeys:
    """The keys of config.json that hold a model's sizes. None: the family has no such size."""

    width: str = "hidden_size"
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    feed_forward: str = "intermediate_size"
    positions: str = "max_position_embeddings"
    kv_heads: str | None = None
    head_width: str | None = None
    token_types: str | None = None
    vocabulary: str = "vocab_size"


@dataclass(frozen=True, eq=False)
class Family:
    """One row of `families.FAMILIES`.

    Args:
        name: the `model_type` of config.json.
        kind: an encoder classifies by its first position, a decoder by its last; only decoders
            model language here.
        classes: the transformers class for each kind of head.
        base: the attribute that holds the backbone; checkpoints may leave it out of their names.
        sizes: keys of config.json.
        layer: path of the list of layers.
        modules: paths inside a layer. Roles that share a path are one fused matrix, in the order
            query, key, value.
        tables: path of each embedding table by the Profile's name for its rows.
        embedding_norm, final_norm: paths of the norms before and after the layers.
        head_norms: norms over each head's query and key inside a layer, as wide as a head.
        pooler: path of the square matrix before the classifier, None: there is none.
        classifier: path of the classification matrix.
        gated: three feed-forward matrices instead of two.
        rope: positions are rotations, so that all heads must be equally wide.
        norm_bias: norms have a bias (LayerNorm) or none (RMSNorm).
        tied: what transformers assumes where config.json does not say `tie_word_embeddings`.
        transposed: matrices are stored as (in, out), transformers' Conv1D.
        qkv_bias, output_bias, ffn_bias: whether there are biases, or the config key that says so.
        keep: keys of config.json that `Profile.extra` carries.
        fixed: keys that must have this value where they appear: anything else is not modelled.
        defaults: what transformers assumes for keys that are missing.
        heads_divide_width: the config class refuses heads that do not divide the width.
        language_head: path of the matrix that makes logits of every position.
        positions_after_padding: positions are counted from the padding token's number onwards.
    """

    name: str
    kind: Kind
    classes: Mapping[str, str]
    base: str
    sizes: SizeKeys
    layer: str
    modules: Mapping[Role, str]
    tables: Mapping[str, str]
    embedding_norm: str | None
    final_norm: str | None
    pooler: str | None
    classifier: str
    keep: tuple[str, ...]
    fixed: Mapping[str, Any]
    defaults: Mapping[str, Any]
    head_norms: tuple[str, ...] = ()
    gated: bool = False
    rope: bool = False
    norm_bias: bool = True
    tied: bool = False
    transposed: bool = False
    qkv_bias: bool | str = True
    output_bias: bool | str = True
    ffn_bias: bool | str = True
    heads_divide_width: bool = True
    language_head: str = "lm_head"
    positions_after_padding: bool = False

    def path(self, role: Role, layer: int) -> str:
        """Path of a module in the model, `bert.encoder.layer.3.attention.self.query`.

        Raises:
            KeyError: the family has no such module (`ffn.gate` where it is not gated).
        """
        return f"{self.layer}.{layer}.{self.modules[role]}"

    @property
    def word_map(self) -> str:
        """Name of the map from words to rows, where the table of words has fewer rows."""
        return f"{self.tables['vocabulary']}.rows"

    def fused(self, role: Role) -> tuple[Role, ...]:
        """The roles that share this role's module, itself among them, in the order of storage."""
        return tuple(other for other, path in self.modules.items() if path == self.modules[role])

    def profile(self, config: Mapping[str, Any], head: Head) -> Profile:
        """A profile from the contents of a config.json.

        Args:
            config: transformers' keys. head: what shall answer.

        Raises:
            ModelError: a size is missing, or the config asks for something not modelled.
        """
        self._refuse(config, head)
        extra = self._extra({**self.defaults, **config})
        config = {**self.defaults, **{k: v for k, v in config.items() if v is not None}}
        keys = self.sizes
        width, heads = _size(self, config, keys.width), _size(self, config, keys.heads)
        if keys.head_width is None and width % heads:
            raise ModelError(
                f"config.json says {heads} heads for a width of {width}, which they do not "
                "divide; correct it"
            )
        attention = Attention(
            heads=heads,
            kv_heads=_size(self, config, keys.kv_heads, heads),
            head_width=_size(self, config, keys.head_width, width // heads),
        )
        hidden = _size(self, config, keys.feed_forward, 4 * width)
        layer = Layer(attention, FeedForward(hidden, self.gated))
        profile = Profile(
            family=self.name,
            width=width,
            vocabulary=_size(self, config, keys.vocabulary),
            positions=_size(self, config, keys.positions) if "positions" in self.tables else 0,
            token_types=_size(self, config, keys.token_types, 0),
            layers=(layer,) * _size(self, config, keys.layers),
            head=head,
            extra=extra,
        )
        profile.weights()
        return profile

    def _refuse(self, config: Mapping[str, Any], head: Head) -> None:
        if head.kind not in self.classes:
            raise ModelError(
                f"{self.name} is an encoder and cannot model language; choose a classification "
                "task, or a decoder such as gpt2, llama or qwen2"
            )
        for key, value in {**self.fixed, "quantization_config": None}.items():
            if config.get(key) not in (None, value):
                raise ModelError(
                    f"{self.name} with {key} = {config[key]!r} is not supported, only {value!r}; "
                    "choose another model"
                )

    def _extra(self, config: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
        kept = {key: config[key] for key in self.keep if key in config}
        if kept.get("pad_token_id") is None:
            # Without it transformers refuses to classify more than one text with a decoder.
            end = config.get("eos_token_id") or 0
            kept["pad_token_id"] = end[0] if isinstance(end, list | tuple) else end
        return tuple(sorted(_flat(kept)))

    def longest_text(self, profile: Profile) -> int:
        """Tokens that a text may have at most; soft tokens and prefixes take positions of it."""
        extra = dict(profile.extra)
        rows = profile.positions or int(extra[self.sizes.positions])
        # RoBERTa counts positions from the padding's number onwards.
        rows -= int(extra["pad_token_id"]) + 1 if self.positions_after_padding else 0
        return rows - profile.soft_tokens - profile.past

    def sections(self, profile: Profile) -> tuple[Section, ...]:
        """Every parameter tensor of the model that `build` makes of a profile, by where it stands.

        Tables, blocks, the norm behind them, head, adapters; tied tensors once.

        Raises:
            ModelError: the family cannot hold this structure.
        """
        self._check(profile)
        biases, width = self._biases(profile.extra), profile.width
        rows = tuple(profile.rows(table) for table in self.tables)
        blocks = enumerate(profile.layers)
        own = [
            self._tables(rows, width),
            *(self._block(width, biases, index, layer) for index, layer in blocks),
            self._outer_norm(width),
            self._head(width, profile.head),
        ]
        for adapter in profile.adapters:
            wraps = _one(adapter.wraps)
            own = [_wrapped(section, wraps) for section in own]
        return (*own, *(adapter.section for adapter in profile.adapters))

    def _check(self, profile: Profile) -> None:
        widths = {layer.attention.head_width for layer in profile.layers if layer.attention}
        if self.rope and len(widths) > 1:
            raise ModelError(
                f"{self.name} rotates every head alike, so heads of {sorted(widths)} cannot be "
                "mixed; choose one width"
            )
        head = profile.head
        if head.kind == "language-modelling" and head.outputs != profile.vocabulary:
            raise ModelError(
                f"a language-modelling head answers with the vocabulary: {head.outputs} outputs "
                f"must be {profile.vocabulary}"
            )
        if head.kind == "language-modelling" and profile.word_rows is not None:
            raise ModelError(
                f"a language-modelling head answers with the vocabulary, all {profile.vocabulary} "
                f"words of it; a table of {profile.word_rows} rows is for classification only"
            )

    @lru_cache(maxsize=256)  # noqa: B019 - families are rows of a table, never made in a search
    def _biases(self, extra: tuple[tuple[str, Any], ...]) -> Biases:
        told = dict(extra)
        flags = (self.qkv_bias, self.output_bias, self.ffn_bias)
        return Biases(*(f if isinstance(f, bool) else bool(told.get(f, False)) for f in flags))

    @lru_cache(maxsize=1024)  # noqa: B019
    def _tables(self, rows: tuple[int, ...], width: int) -> Section:
        return Section(partial(self._table_weights, rows, width))

    def _table_weights(self, rows: tuple[int, ...], width: int) -> Iterator[Weight]:
        for count, path in zip(rows, self.tables.values(), strict=True):
            yield Weight(f"{path}.weight", (count, width), "embeddings", "table")
        if self.embedding_norm is not None:
            yield from self._norm(self.embedding_norm, width, None)

    @lru_cache(maxsize=REMEMBERED)  # noqa: B019
    def _block(self, width: int, biases: Biases, index: int, layer: Layer) -> Section:
        inner = 0
        if layer.attention is not None:
            self._check_heads(layer.attention, index)
            inner = layer.attention.heads * layer.attention.head_width
        make = partial(self._layer_weights, width, biases, index, layer)
        model = self._block(width, biases, 0, layer) if index else None
        return Section(make, index, inner, model)

    def _layer_weights(
        self, width: int, biases: Biases, index: int, layer: Layer
    ) -> Iterator[Weight]:
        if layer.attention is not None:
            yield from self._attention_weights(width, biases, index, layer.attention)
            yield from self._norm(self.path("attention.norm", index), width, index)
        if layer.feed_forward is not None:
            hidden, rank = layer.feed_forward.width, layer.feed_forward.rank
            rising: tuple[Role, ...] = ("ffn.gate", "ffn.up") if self.gated else ("ffn.up",)
            for role in rising:
                path = self.path(role, index)
                yield from self._matrix(path, width, hidden, biases.ffn, "ffn", index, rank)
            down = self.path("ffn.down", index)
            yield from self._matrix(down, hidden, width, biases.ffn, "ffn", index, rank)
            yield from self._norm(self.path("ffn.norm", index), width, index)

    def _attention_weights(
        self, width: int, biases: Biases, index: int, attention: Attention
    ) -> Iterator[Weight]:
        rank = attention.rank
        inner = attention.heads * attention.head_width
        inner_kv = attention.kv_heads * attention.head_width
        outs: dict[Role, int] = {
            "attention.query": inner,
            "attention.key": inner_kv,
            "attention.value": inner_kv,
        }
        merged: dict[str, int] = {}
        for role, out in outs.items():
            path = self.path(role, index)
            merged[path] = merged.get(path, 0) + out
        for path, out in merged.items():
            yield from self._matrix(path, width, out, biases.qkv, "attention", index, rank)
        path = self.path("attention.output", index)
        yield from self._matrix(path, inner, width, biases.output, "attention", index, rank)
        for name in self.head_norms:
            path = f"{self.layer}.{index}.{name}"
            yield from self._norm(path, attention.head_width, index)

    def _check_heads(self, attention: Attention, index: int) -> None:
        heads, groups = attention.heads, attention.kv_heads
        if heads < 1 or groups < 1 or heads % groups:
            raise ModelError(
                f"layer {index}: {heads} heads cannot share {groups} key-value heads; "
                "keep a whole number of heads for each key-value head"
            )
        if self.sizes.kv_heads is None and heads != groups:
            raise ModelError(
                f"layer {index}: {self.name} has no grouped-query attention, so {groups} "
                f"key-value heads must be {heads}"
            )

    @lru_cache(maxsize=1024)  # noqa: B019
    def _outer_norm(self, width: int) -> Section:
        path = self.final_norm
        return Section(lambda: () if path is None else self._norm(path, width, None))

    @lru_cache(maxsize=1024)  # noqa: B019
    def _head(self, width: int, head: Head) -> Section:
        return Section(partial(self._head_weights, width, head))

    def _head_weights(self, width: int, head: Head) -> Iterator[Weight]:
        if head.kind == "language-modelling":
            if not head.tied:
                yield from self._matrix(self.language_head, width, head.outputs, False, "head")
            return
        if self.pooler is not None:
            yield from self._matrix(self.pooler, width, width, True, "head")
        bias = self.kind == "encoder"
        yield from self._matrix(self.classifier, width, head.outputs, bias, "head")

    def _matrix(
        self,
        path: str,
        inputs: int,
        outputs: int,
        bias: bool,
        group: Group,
        layer: int | None = None,
        rank: int | None = None,
    ) -> Iterator[Weight]:
        name = f"{path}.weight"
        # Only the layers use Conv1D: heads are Linear in every family.
        if rank is not None and is_thin(rank, inputs, outputs):
            yield Weight(f"{path}.{NARROW}.weight", (rank, inputs), group, "matrix", layer)
            path = f"{path}.{WIDEN}"
            yield Weight(f"{path}.weight", (outputs, rank), group, "matrix", layer)
        elif self.transposed and layer is not None:
            yield Weight(name, (inputs, outputs), group, "matrix", layer, input_axis=0)
        else:
            yield Weight(name, (outputs, inputs), group, "matrix", layer)
        if bias:
            yield Weight(f"{path}.bias", (outputs,), group, "vector", layer)

    def _norm(self, path: str, width: int, layer: int | None) -> Iterator[Weight]:
        yield Weight(f"{path}.weight", (width,), "norm", "vector", layer)
        if self.norm_bias:
            yield Weight(f"{path}.bias", (width,), "norm", "vector", layer)


def _size(
    family: Family, config: Mapping[str, Any], key: str | None, default: int | None = None
) -> int:
    value = default if key is None else config.get(key, default)
    if value is None:
        raise ModelError(f"config.json of this {family.name} model lacks {key!r}; add it")
    least = 0 if default == 0 else 1
    if not isinstance(value, int) or value < least:
        raise ModelError(
            f"config.json says {key} = {value!r}; it must be a whole number of at least {least}"
        )
    return value


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested keys joined by dots, lists as tuples: a form that can be hashed."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", tuple(value) if isinstance(value, list) else value


@lru_cache(maxsize=1024)
def _one(wraps: tuple[str, ...]) -> frozenset[str]:
    """The same set for the same paths: sets that are one are quickly seen to be equal."""
    return frozenset(wraps)


@lru_cache(maxsize=REMEMBERED)
def _wrapped(section: Section, wraps: frozenset[str]) -> Section:
    """A section under the names that it has once an adapter wraps these modules."""

    def make() -> Iterator[Weight]:
        return (_renamed(weight, wraps) for weight in section.weights)

    return Section(make, section.layer, section.inner, section.alike)


def _renamed(weight: Weight, wraps: frozenset[str]) -> Weight:
    path, _, leaf = weight.name.rpartition(".")
    if path not in wraps:
        return weight
    return replace(weight, name=f"{path}.base_layer.{leaf}")
