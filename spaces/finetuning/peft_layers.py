"""peft's layers in a transformers model, put in and taken out, and nothing else of peft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from peft import PeftConfig, inject_adapter_in_model
from torch import nn
from transformers.pytorch_utils import Conv1D


def injected(module: nn.Module, config: PeftConfig) -> nn.Module:
    """The module with the layers that the config asks for, in place."""
    before = set(vars(module))
    inject_adapter_in_model(config, module)
    # peft marks the model as its own; what we save and load is the layers alone.
    for mark in set(vars(module)) - before:
        delattr(module, mark)
    return module


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
