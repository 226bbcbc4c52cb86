"""A model as an ONNX graph, written from its profile and its family's description.

Written rather than traced: a hundredth of the time, every stored tensor is one of the profile's
weights, and layers of different sizes, or without a part, are no special case. Sizes and names
come from the profile; constants (epsilons, activations, rotations) from the module.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from ..families import family_of
from ..family import Role
from ..profile import Attention, Profile
from .onnx_graph import OnnxGraph
from .onnx_weights import OnnxWeights

if TYPE_CHECKING:
    from torch import nn

INPUTS: Final = {"input_ids": ("batch", "tokens"), "attention_mask": ("batch", "tokens")}
ACTIVATIONS: Final = {
    "gelu": ("Gelu", {}),
    "gelu_new": ("Gelu", {"approximate": "tanh"}),
    "gelu_pytorch_tanh": ("Gelu", {"approximate": "tanh"}),
    "relu": ("Relu", {}),
    "silu": ("Swish", {}),
    "swish": ("Swish", {}),
    "tanh": ("Tanh", {}),
}
"""ONNX operators by transformers' names of activations."""

ACTIVATION_KEYS: Final = ("hidden_act", "activation", "activation_function")
"""Where the config of one family or another names its activation."""


def write_onnx(module: nn.Module, profile: Profile, path: Path) -> None:
    """Writes a model to `path`: token ids and mask in, logits out, any batch and length.

    Args:
        module: a transformers model of the profile's structure, adapters merged.
        profile: structure and formats.
        path: `model.onnx`; tensors of more than 2 GB go into `model.onnx.data`.

    Raises:
        StepFailed: kind `diverged`, a weight is not finite.
    """
    writer = _Writer(module, profile)
    rank = 2 if profile.head.kind == "classification" else 3
    writer.graph.save(path, INPUTS, writer.logits(), rank)


class _Writer:
    """What the parts of a model share while it is written."""

    def __init__(self, module: nn.Module, profile: Profile) -> None:
        self.module = module
        self.profile = profile
        self.config = cast(Any, module).config
        self.family = family_of(profile.family)
        self.graph = OnnxGraph()
        self.weights = OnnxWeights(self.graph, module, profile)
        self.tokens = self._axis("input_ids", 1)
        self.places = self._range(self.tokens)
        self.mask = self._mask()
        self.turns = self._turns() if self.family.rope else None

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
                hidden = self.graph.op("Add", [hidden, found]) if hidden else found
        norm = self.family.embedding_norm
        return hidden if norm is None else self._norm(hidden, norm)

    def _positions(self) -> str:
        """Rows of the position table: counted by place, or over the tokens that are no padding."""
        if not self.family.positions_after_padding:
            return self.places
        graph, padding = self.graph, self.graph.integers(self.config.pad_token_id)
        real = graph.op("Not", [graph.op("Equal", ["input_ids", padding])])
        ones = graph.op("Cast", [real], {"to": 7})
        counted = graph.op("CumSum", [ones, graph.constant(1, np.int64)])
        return graph.op("Add", [graph.op("Mul", [counted, ones]), padding])

    def _part(self, hidden: str, index: int, norm: Role, attention: Attention | None) -> str:
        """Attention (or, without sizes for it, feed-forward) with its norm and its residual."""
        path = self.family.path(norm, index)
        inner = self._norm(hidden, path) if self.family.pre_norm else hidden
        if attention is None:
            change = self._feed_forward(inner, index)
        else:
            change = self._attention(inner, index, attention)
        changed = self.graph.op("Add", [change, hidden])
        return changed if self.family.pre_norm else self._norm(changed, path)

    def _feed_forward(self, hidden: str, index: int) -> str:
        family, weights = self.family, self.weights
        name = next(n for key in ACTIVATION_KEYS if (n := getattr(self.config, key, None)))
        kind, attributes = ACTIVATIONS[name]
        wide = weights.linear(family.path("ffn.up", index), hidden)
        if family.gated:
            gate = weights.linear(family.path("ffn.gate", index), hidden)
            wide = self.graph.op("Mul", [self._activated(gate, kind, attributes), wide])
        else:
            wide = self._activated(wide, kind, attributes)
        return weights.linear(family.path("ffn.down", index), wide)

    def _activated(self, value: str, kind: str, attributes: dict[str, str]) -> str:
        if kind == "Swish":  # an operator of its own only from opset 24 on
            return self.graph.op("Mul", [value, self.graph.op("Sigmoid", [value])])
        return self.graph.op(kind, [value], attributes)
