"""Fine-tuning: rank-stabilised low-rank adapters (rsLoRA), through peft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, cast

from ..hyperparameter import Hyperparameter, Real
from ..paper import Paper
from ..profile import Adapter
from .adapters import MERGE
from .lora import RANK, WHERE, Lora, lora_config
from .selection import learning_rate

if TYPE_CHECKING:
    from peft import PeftConfig


class RsLora(Lora):
    """LoRA with `alpha / sqrt(r)` in place of `alpha / r`: a higher rank does not learn slower.

    Otherwise LoRA: the same parameters, the same FLOPs.
    """

    name: ClassVar[str] = "rslora"
    source: ClassVar[str] = "arXiv 2312.03732"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Rank, alpha, the matrices, the learning rate, and what happens after training."""
        return (RANK, Real("alpha", 1.0, 32.0, 8.0, log=True), WHERE, learning_rate(1e-3), MERGE)

    def peft_config(self, adapter: Adapter, transposed: bool) -> PeftConfig:
        """What peft is told."""
        alpha = cast(int, dict(adapter.settings)["alpha"])  # a float, which peft only divides
        return lora_config(adapter, transposed, alpha, use_rslora=True)
