"""Writing packed tensors, and answering from them with PyTorch."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...errors import VerificationFailed
from ..paper import Paper
from ..task import Batch
from .packed_module import packed_module, part_name
from .packing import packed

TENSORS: Final = "model.safetensors"
STRUCTURE: Final = "paper.json"


def write(module: nn.Module, paper: Paper, folder: Path) -> None:
    """Packs a module's parameters into `model.safetensors`, its structure into `paper.json`."""
    parameters = dict(module.named_parameters())
    tensors = {
        part_name(weight, part): tensor
        for weight in paper.profile.weights()
        for part, tensor in packed(paper.profile, weight, parameters[weight.name]).items()
    }
    save_file(tensors, folder / TENSORS)
    (folder / STRUCTURE).write_text(json.dumps(paper.to_json(), allow_nan=False))


class EagerRunner:
    """Answers from the two files of an artifact.

    Args:
        folder: where they lie.
        threads: torch's, for the whole process.

    Raises:
        VerificationFailed: a file is missing, broken, or of another structure.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self._files = (folder / TENSORS, folder / STRUCTURE)
        try:
            paper = Paper.from_json(json.loads(self._files[1].read_text()))
            tensors = load_file(self._files[0])
            self._module: nn.Module | None = packed_module(paper.profile, tensors)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise VerificationFailed(
                f"{folder} cannot be opened: {error}; export it anew"
            ) from error

    def logits(self, batch: Batch) -> np.ndarray:
        """`(b, outputs)`, or `(b, s, vocabulary)` for language modelling; float32."""
        ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
        with torch.inference_mode():
            answer: Tensor = self._open()(input_ids=ids, attention_mask=mask).logits
            return answer.float().numpy()

    def generate(self, batch: Batch, tokens: int) -> np.ndarray:
        """Greedy continuation with a cache: `(b, tokens)`; padding may be on either side."""
        ids, mask = padded_left(batch.input_ids, batch.attention_mask)
        module = cast(Any, self._open())
        with torch.inference_mode():
            written = module.generate(
                input_ids=torch.from_numpy(ids),
                attention_mask=torch.from_numpy(mask),
                generation_config=_greedy(tokens),
            )
        continuation: np.ndarray = written[:, ids.shape[1] :].numpy()
        return continuation

    def files(self) -> Sequence[Path]:
        """The tensors and the structure."""
        return self._files

    def close(self) -> None:
        """Frees the module; nothing answers afterwards."""
        self._module = None
        gc.collect()

    def _open(self) -> nn.Module:
        if self._module is None:
            raise RuntimeError("this runner was closed; open the artifact again")
        return self._module


def padded_left(ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Texts moved to the right, their order kept, so that all end at the last position."""
    order = np.argsort(mask, axis=1, kind="stable")
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(mask, order, axis=1)


def _greedy(tokens: int) -> Any:
    from transformers import GenerationConfig

    # Without an end token every text gets exactly as many tokens as were asked for.
    told = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return GenerationConfig.from_dict(told)
