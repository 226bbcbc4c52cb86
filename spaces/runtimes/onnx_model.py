"""A model as an ONNX graph, written from its profile and its family's description.

Written rather than traced: a fraction of the time, every stored tensor is one of the profile's
weights, and layers of different sizes, or without a part, are no special case. Sizes and names
come from the profile; constants (epsilons, activations, rotations) from the module.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from ..families import family_of
from ..family import Role
from ..finetuning.bottleneck import DOWN, UP
from ..profile import Attention
from .activations import ACTIVATIONS, KEYS
from .onnx_graph import OnnxGraph
from .onnx_weights import OnnxWeights

if TYPE_CHECKING:
    from ..candidate import Candidate

INPUTS: Final = {"input_ids": ("batch", "tokens"), "attention_mask": ("batch", "tokens")}


def write_onnx(candidate: Candidate, path: Path) -> None:
    """Writes a model to `path`: token ids and mask in, logits out, any batch and length.

    Args:
        candidate: adapters merged but those in `ONNX_ADAPTERS`; its paper says structure and
            formats.
        path: `model.onnx`; tensors of more than 2 GB go into `model.onnx.data`.

    Raises:
        StepFailed: kind `diverged`, a weight is not finite.
    """
    writer = _Writer(candidate)
    rank = 2 if writer.profile.head.kind == "classification" else 3
    writer.graph.save(path, INPUTS, writer.logits(), rank)


class _Writer:
    """What the parts of a model share while it is written."""

    def __init__(self, candidate: Candidate) -> None:
        self.module = candidate.module
        self.profile = candidate.paper.profile
        self.config = cast(Any, self.module).config
        self.family = family_of(self.profile.family)
        # Families whose parts normalise what comes in normalise once more at the end.
        self.norms_first = self.family.final_norm is not None
        self.graph = OnnxGraph()
        self.weights = OnnxWeights(self.graph, candidate)
        self.soft, self.past = self.profile.soft_tokens, self.profile.past
        self.tokens = self._axis("input_ids", 1)
        self.words = self.places = self.keys = self._range(0, self.tokens)
        # a text begins behind virtual tokens; of these, soft ones are positions that are computed
        if virtual := self.soft + self.past:
            end = self.graph.op("Add", [self.tokens, self.graph.constant(virtual, np.int64)])
            self.keys = self._range(0, end)
            self.places = self._range(self.past, end) if self.past else self.keys
        self.mask = self._mask()
        self.turns = self._turns() if self.family.rope else None
        self.bottlenecks = {
            path: str(dict(adapter.settings)["activation"])
            for adapter in self.profile.adapters
            for path in adapter.wraps
        }
        # by layer: each attention has a table of keys and values
        self.kept = {
            weight.layer: weight.name
            for adapter in self.profile.adapters
            if adapter.past
            for weight in adapter.weights
        }

    def logits(self) -> str:
        """The whole model."""
        hidden = self._embedded()
        for index, layer in enumerate(self.profile.layers):
            if layer.attention is not None:
                hidden = self._part(hidden, index, "attention.norm", layer.attention)
            if layer.feed_forward is not None:
                hidden = self._part(hidden, index, "ffn.norm", None)
        if self.family.final_norm is not None:
            hidden = self._norm(hidden, self.family.final_norm)
        return self._answers(hidden)

    def _embedded(self) -> str:
        rows = {"vocabulary": "input_ids", "positions": self._positions()}
        rows["token_types"] = self.graph.integers(0)
        hidden = ""
        for name, path in self.family.tables.items():
            if getattr(self.profile, name):
                found = self.weights.lookup(path, rows[name])
                found = self._behind_soft(found) if name == "vocabulary" else found
                hidden = self.graph.op("Add", [hidden, found]) if hidden else found
        norm = self.family.embedding_norm
        return hidden if norm is None else self._norm(hidden, norm)

    def _behind_soft(self, words: str) -> str:
        """The embedded text with the soft tokens before it, the same for every text."""
        for adapter in self.profile.adapters:
            if adapter.tokens:
                (table,) = adapter.weights
                words = self._behind(self.weights.vector(table.name), words)
        return words

    def _behind(self, rows: str, value: str) -> str:
        """`(n, width)` stored rows before the `(b, s, width)` of a value."""
        graph = self.graph
        shape = graph.op("Concat", [self._batch(), graph.integers(1, 1)], {"axis": 0})
        every = graph.op("Expand", [graph.op("Unsqueeze", [rows, graph.integers(0)]), shape])
        return graph.op("Concat", [every, value], {"axis": 1})

    def _positions(self) -> str:
        """Rows of the position table: counted by place, or over the tokens that are no padding."""
        if not self.family.positions_after_padding:
            return self.places
        graph, padding = self.graph, self.graph.integers(self.config.pad_token_id)
        real = graph.op("Not", [graph.op("Equal", ["input_ids", padding])])
        ones = graph.op("Cast", [real], {"to": 7})
        counted = graph.op("CumSum", [ones, graph.constant(1, np.int64)])
        if self.soft or self.past:
            counted = graph.op("Add", [counted, graph.integers(self.soft + self.past)])
        places = graph.op("Add", [graph.op("Mul", [counted, ones]), padding])
        if not self.soft:
            return places
        first = graph.op("Add", [self._range(1, graph.constant(self.soft + 1, np.int64)), padding])
        shape = graph.op("Concat", [self._batch(), graph.integers(1)], {"axis": 0})
        return graph.op("Concat", [graph.op("Expand", [first, shape]), places], {"axis": 1})

    def _part(self, hidden: str, index: int, norm: Role, attention: Attention | None) -> str:
        """Attention (or, without sizes for it, feed-forward) with its norm and its residual."""
        path = self.family.path(norm, index)
        inner = self._norm(hidden, path) if self.norms_first else hidden
        if attention is None:
            change = self._feed_forward(inner, index)
        else:
            change = self._attention(inner, index, attention)
        changed = self.graph.op("Add", [change, hidden])
        return changed if self.norms_first else self._norm(changed, path)

    def _feed_forward(self, hidden: str, index: int) -> str:
        family, weights = self.family, self.weights
        name = next(n for key in KEYS if (n := getattr(self.config, key, None)))
        kind, attributes = ACTIVATIONS[name]
        wide = weights.linear(family.path("ffn.up", index), hidden)
        if family.gated:
            gate = weights.linear(family.path("ffn.gate", index), hidden)
            wide = self.graph.op("Mul", [self._activated(gate, kind, attributes), wide])
        else:
            wide = self._activated(wide, kind, attributes)
        return self._linear(family.path("ffn.down", index), wide)

    def _linear(self, path: str, hidden: str) -> str:
        """A product with a matrix, and the bottleneck behind it where there is one."""
        if path not in self.bottlenecks:
            return self.weights.linear(path, hidden)
        answer = self.weights.linear(f"{path}.base_layer", hidden)
        narrow = self.weights.linear(f"{path}.{DOWN}", answer)
        narrow = self._activated(narrow, *ACTIVATIONS[self.bottlenecks[path]])
        return self.graph.op("Add", [answer, self.weights.linear(f"{path}.{UP}", narrow)])

    def _activated(self, value: str, kind: str, attributes: Mapping[str, Any]) -> str:
        if kind == "Swish":  # an operator of its own only from opset 24 on
            return self.graph.op("Mul", [value, self.graph.op("Sigmoid", [value])])
        return self.graph.op(kind, [value], attributes)

    def _attention(self, hidden: str, index: int, sizes: Attention) -> str:
        graph, family = self.graph, self.family
        query, key, value = self._query_key_value(hidden, index, sizes)
        if self.turns is not None:
            query = self._turned(query, sizes.heads)
            key = self._turned(key, sizes.kv_heads)
        if index in self.kept:
            stored = self.weights.vector(self.kept[index])
            halves = graph.ops("Split", [stored], 2, {"axis": -1, "num_outputs": 2})
            key, value = map(self._behind, halves, (key, value))
        scale = self.module.get_submodule(f"{family.layer}.{index}.{self._seat()}").scaling
        attributes = {
            "q_num_heads": sizes.heads,
            "kv_num_heads": sizes.kv_heads,
            "scale": float(cast(float, scale)),
        }
        mixed = graph.op("Attention", [query, key, value, self.mask], attributes)
        return self._linear(family.path("attention.output", index), mixed)

    def _seat(self) -> str:
        """Path of the module that holds the attention's scaling, inside a layer."""
        return self.family.modules["attention.query"].rpartition(".")[0]

    def _query_key_value(self, hidden: str, index: int, sizes: Attention) -> list[str]:
        graph, family = self.graph, self.family
        roles: tuple[Role, ...] = ("attention.query", "attention.key", "attention.value")
        paths = list(dict.fromkeys(family.path(role, index) for role in roles))
        products = [self.weights.linear(path, hidden) for path in paths]
        if len(products) == 1:
            inner = sizes.heads * sizes.head_width
            inner_kv = sizes.kv_heads * sizes.head_width
            split = graph.integers(inner, inner_kv, inner_kv)
            return graph.ops("Split", [products[0], split], 3, {"axis": -1})
        for seat, norm in enumerate(family.head_norms):
            apart = graph.op(
                "Reshape", [products[seat], graph.integers(0, 0, -1, sizes.head_width)]
            )
            normed = self._norm(apart, f"{family.layer}.{index}.{norm}")
            products[seat] = graph.op("Reshape", [normed, graph.integers(0, 0, -1)])
        return products

    def _norm(self, hidden: str, path: str) -> str:
        module = cast(Any, self.module.get_submodule(path))
        scale = self.weights.vector(f"{path}.weight")
        if not self.family.norm_bias:
            epsilon = float(module.variance_epsilon)
            return self.graph.op("RMSNormalization", [hidden, scale], {"epsilon": epsilon})
        given = [hidden, scale, self.weights.vector(f"{path}.bias")]
        return self.graph.op("LayerNormalization", given, {"epsilon": float(module.eps)})

    def _answers(self, hidden: str) -> str:
        family, head, weights = self.family, self.profile.head, self.weights
        if self.soft:
            axis, text = self.graph.integers(1), self.graph.integers(self.soft)
            last = self.graph.integers(np.iinfo(np.int64).max)
            hidden = self.graph.op("Slice", [hidden, text, last, axis])
        if head.kind == "language-modelling":
            if head.tied:
                return weights.tied(family.tables["vocabulary"], hidden)
            return weights.linear(family.language_head, hidden)
        text = self._last_real(hidden) if family.kind == "decoder" else self._first(hidden)
        if family.pooler is not None:
            kind = "Relu" if family.name == "distilbert" else "Tanh"
            text = self.graph.op(kind, [weights.linear(family.pooler, text)])
        return weights.linear(family.classifier, text)

    def _first(self, hidden: str) -> str:
        return self.graph.op("Gather", [hidden, self.graph.constant(0, np.int64)], {"axis": 1})

    def _last_real(self, hidden: str) -> str:
        """The last token of each text that is no padding, as transformers finds it."""
        graph = self.graph
        padding = graph.constant(self.config.pad_token_id, np.int64)
        real = graph.op("Not", [graph.op("Equal", ["input_ids", padding])])
        places = graph.op("Mul", [graph.op("Cast", [real], {"to": 7}), self.words])
        last = graph.op("ArgMax", [places], {"axis": 1, "keepdims": 1})
        return graph.op("GatherND", [hidden, last], {"batch_dims": 1})

    def _mask(self) -> str:
        """What is added to every attention score: `(b, 1, s, keys)`, 0 or the lowest number."""
        graph = self.graph
        words = graph.op("Cast", ["attention_mask"], {"to": 9})
        if virtual := self.soft + self.past:
            shape = graph.op("Concat", [self._batch(), graph.integers(virtual)], {"axis": 0})
            ones = graph.op("Expand", [graph.constant([[True]], np.bool_), shape])
            words = graph.op("Concat", [ones, words], {"axis": 1})
        seen = graph.op("Unsqueeze", [words, graph.integers(1, 2)])
        if self.family.kind == "decoder":
            seen = graph.op("And", [seen, self._causal()])
        keys = queries = graph.op("Shape", [self.keys])
        if self.past:
            queries = graph.op("Shape", [self.places])
        # ONNX Runtime wants the mask whole over queries and keys.
        shape = graph.op("Concat", [self._batch(), graph.integers(1), queries, keys], {"axis": 0})
        lowest = graph.number(float(np.finfo(np.float32).min))
        return graph.op("Where", [graph.op("Expand", [seen, shape]), graph.number(0.0), lowest])

    def _causal(self) -> str:
        """Which keys each query may see: none behind it, none beyond the sliding window."""
        graph = self.graph
        row = graph.op("Unsqueeze", [self.places, graph.integers(1)])
        behind = graph.op("Sub", [row, self.keys])
        seen = graph.op("GreaterOrEqual", [behind, graph.constant(0, np.int64)])
        window = getattr(self.config, "sliding_window", None)
        if window is None:
            return seen
        near = graph.op("Less", [behind, graph.constant(window, np.int64)])
        return graph.op("And", [seen, near])

    def _turns(self) -> tuple[str, str]:
        """Cosines and sines of the rotations, `(b, s, head_width / 2)` (arXiv 2104.09864)."""
        graph = self.graph
        rotary = cast(Any, self.module.get_submodule(f"{self.family.base}.rotary_emb"))
        speeds = graph.constant(rotary.inv_freq.numpy()[None, None, :], np.float32)
        column = graph.op("Unsqueeze", [self.places, graph.integers(0, 2)])
        angles = graph.op("Mul", [graph.op("Cast", [column], {"to": 1}), speeds])
        shape = graph.op("Concat", [self._batch(), graph.integers(1, 1)], {"axis": 0})
        every = graph.op("Expand", [angles, shape])
        gain = graph.number(float(rotary.attention_scaling))
        cos, sin = (graph.op("Mul", [graph.op(kind, [every]), gain]) for kind in ("Cos", "Sin"))
        return cos, sin

    def _turned(self, value: str, heads: int) -> str:
        assert self.turns is not None
        return self.graph.op("RotaryEmbedding", [value, *self.turns], {"num_heads": heads})

    def _axis(self, value: str, axis: int) -> str:
        """The size of one axis, a scalar."""
        size = self.graph.op("Shape", [value], {"start": axis, "end": axis + 1})
        return self.graph.op("Squeeze", [size])

    def _batch(self) -> str:
        """Number of texts, a vector of one."""
        return self.graph.op("Unsqueeze", [self._axis("input_ids", 0), self.graph.integers(0)])

    def _range(self, start: int, end: str) -> str:
        given = [self.graph.constant(start, np.int64), end, self.graph.constant(1, np.int64)]
        return self.graph.op("Range", given)
