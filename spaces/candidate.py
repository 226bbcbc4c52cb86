"""Candidate: a model in the making; saved as `paper.json` + safetensors, never pickled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .paper import Paper

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass
class TrainState:
    """What a Train step needs to go on as if it had never stopped.

    Args:
        step: optimiser steps done.
        tensors: the optimiser's state, by `parameter name/state name`.
    """

    step: int
    tensors: dict[str, Tensor]


@dataclass
class Candidate:
    """Module, paper, training state.

    Args:
        module: a transformers model of exactly `paper.profile`'s structure, fp32, eval mode.
        paper: what it is on paper.
        train_state: where training stands; None when no Train step came last.
        notes: facts that steps want to keep (which heads were removed, ...), JSON.
    """

    module: nn.Module
    paper: Paper
    train_state: TrainState | None = None
    notes: dict[str, Any] | None = None
