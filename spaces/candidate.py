"""Candidate: a model in the making; saved as `paper.json` + safetensors, never pickled.

FOLDER/paper.json           what it is on paper
FOLDER/weights.safetensors  every parameter, tied ones once, by `Profile.weights()`' names; the map
                            of words, where there is one
FOLDER/train.safetensors    the optimiser's state, only where training may go on
FOLDER/train.json           the step it stands at
FOLDER/notes.json           facts that steps keep, only where there are any
FOLDER/masks.safetensors    what training may not move, only where there is any
FOLDER/grids.safetensors    scales, zeros and ranges that a step chose, only where one did
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import StorageFailed
from .paper import Paper

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass
class TrainState:
    """What a Train step needs to go on as if it had never stopped.

    Args:
        step: optimiser steps done; 0: a mask is chosen, and nothing trained yet.
        tensors: the optimiser's state, by `parameter name/state name`; under a recipe's mask also
            `parameter name/places`, see `masks.py`.
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
        masks: bool, by parameter name: where False, the value stays what it is, whatever trains.
        grids: of weights that already stand on the numbers they are stored as, by
            `NAME:scale` and `NAME:zero`, see `runtimes/grid.py`; of matrices whose inputs have a
            fixed range, by `NAME:entering`, see `runtimes/entering.py`. A step that changes
            weights leaves them out.
    """

    module: nn.Module
    paper: Paper
    train_state: TrainState | None = None
    notes: dict[str, Any] | None = None
    masks: dict[str, Tensor] = field(default_factory=dict)
    grids: dict[str, Tensor] = field(default_factory=dict)


def save_candidate(candidate: Candidate, folder: Path) -> None:
    """Writes a candidate into an existing folder.

    Raises:
        StorageFailed: the disk is full or the folder cannot be written.
    """
    from safetensors.torch import save_file

    from .build import kept_tensors

    state = candidate.train_state
    try:
        _write_json(folder / "paper.json", candidate.paper.to_json())
        save_file(_tensors(kept_tensors(candidate.module)), folder / _WEIGHTS)
        if state is not None:
            save_file(_tensors(state.tensors), folder / _TRAIN)
            _write_json(folder / "train.json", {"step": state.step})
        if candidate.masks:
            save_file(_tensors(candidate.masks), folder / _MASKS)
        if candidate.notes is not None:
            _write_json(folder / "notes.json", candidate.notes)
        if candidate.grids:
            save_file(_tensors(candidate.grids), folder / _GRIDS)
    except OSError as error:
        raise StorageFailed(f"cannot write a candidate into {folder}: {error}") from error


def load_candidate(folder: Path) -> Candidate:
    """The candidate that `save_candidate` wrote: its outputs are equal bit for bit.

    Raises:
        StorageFailed: a file is missing or broken, or the tensors are not the paper's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from .build import build, fill

    try:
        paper = Paper.from_json(json.loads((folder / "paper.json").read_text()))
        tensors = load_file(folder / _WEIGHTS)
        state = None
        if (folder / "train.json").is_file():
            step = json.loads((folder / "train.json").read_text())["step"]
            state = TrainState(step, load_file(folder / _TRAIN))
        notes = folder / "notes.json"
        kept = json.loads(notes.read_text()) if notes.is_file() else None
        masks = load_file(folder / _MASKS) if (folder / _MASKS).is_file() else {}
        grids = load_file(folder / _GRIDS) if (folder / _GRIDS).is_file() else {}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise StorageFailed(f"{folder} does not hold a whole candidate: {error}") from error
    module = build(paper.profile)
    wrong = fill(module, tensors)
    if wrong:
        raise StorageFailed(f"{folder}: weights do not fit the paper: {', '.join(wrong[:5])}")
    return Candidate(module, paper, state, kept, masks, grids)


_WEIGHTS = "weights.safetensors"
_TRAIN = "train.safetensors"
_MASKS = "masks.safetensors"
_GRIDS = "grids.safetensors"


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, allow_nan=False))


def _tensors(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Plain contiguous tensors, which is what safetensors stores."""
    return {name: tensor.detach().contiguous() for name, tensor in named.items()}
