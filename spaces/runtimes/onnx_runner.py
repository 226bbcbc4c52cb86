"""Answering from an ONNX file with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime

from ...errors import VerificationFailed
from ..device import CPU
from ..task import Batch
from .onnx_runtime import EXACT_PRODUCTS
from .rereading import written_anew

_CUDA: Final = "CUDAExecutionProvider"


class OnnxRunner:
    """Answers from one ONNX file and, for a large model, the data file beside it.

    Args:
        model: the file.
        threads: of this session. They sleep while they wait: spinning would take the cores from
            other workers, and count as energy.
        device: `cpu`, or `cuda:N` for the CUDA provider.

    Raises:
        VerificationFailed: the file is missing or broken, or the CUDA provider does not start.
    """

    def __init__(self, model: Path, threads: int, device: str = CPU) -> None:
        self._model = model
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry(*EXACT_PRODUCTS)
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(model), options, providers=_providers(device)
            )
        except Exception as error:  # its own errors share no base but this
            raise VerificationFailed(f"cannot open {model}: {error}; export it anew") from error
        if device != CPU and _CUDA not in self._session.get_providers():
            # where its libraries do not load, it goes on without a word
            raise VerificationFailed(
                f"ONNX Runtime does not compute on {device}: its CUDA provider did not start; "
                "install the CUDA and cuDNN libraries that onnxruntime-gpu names"
            )

    def logits(self, batch: Batch) -> np.ndarray:
        """`(b, outputs)`, or `(b, s, vocabulary)` for language modelling; float32."""
        return self._run(batch.input_ids, batch.attention_mask)

    def generate(self, batch: Batch, tokens: int) -> np.ndarray:
        """Greedy continuation: `(b, tokens)`; the whole text is read anew for every token."""
        return written_anew(self._run, batch, tokens)

    def files(self) -> Sequence[Path]:
        """The graph, and its data file if it has one."""
        data = self._model.with_name(f"{self._model.name}.data")
        return (self._model, data) if data.is_file() else (self._model,)

    def close(self) -> None:
        """Frees the session; nothing answers afterwards."""
        self._session = None

    def _run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        if self._session is None:
            raise RuntimeError("this runner was closed; open the artifact again")
        answer: np.ndarray = self._session.run(
            ["logits"], {"input_ids": ids, "attention_mask": mask}
        )[0]
        return answer


def _providers(device: str) -> list[Any]:
    if device == CPU:
        return ["CPUExecutionProvider"]
    number = int(device.partition(":")[2])
    return [(_CUDA, {"device_id": number}), "CPUExecutionProvider"]
