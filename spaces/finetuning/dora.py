"""Fine-tuning: weight-decomposed low-rank adapters (DoRA), through peft."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ..configuration import Settings
from ..paper import Paper
from ..profile import Adapter, Product, Profile, Weight
from ..steps import Step
from .adapters import adapted, beside, sides
from .lora import Lora, alpha_of, lora_config, targeted

if TYPE_CHECKING:
    from peft import PeftConfig


class Dora(Lora):
    """Trains direction and length of chosen matrices apart: LoRA turns W, a vector scales each row.

    `m (W + (alpha / r) B A) / |W + (alpha / r) B A|`, norms over the inputs of an output and taken
    as constants in the backward pass. Unmerged it makes the product `B A` anew in every pass, and
    reads W itself: beside packed weights it must be merged.
    """

    name: ClassVar[str] = "dora"
    source: ClassVar[str] = "arXiv 2402.09353"

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Attach, Select, Train, and Merge where that is wanted."""
        leaves = ("lora_A.default.weight", "lora_B.default.weight")
        return adapted(self, settings, beside(*leaves, "lora_magnitude_vector.default.weight"))

    def adapter(self, profile: Profile, settings: Settings) -> Adapter:
        """LoRA's factors and a length for every output of every matrix that is wrapped."""
        matrices, plain = targeted(profile, settings), super().adapter(profile, settings)
        lengths = [_lengths(path, matrix) for path, matrix in matrices.items()]
        rank = int(settings["rank"])
        products = [_norm(path, matrix, rank) for path, matrix in matrices.items()]
        return replace(
            plain,
            weights=(*plain.weights, *lengths),
            products=tuple(products),
            reads_weights=True,
        )

    def peft_config(self, adapter: Adapter, transposed: bool) -> PeftConfig:
        """What peft is told."""
        return lora_config(adapter, transposed, alpha_of(adapter), use_dora=True)


def _lengths(path: str, matrix: Weight) -> Weight:
    name = f"{path}.lora_magnitude_vector.default.weight"
    return Weight(name, (sides(matrix)[1],), "adapter", "vector", matrix.layer)


def _norm(path: str, matrix: Weight, rank: int) -> Product:
    """`B A` for the norms: peft multiplies both factors with an identity as wide as the inputs."""
    inputs, outputs = sides(matrix)
    return Product(path, matrix.layer, rank * inputs * (inputs + outputs), once=True)
