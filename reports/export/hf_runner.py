"""Answering with transformers (and peft) alone, as whoever loads an exported folder will."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from ...errors import VerificationFailed
from ...spaces.batching import inputs_of
from ...spaces.device import CPU, give_back
from ...spaces.task import Batch, TaskKind
from .usage import AUTO


class HfRunner:
    """Answers from a folder in transformers' format, or from a peft folder and its base.

    Args:
        folder: what was exported.
        kind: what it answers.
        threads: torch's, for the whole process.
        device: where it answers, `cpu` or `cuda:N`.
        base: where the base lies, None: the folder is a whole model.
        options: what the base is loaded with (`num_labels`, `pad_token_id`).

    Raises:
        VerificationFailed: it does not load, or not all of it.
    """

    def __init__(
        self,
        folder: Path,
        kind: TaskKind,
        threads: int,
        device: str = CPU,
        *,
        base: Path | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        self._folders = (folder,) if base is None else (folder, base)
        self._device = device
        try:
            module = _loaded(base or folder, kind, whole=base is None, options=options or {})
            whole = module if base is None else _adapted(module, folder)
            self._module: Any = whole.to(device)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise VerificationFailed(f"{folder} cannot be loaded: {error}") from error

    def logits(self, batch: Batch) -> np.ndarray:
        """`(b, outputs)`, or `(b, s, vocabulary)` for language modelling; float32."""
        with torch.inference_mode():
            answer: torch.Tensor = self._module(**self._inputs(batch)).logits
            return answer.float().to(CPU).numpy()

    def generate(self, batch: Batch, tokens: int) -> np.ndarray:
        """Greedy continuation of texts without padding: `(b, tokens)`."""
        told = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": None}
        with torch.inference_mode():
            written = self._module.generate(
                **self._inputs(batch),
                generation_config=transformers.GenerationConfig.from_dict(
                    {**told, "pad_token_id": 0}
                ),
            )
        continuation: np.ndarray = written[:, batch.input_ids.shape[1] :].to(CPU).numpy()
        return continuation

    def files(self) -> Sequence[Path]:
        """Configs and weights, those of the base among them."""
        patterns = ("config.json", "adapter_config.json", "*.safetensors")
        return [p for f in self._folders for pattern in patterns for p in sorted(f.glob(pattern))]

    def close(self) -> None:
        """Frees the model; nothing answers afterwards."""
        self._module = None
        gc.collect()
        give_back(self._device)

    def _inputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        return inputs_of(batch, torch.device(self._device))


def _loaded(folder: Path, kind: TaskKind, *, whole: bool, options: Mapping[str, Any]) -> Any:
    auto = getattr(transformers, AUTO[kind])
    found, notes = auto.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True if whole else None,
        output_loading_info=True,
        ignore_mismatched_sizes=not whole,
        **options,
    )
    lacking = [*notes["missing_keys"], *notes["unexpected_keys"]]
    if whole and lacking:
        raise ValueError(f"tensors are missing or left over: {', '.join(sorted(lacking)[:5])}")
    return found.eval()


def _adapted(module: Any, folder: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(module, folder, local_files_only=True).eval()
