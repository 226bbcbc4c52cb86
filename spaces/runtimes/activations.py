"""Activations that an ONNX graph can hold, by the names that transformers gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..profile import Profile

ACTIVATIONS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "gelu": ("Gelu", {}),
    "gelu_new": ("Gelu", {"approximate": "tanh"}),
    "gelu_pytorch_tanh": ("Gelu", {"approximate": "tanh"}),
    "relu": ("Relu", {}),
    "silu": ("Swish", {}),
    "swish": ("Swish", {}),
    "tanh": ("Tanh", {}),
}
"""Operator and attributes. Swish is written as x sigmoid(x): it is an operator from opset 24 on."""

KEYS: Final = ("hidden_act", "activation", "activation_function")
"""Where the config of one family or another names its activation."""


def activation_of(profile: Profile) -> str | None:
    """The activation that a profile names, None: its family's own, which is in the table."""
    extra = dict(profile.extra)
    return next((str(extra[key]) for key in KEYS if key in extra), None)
