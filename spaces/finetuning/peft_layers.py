"""peft's layers in a transformers model, put in and taken out, and nothing else of peft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from peft import PeftConfig, VeraConfig, inject_adapter_in_model
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.vera.layer import Linear as VeraLinear
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


def injected(module: nn.Module, config: PeftConfig) -> nn.Module:
    """The module with the layers that the config asks for, in place."""
    before = set(vars(module))
    inject_adapter_in_model(config, module)
    # peft marks the model as its own; what we save and load is the layers alone.
    for mark in set(vars(module)) - before:
        delattr(module, mark)
    return module


def with_projections(
    module: nn.Module, paths: Sequence[str], config: VeraConfig, a: Tensor, b: Tensor
) -> nn.Module:
    """The module with VeRA's layers at these paths, in place, around one A and one B.

    peft injects no layers that share anything, so they are put in here.
    """
    shared = BufferDict({"default": a}), BufferDict({"default": b})
    for path in paths:
        base = module.get_submodule(path)
        conv = isinstance(base, Conv1D)
        layer = _VeraLinear(
            base, *shared, "default", config=config, r=config.r, is_target_conv_1d_layer=conv
        )
        module.set_submodule(path, layer)
    # A layer moves them to where its base lies: nowhere, while packed weights are loaded.
    shared[0]["default"], shared[1]["default"] = a, b
    return module


class _VeraLinear(VeraLinear):
    """peft's layer with projections of its vectors' type, so that it computes in bf16 too."""

    def forward(self, x: Tensor, *rest: Any, **named: Any) -> Tensor:
        dtype = self.vera_lambda_d["default"].dtype
        for shared in cast(Any, (self.vera_A, self.vera_B)):
            if shared["default"].dtype != dtype:
                shared["default"] = shared["default"].to(dtype)
        out: Tensor = super().forward(x, *rest, **named)
        return out


@torch.no_grad()
def merged(module: nn.Module, paths: Sequence[str]) -> nn.Module:
    """The module with the layers at these paths folded into the modules that they wrap."""
    for path in paths:
        layer = cast(Any, module.get_submodule(path))
        layer.merge()
        module.set_submodule(path, layer.get_base_layer())
    return module.requires_grad_(True)


def stored_transposed(module: nn.Module, paths: Sequence[str]) -> bool:
    """Whether the modules at these paths store (inputs, outputs), as GPT-2's do."""
    return any(isinstance(module.get_submodule(path), Conv1D) for path in paths)
