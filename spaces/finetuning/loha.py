"""Fine-tuning: the elementwise product of two low-rank products (LoHa), through peft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from ..configuration import Settings
from ..hyperparameter import Hyperparameter
from ..paper import Paper
from ..profile import Adapter, Product, Profile, Weight
from ..steps import Step
from ..technique import Targets
from .adapters import MERGE, adapted, beside, sides
from .lora import (
    ALPHA_RATIO,
    RANK,
    WHERE,
    alpha_of,
    beyond_rank,
    not_adaptable,
    targeted,
    transposed_matrices,
)
from .selection import learning_rate

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

LEAVES = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


class LoHa:
    """Trains `W + (alpha / r) (A1 B1) * (A2 B2)`, elementwise: ranks up to r squared.

    Twice the parameters of LoRA at the same rank; B2 starts at zero. Unmerged the change is put
    together anew in every pass, as large as W: merge it. GPT-2's matrices are not read.
    """

    name: ClassVar[str] = "loha"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset(
        {"parameters", "trainable", "flops", "bytes", "outputs", "recipe"}
    )
    source: ClassVar[str] = "arXiv 2108.06098 (FedPara); arXiv 2309.14859 (LyCORIS)"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Rank, `alpha / r`, the matrices, the learning rate, and what happens after training."""
        return (RANK, ALPHA_RATIO, WHERE, learning_rate(1e-3), MERGE)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Matrices that cannot be adapted or are not read, or a rank beyond a smallest side."""
        found = [*not_adaptable(paper, settings), *transposed_matrices(paper, settings)]
        return [*found, *beyond_rank(paper, settings)]

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Attach, Select, Train, and Merge where that is wanted."""
        return adapted(self, settings, beside(*(f"{leaf}.default" for leaf in LEAVES)))

    def adapter(self, profile: Profile, settings: Settings) -> Adapter:
        """Four factors beside every matrix that is wrapped, and the change that they make."""
        matrices, rank = targeted(profile, settings), int(settings["rank"])
        weights: list[Weight] = []
        products: list[Product] = []
        for path, matrix in matrices.items():
            inputs, outputs = sides(matrix)
            for leaf in LEAVES:
                shape = (outputs, rank) if leaf.endswith("_a") else (rank, inputs)
                name = f"{path}.{leaf}.default"
                weights.append(Weight(name, shape, "adapter", "factor", matrix.layer))
            # The backward pass makes both products again, and four gradients.
            made = 2 * rank * inputs * outputs
            products.append(Product(path, matrix.layer, made, once=True, gradients=3))
            change = inputs * outputs
            products.append(Product(path, matrix.layer, change, hidden=True, gradients=1))
        told = tuple(sorted(settings.items()))
        return Adapter(self.name, told, tuple(matrices), tuple(weights), tuple(products), True)

    def attach(self, module: nn.Module, adapter: Adapter) -> nn.Module:
        """The module with the factors in it, in place; drawn from torch's random state."""
        from .peft_layers import injected

        return injected(module, self.peft_config(adapter, False))

    def peft_config(self, adapter: Adapter, transposed: bool) -> PeftConfig:
        """What peft is told."""
        from peft import LoHaConfig

        return LoHaConfig(
            r=int(dict(adapter.settings)["rank"]),
            alpha=alpha_of(adapter),
            target_modules=list(adapter.wraps),
        )
