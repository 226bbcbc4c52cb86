"""Writing packed tensors, and answering from them with PyTorch."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...errors import VerificationFailed
from ..candidate import Candidate
from ..device import CPU, give_back
from ..paper import Paper
from ..task import Batch
from ..word_table import word_maps
from .grid import grid_of
from .packed_module import packed_module, part_name
from .packing import packed
from .picked import picked

TENSORS: Final = "model.safetensors"
STRUCTURE: Final = "paper.json"


def write(candidate: Candidate, paper: Paper, folder: Path) -> None:
    """Packs a candidate's parameters into `model.safetensors`, its structure into `paper.json`.

    The recipe stays behind: opening needs none of it, and its digits would count as model bytes.
    """
    profile, tensors = picked(candidate), word_maps(candidate.module)
    parameters = dict(candidate.module.named_parameters())
    for weight in profile.weights():
        grid = grid_of(candidate.grids, profile, weight)
        found = packed(profile, weight, parameters[weight.name], grid)
        tensors |= {part_name(weight, part): tensor for part, tensor in found.items()}
    save_file(tensors, folder / TENSORS)
    opened = Paper(profile, runtime=paper.runtime)
    (folder / STRUCTURE).write_text(json.dumps(opened.to_json(), allow_nan=False))


class EagerRunner:
    """Answers from the two files of an artifact.

    Args:
        folder: where they lie.
        threads: torch's, for the whole process.
        device: where it answers, `cpu` or `cuda:N`.

    Raises:
        VerificationFailed: a file is missing, broken, or of another structure.
    """

    def __init__(self, folder: Path, threads: int, device: str = CPU) -> None:
        torch.set_num_threads(threads)
        self._device = device
        self._files = (folder / TENSORS, folder / STRUCTURE)
        try:
            paper = Paper.from_json(json.loads(self._files[1].read_text()))
            tensors = load_file(self._files[0])
            module = packed_module(paper.profile, tensors)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise VerificationFailed(f"cannot open {folder}: {error}; export it anew") from error
        self._module: nn.Module | None = module.to(device)

    def logits(self, batch: Batch) -> np.ndarray:
        """`(b, outputs)`, or `(b, s, vocabulary)` for language modelling; float32."""
        return self._answered(batch.input_ids, batch.attention_mask)

    def generate(self, batch: Batch, tokens: int) -> np.ndarray:
        """Greedy continuation with a cache: `(b, tokens)`; padding may be on either side.

        An end-of-text token does not end it: every text gets exactly `tokens` tokens.
        """
        ids, mask = self._put(*padded_left(batch))
        places = (mask.cumsum(dim=1) - 1).clamp_(min=0)
        written, cache = ids.new_empty(len(ids), tokens), None
        with torch.inference_mode():
            for step in range(tokens):
                answer = self._open()(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=places,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                written[:, step] = answer.logits[:, -1].argmax(dim=-1)
                ids, cache = written[:, step : step + 1], answer.past_key_values
                mask, places = nn.functional.pad(mask, (0, 1), value=1), places[:, -1:] + 1
        return written.to(CPU).numpy()

    def files(self) -> Sequence[Path]:
        """The tensors and the structure."""
        return self._files

    def close(self) -> None:
        """Frees the module; nothing answers afterwards."""
        self._module = None
        gc.collect()
        give_back(self._device)

    def _answered(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        given = dict(zip(("input_ids", "attention_mask"), self._put(ids, mask), strict=True))
        with torch.inference_mode():
            answer: Tensor = self._open()(**given).logits
            return answer.float().to(CPU).numpy()

    def _put(self, *arrays: np.ndarray) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(array).to(self._device) for array in arrays)

    def _open(self) -> nn.Module:
        if self._module is None:
            raise RuntimeError("this runner was closed; open the artifact again")
        return self._module


def padded_left(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask of texts moved to the right, their order kept: all end at the last position."""
    ids, mask = batch.input_ids, batch.attention_mask
    order = np.argsort(mask, axis=1, kind="stable")
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(mask, order, axis=1)
