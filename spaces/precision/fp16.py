"""fp16: matrices and tables stored in 16 bits, computed in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..configuration import Settings
from ..hyperparameter import Hyperparameter
from ..paper import Paper
from ..steps import Step
from ..technique import Targets
from .declare import Declare, embeddings_knob, head_knob, matrices_and_tables


class Fp16:
    """Half the bytes, eight times nearer to fp32 than bf16; ONNX Runtime holds it too.

    It is read into fp32 when the model is opened: neither faster nor smaller in memory than fp32.
    Norms stay fp32. A weight beyond 65,504 is refused when it is stored.
    """

    name: ClassVar[str] = "fp16"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"bytes", "outputs"})
    source: ClassVar[str] = "arXiv 1710.03740 (the format; storage alone here)"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Formats of the embedding tables and of the head."""
        return (embeddings_knob("fp16"), *head_knob(paper, "fp16"))

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """None here: the runtime says what it cannot hold."""
        return []

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Declare."""
        return (Declare(tuple(matrices_and_tables("fp16", settings).items())),)
