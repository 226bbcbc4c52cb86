"""Profile: a model on paper.

Structure only: layers with their own sizes, the head, formats, adapters. Parameters, trainable
parameters, FLOPs and bytes are derived from it without torch, in microseconds; `build.py` makes the
module of exactly this structure. FLOP = 2 x multiply-accumulate; matrix products only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Group = Literal["embeddings", "attention", "ffn", "head", "norm", "adapter"]
FormatName = Literal["fp32", "bf16", "fp16", "int8", "int4"]
GROUPS: tuple[Group, ...] = ("embeddings", "attention", "ffn", "head", "norm", "adapter")


@dataclass(frozen=True)
class Format:
    """How the matrices and tables of a group are stored and computed.

    Args:
        name: number format. Vectors (biases, norms) never go below 16 bits.
        group_size: weights that share a scale, along the input axis; None: one scale a row.
    """

    name: FormatName = "fp32"
    group_size: int | None = None

    @property
    def bits(self) -> int:
        """Bits of one stored weight, scales apart."""
        return {"fp32": 32, "bf16": 16, "fp16": 16, "int8": 8, "int4": 4}[self.name]


@dataclass(frozen=True)
class Attention:
    """Softmax attention of one layer. `kv_heads < heads` is grouped-query attention."""

    heads: int
    kv_heads: int
    head_width: int


@dataclass(frozen=True)
class FeedForward:
    """Feed-forward block of one layer. `gated`: three matrices (SwiGLU) instead of two."""

    width: int
    gated: bool = False


@dataclass(frozen=True)
class Layer:
    """One block. None: the part is missing."""

    attention: Attention | None
    feed_forward: FeedForward | None


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
        role: `matrix` (multiplied), `table` (looked up), `vector` (bias, norm, scale).
        input_axis: for a matrix, the axis that is summed over (1 for Linear, 0 for Conv1D).
    """

    name: str
    shape: tuple[int, ...]
    group: Group
    role: Literal["matrix", "table", "vector"]
    layer: int | None = None
    input_axis: int = 1

    @property
    def count(self) -> int:
        """Elements."""
        total = 1
        for side in self.shape:
            total *= side
        return total


@dataclass(frozen=True)
class Adapter:
    """Parameters added beside the model by a fine-tuning technique.

    Args:
        kind: the technique's name; `finetuning.TABLE[kind]` attaches it when a module is built.
        settings: what it needs for that (rank, alpha, targets, ...), sorted.
        wraps: paths of the modules that it wraps; their own parameters move to `PATH.base_layer.*`.
        weights: the parameters that it adds, by the names they have in the built module.
    """

    kind: str
    settings: tuple[tuple[str, str | int | float | bool], ...]
    wraps: tuple[str, ...]
    weights: tuple[Weight, ...]


@dataclass(frozen=True)
class Operator:
    """One product of the forward pass.

    Args:
        kind: `linear`, `attention_scores`, `attention_values`, `adapter`.
        flops: 2 x multiply-accumulate, for the whole batch.
        weight: name of the parameter it reads, None for attention's two products.
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
        vocabulary, positions, token_types: rows of the embedding tables (0: no table).
        formats: one per group; groups left out are fp32.
        sparsity: share of zeros per group, in [0, 1).
        extra: what the family needs to rebuild its config (activation, epsilon, rope, ...), JSON.
    """

    family: str
    width: int
    vocabulary: int
    positions: int
    token_types: int
    layers: tuple[Layer, ...]
    head: Head
    formats: tuple[tuple[Group, Format], ...] = ()
    adapters: tuple[Adapter, ...] = ()
    extra: tuple[tuple[str, Any], ...] = field(default=())

    def format_of(self, group: Group) -> Format:
        """The declared format of a group."""
        return dict(self.formats).get(group, Format())

    def with_formats(self, formats: Mapping[Group, Format]) -> Profile:
        """This profile with some groups declared anew."""
        merged = {**dict(self.formats), **formats}
        return replace(self, formats=tuple((g, merged[g]) for g in GROUPS if g in merged))
