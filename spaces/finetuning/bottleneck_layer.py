"""The module of a bottleneck adapter, in the place of the one that it wraps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_ACTIVATIONS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
}
_DEVIATION: Final = 1e-2
"""Of the first matrix's values, as in arXiv 1902.00751, section 3.6."""


class BottleneckLayer(nn.Module):
    """`h + U f(D h + d) + u` of what the wrapped module answers.

    Args:
        base_layer: the wrapped module.
        width: of its answers.
        narrow: of the bottleneck.
        activation: f, one of relu, gelu, silu.
    """

    def __init__(self, base_layer: nn.Module, width: int, narrow: int, activation: str) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.adapter_down = nn.Linear(width, narrow)
        self.adapter_up = nn.Linear(narrow, width)
        self.activation = activation
        with torch.no_grad():
            self.adapter_down.weight.normal_(0.0, _DEVIATION)
            for zero in (self.adapter_down.bias, self.adapter_up.weight, self.adapter_up.bias):
                zero.zero_()

    def forward(self, hidden: Tensor) -> Tensor:
        """`(..., inputs)` to `(..., width)`."""
        answer: Tensor = self.base_layer(hidden)
        narrow = _ACTIVATIONS[self.activation](self.adapter_down(answer))
        added: Tensor = self.adapter_up(narrow)
        return answer + added
