"""Profile: a model on paper.

Structure only: layers with their own sizes, the head, formats, adapters. Parameters, trainable
parameters, FLOPs and bytes are derived from it without torch, in microseconds; `build.py` makes the
module of exactly this structure. FLOP = 2 x multiply-accumulate; matrix products only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any, Final, Literal

from .sections import Per, Section, Term, beside, own_sections, products_of, total

Group = Literal["embeddings", "attention", "ffn", "head", "norm", "adapter"]
FormatName = Literal["fp32", "bf16", "fp16", "int8", "int8_static", "int4", "int3"]
GROUPS: tuple[Group, ...] = ("embeddings", "attention", "ffn", "head", "norm", "adapter")
BITS: dict[FormatName, int] = {
    "fp32": 32,
    "bf16": 16,
    "fp16": 16,
    "int8": 8,
    "int8_static": 8,
    "int4": 4,
    "int3": 3,
}
"""Bits of one stored weight, scales apart."""

REMEMBERED: Final = 8192
"""Blocks that a memory of blocks holds at most: those of a search are made of few numbers."""

WHOLE: frozenset[FormatName] = frozenset({"int8", "int8_static", "int4", "int3"})
"""Formats of whole numbers with scales."""


@dataclass(frozen=True)
class Format:
    """How the matrices and tables of a group are stored and computed.

    Args:
        name: number format. Vectors (biases, norms) never go below 16 bits. `int8_static` is stored
            as int8; what enters a matrix is rounded to a range that was fixed beforehand.
        group_size: weights that share a scale, along the input axis; None: one scale a row.
    """

    name: FormatName = "fp32"
    group_size: int | None = None

    @property
    def bits(self) -> int:
        """Bits of one stored weight, scales apart."""
        return BITS[self.name]


_PLAIN: Final = Format()


@dataclass(frozen=True)
class Sparsity:
    """Zeros in the matrices of a group: equally many in every row, which is what an output reads.

    Args:
        share: of a row, in (0, 1).
        block: neighbours along the inputs among which the share holds as well (half of 4 is 2:4);
            None: the zeros lie anywhere in the row.
    """

    share: float
    block: int | None = None

    def zeros(self, columns: int) -> int:
        """Zeros in a row of that many weights; what does not fill a block stays.

        >>> Sparsity(0.5).zeros(33), Sparsity(0.5, 4).zeros(10)
        (17, 4)
        """
        if self.block is None:
            return math.floor(self.share * columns + 0.5)
        return columns // self.block * math.floor(self.share * self.block + 0.5)


@dataclass(frozen=True)
class Attention:
    """Softmax attention of one layer. `kv_heads < heads` is grouped-query attention.

    With a `rank`, its matrices are products of two thin ones; see `is_thin`.
    """

    heads: int
    kv_heads: int
    head_width: int
    rank: int | None = None


@dataclass(frozen=True)
class FeedForward:
    """Feed-forward block of one layer. `gated`: three matrices (SwiGLU) instead of two.

    With a `rank`, they are products of two thin ones; see `is_thin`.
    """

    width: int
    gated: bool = False
    rank: int | None = None


def is_thin(rank: int | None, inputs: int, outputs: int) -> bool:
    """Whether a matrix is stored as two factors of that rank: only where they are smaller than it.

    >>> is_thin(7, 16, 16), is_thin(8, 16, 16), is_thin(None, 16, 16)
    (True, False, False)
    """
    return rank is not None and rank * (inputs + outputs) < inputs * outputs


@dataclass(frozen=True)
class Layer:
    """One block. None: the part is missing."""

    attention: Attention | None
    feed_forward: FeedForward | None

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # Memories are asked for every block of every candidate. Of numbers alone, so that it is the
        # same in another process, which may get a layer together with its hash.
        a, f = self.attention, self.feed_forward
        attention = (a.heads, a.kv_heads, a.head_width, a.rank or 0) if a else ()
        return hash((attention, (f.width, f.gated, f.rank or 0) if f else ()))


@dataclass(frozen=True)
class Head:
    """What turns hidden states into answers.

    Args:
        kind: `classification` (one answer per text), `language-modelling` (one per token).
        outputs: classes, or the vocabulary.
        tied: the output matrix is the embedding table (counted once, stored once).
    """

    kind: Literal["classification", "language-modelling"]
    outputs: int
    tied: bool = False


@dataclass(frozen=True)
class Weight:
    """One parameter tensor, by the name it has in the built module.

    Args:
        name: as in `module.named_parameters()`.
        shape: as stored there.
        role: `matrix` (multiplied with hidden states), `table` (looked up), `vector` (bias, norm,
            scale), `factor` (an adapter's, multiplied with other weights alone).
        input_axis: for a matrix, the axis that is summed over (1 for Linear, 0 for Conv1D).
    """

    name: str
    shape: tuple[int, ...]
    group: Group
    role: Literal["matrix", "table", "vector", "factor"]
    layer: int | None = None
    input_axis: int = 1

    @property
    def count(self) -> int:
        """Elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Product:
    """A product of an adapter that is not one of hidden states with one of its own matrices.

    Args:
        path: the wrapped module that it belongs to. layer: which layer that is in.
        macs: multiply-accumulates, for each token, or for a whole pass where it is made `once`.
        once: a product of weights alone, made anew in every pass however many tokens there are.
        hidden: one factor is what enters the module: its gradient is made where that leads to
            something that trains.
        gradients: products of the same size that the backward pass makes beside that one.
        before: it turns what the wrapped matrix reads, which then always has a gradient.
    """

    path: str
    layer: int | None
    macs: int
    once: bool = False
    hidden: bool = False
    gradients: int = 0
    before: bool = False

    def flops(self, tokens: int) -> int:
        """FLOPs of a forward pass over so many tokens, those of all texts."""
        return 2 * self.macs * (1 if self.once else tokens)


@dataclass(frozen=True)
class Adapter:
    """Parameters added beside the model by a fine-tuning technique.

    Args:
        kind: the technique's name; `finetuning.TABLE[kind]` attaches it when a module is built.
        settings: what it needs for that (rank, alpha, targets, ...), sorted.
        wraps: paths of the modules that it wraps; their own parameters move to `PATH.base_layer.*`.
        weights: the parameters that it adds, by the names they have in the built module.
        products: what it computes beside the products of its own matrices.
        reads_weights: while it is not merged it reads the wrapped matrices themselves, which must
            then be stored as plain numbers of its own type.
        tokens: soft tokens that it puts before every text: each is a position like any other, but
            that the head does not answer for it.
        past: keys and values that it puts before those of the text, in every attention: they are
            attended to, and nothing else is computed for them.
    """

    kind: str
    settings: tuple[tuple[str, str | int | float | bool], ...]
    wraps: tuple[str, ...]
    weights: tuple[Weight, ...]
    products: tuple[Product, ...] = ()
    reads_weights: bool = False
    tokens: int = 0
    past: int = 0

    def __getstate__(self) -> dict[str, Any]:
        return _fields_of(self)

    @cached_property
    def section(self) -> Section:
        """Its weights."""
        return Section(lambda: self.weights)

    @cached_property
    def beside(self) -> Mapping[Per, int]:
        """Multiply-accumulates of its `products`."""
        return total(products_of(self))


@dataclass(frozen=True, eq=False)
class Storage:
    """How weights are stored; profiles of the same formats and zeros share one.

    Args:
        formats, sparsity: by group. by_layer: where the layers of a group differ.
    """

    formats: Mapping[Group, Format]
    by_layer: Mapping[Group, tuple[Format, ...]]
    sparsity: Mapping[Group, Sparsity]

    def format_of(self, group: Group, layer: int | None = None) -> Format:
        """The declared format of a group, or of one of its layers."""
        if layer is not None and group in self.by_layer:
            return self.by_layer[group][layer]
        return self.formats.get(group, _PLAIN)

    def zeros(self, weight: Weight) -> int:
        """Zeros in every row of a weight: matrices of sparse groups have some, nothing else has."""
        found = self.sparsity.get(weight.group)
        if found is None or weight.role != "matrix":
            return 0
        return found.zeros(weight.shape[weight.input_axis])


@dataclass(frozen=True)
class Operator:
    """One product of the forward pass.

    Args:
        kind: `linear`, `attention_scores`, `attention_values`, `adapter`.
        group: the group whose format it is computed in.
        layer: which layer it belongs to, None outside the layers.
        flops: 2 x multiply-accumulate, for the whole batch.
        weight: name of the parameter it reads; None for attention's two products, and for an
            adapter's `products`.
    """

    kind: str
    group: Group
    layer: int | None
    flops: int
    weight: str | None = None


@dataclass(frozen=True)
class Profile:
    """A model on paper.

    Args:
        family: `bert`, `roberta`, `distilbert`, `gpt2`, `llama`, `qwen2`, ...: a row of
            `families.FAMILIES`, which knows the family's parameter names.
        width: size of the hidden states.
        vocabulary, positions, token_types: what the embedding tables are asked for (0: no table).
        formats: one per group; groups left out are fp32.
        by_layer: where the layers of a group differ, the format of each, first to last; on paper
            they say how many layers of one size have which, see `runtimes/picked.py`.
        sparsity: the groups whose matrices hold zeros.
        layers: first to last.
        head: what turns hidden states into answers.
        adapters: in the order in which they were attached.
        extra: what the family needs to rebuild its config (activation, epsilon, rope, ...), by
            key of config.json; nested keys are joined by dots, lists are tuples.
        word_rows: rows of the table of words, None: one for each word. Fewer: a map of whole
            numbers, one for each word of the vocabulary, says which row a word reads.
    """

    family: str
    width: int
    vocabulary: int
    positions: int
    token_types: int
    layers: tuple[Layer, ...]
    head: Head
    formats: tuple[tuple[Group, Format], ...] = ()
    by_layer: tuple[tuple[Group, tuple[Format, ...]], ...] = ()
    sparsity: tuple[tuple[Group, Sparsity], ...] = ()
    adapters: tuple[Adapter, ...] = ()
    extra: tuple[tuple[str, Any], ...] = field(default=())
    word_rows: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return _fields_of(self)

    def rows(self, table: str) -> int:
        """Rows of an embedding table: `vocabulary`, `positions` or `token_types`."""
        if table == "vocabulary" and self.word_rows is not None:
            return self.word_rows
        return int(getattr(self, table))

    def format_of(self, group: Group, layer: int | None = None) -> Format:
        """The declared format of a group, or of one of its layers."""
        return self.storage.format_of(group, layer)

    def declared(self) -> tuple[tuple[Group, Format], ...]:
        """Every format of every group that is declared, each once."""
        layers = [(group, form) for group, forms in self.by_layer for form in forms]
        own = dict(self.by_layer)
        whole = [(group, form) for group, form in self.formats if group not in own]
        return tuple(dict.fromkeys([*whole, *layers]))

    def with_formats(self, formats: Mapping[Group, Format]) -> Profile:
        """This profile with some groups declared anew, all their layers alike."""
        merged = {**dict(self.formats), **formats}
        return replace(
            self,
            formats=tuple((g, merged[g]) for g in GROUPS if g in merged),
            by_layer=tuple((g, forms) for g, forms in self.by_layer if g not in formats),
        )

    def with_layers(self, formats: Mapping[Group, Sequence[Format]]) -> Profile:
        """This profile with the layers of some groups declared one by one, first to last.

        The group itself is declared as the layer of the most bits is.
        """
        whole = {group: max(forms, key=lambda f: f.bits) for group, forms in formats.items()}
        merged = {**dict(self.by_layer), **{g: tuple(forms) for g, forms in formats.items()}}
        by_layer = tuple((g, merged[g]) for g in GROUPS if g in merged)
        return replace(self.with_formats(whole), by_layer=by_layer)

    def zeros(self, weight: Weight) -> int:
        """Zeros in every row of a weight: matrices of sparse groups have some, nothing else has."""
        return self.storage.zeros(weight)

    @cached_property
    def storage(self) -> Storage:
        """How its weights are stored."""
        return _storage(self.formats, self.by_layer, self.sparsity)

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """The weights by where they stand, those of adapters last.

        Raises:
            ModelError: the family is unknown, or cannot hold this structure.
        """
        # Imported here: a family makes profiles, and a profile asks its family for names.
        from .families import family_of

        return family_of(self.family).sections(self)

    @cached_property
    def macs(self) -> Mapping[Per, int]:
        """Multiply-accumulates of all its products, by what they are made for."""
        found: dict[Per, int] = dict(total(beside(self)))
        for section in own_sections(self):
            for per, count in section.macs.items():
                found[per] = found.get(per, 0) + count
        return found

    @property
    def soft_tokens(self) -> int:
        """Positions that adapters put before every text."""
        return sum(adapter.tokens for adapter in self.adapters)

    @property
    def past(self) -> int:
        """Keys and values that adapters put before those of every text, in every attention."""
        return sum(adapter.past for adapter in self.adapters)

    def weights(self) -> tuple[Weight, ...]:
        """Every parameter tensor of the built module; tied tensors once.

        Raises:
            ModelError: the family is unknown, or cannot hold this structure.
        """
        return tuple(chain.from_iterable(section.weights for section in self.sections))

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form; `from_json` is its inverse."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Profile:
        """A profile from what `to_json` wrote, tuples or lists alike."""
        return Profile(
            family=data["family"],
            width=data["width"],
            vocabulary=data["vocabulary"],
            positions=data["positions"],
            token_types=data["token_types"],
            layers=tuple(_layer(layer) for layer in data["layers"]),
            head=Head(**data["head"]),
            formats=tuple((group, Format(**form)) for group, form in data["formats"]),
            by_layer=tuple(
                (group, tuple(Format(**form) for form in forms))
                for group, forms in data.get("by_layer", ())
            ),
            sparsity=tuple((group, Sparsity(**found)) for group, found in data["sparsity"]),
            adapters=tuple(_adapter(adapter) for adapter in data["adapters"]),
            extra=tuple((key, _tuples(value)) for key, value in data["extra"]),
            word_rows=data.get("word_rows"),
        )


def _layer(data: Mapping[str, Any]) -> Layer:
    attention, feed_forward = data["attention"], data["feed_forward"]
    return Layer(
        None if attention is None else Attention(**attention),
        None if feed_forward is None else FeedForward(**feed_forward),
    )


def _adapter(data: Mapping[str, Any]) -> Adapter:
    return Adapter(
        kind=data["kind"],
        settings=tuple((name, value) for name, value in data["settings"]),
        wraps=tuple(data["wraps"]),
        weights=tuple(Weight(**{**w, "shape": tuple(w["shape"])}) for w in data["weights"]),
        products=tuple(Product(**product) for product in data.get("products", ())),
        reads_weights=data.get("reads_weights", False),
        tokens=data.get("tokens", 0),
        past=data.get("past", 0),
    )


def _fields_of(data: Adapter | Profile) -> dict[str, Any]:
    """What is copied and sent to other processes: what is remembered beside it is made anew."""
    return {entry.name: getattr(data, entry.name) for entry in fields(data)}


def _tuples(value: Any) -> Any:
    """A JSON value with its lists as tuples, so that a profile can be hashed."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


@lru_cache(maxsize=1024)
def _storage(
    formats: tuple[tuple[Group, Format], ...],
    by_layer: tuple[tuple[Group, tuple[Format, ...]], ...],
    sparsity: tuple[tuple[Group, Sparsity], ...],
) -> Storage:
    return Storage(dict(formats), dict(by_layer), dict(sparsity))


def parameters(profile: Profile) -> int:
    """Elements of all parameter tensors, tied ones once."""
    return sum(section.parameters for section in profile.sections)


def trainable_parameters(profile: Profile, patterns: Sequence[str]) -> int:
    """Elements of the tensors whose name fits a pattern of `Recipe.trainable`.

    Args:
        profile: the model.
        patterns: fnmatch patterns over parameter names; `("*",)` is all, `()` none.
    """
    return sum(
        weight.count
        for weight in profile.weights()
        if any(fnmatchcase(weight.name, pattern) for pattern in patterns)
    )


def operators(
    profile: Profile,
    batch: int,
    tokens: int,
    *,
    context: int | None = None,
    last_only: bool = False,
) -> tuple[Operator, ...]:
    """The matrix products of one forward pass, in no particular order.

    Softmax attention is counted as the full square (arXiv 1706.03762), causal or not. Look-ups,
    norms, activations and the softmax are not matrix products. An adapter that was not merged has
    products of its own; soft tokens are positions, and what they leave in a cache is attended to;
    formats and sparsity change nothing.

    Args:
        profile: the model.
        batch: texts.
        tokens: tokens that are read, per text, or written.
        context: tokens of the text that are attended to, of which all but `tokens` lie in a cache,
            as soft tokens do; None: `tokens`, and nothing was read before.
        last_only: a language-modelling head answers for each text's last position alone.
    """
    times = _times(profile, batch, tokens, context, last_only)
    return tuple(
        Operator(term.kind, term.group, term.layer, 2 * term.macs * times[term.per], term.weight)
        for term in _terms(profile)
    )


def forward_flops(profile: Profile, batch: int, tokens: int, *, last_only: bool = False) -> int:
    """FLOPs of one forward pass: the sum of `operators`.

    Args:
        profile: the model.
        batch: texts.
        tokens: positions per text.
        last_only: a language-modelling head answers for each text's last position alone, as
            when a prompt is read before writing.
    """
    return _flops(profile, _times(profile, batch, tokens, None, last_only))


def decode_flops(profile: Profile, context: int, *, batch: int = 1) -> int:
    """FLOPs of writing one token per text with a cache (arXiv 2204.02311).

    Args:
        profile: a decoder with a language-modelling head.
        context: positions that the new token attends to, itself included.
        batch: texts.
    """
    return _flops(profile, _times(profile, batch, 1, context, False))


def _terms(profile: Profile) -> Iterator[Term]:
    for section in own_sections(profile):
        yield from section.terms
    yield from beside(profile)


def _flops(profile: Profile, times: Mapping[Per, int]) -> int:
    return 2 * sum(count * times[per] for per, count in profile.macs.items())


def _times(
    profile: Profile, batch: int, tokens: int, context: int | None, last_only: bool
) -> Mapping[Per, int]:
    """How often each kind of product is made; arguments as of `operators`."""
    before = profile.soft_tokens
    attended = (tokens if context is None else context) + before + profile.past
    computed = tokens + before if context is None else tokens
    return {
        "token": batch * computed,
        "answer": batch * _answered(profile, tokens, last_only),
        "pair": batch * computed * attended,
        "pass": 1,
    }


def _answered(profile: Profile, tokens: int, last_only: bool) -> int:
    """Positions per text at which the head is computed."""
    from .families import family_of

    if profile.head.kind == "language-modelling":
        return 1 if last_only else tokens
    # Encoders classify by their first position; decoders score every one, then pick the last.
    return 1 if family_of(profile.family).kind == "encoder" else tokens
