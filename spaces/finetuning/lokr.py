"""Fine-tuning: Kronecker products of small matrices (LoKr), through peft."""

from __future__ import annotations

import math
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
    not_adaptable,
    targeted,
    transposed_matrices,
)
from .selection import learning_rate

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


class LoKr:
    """Trains `W + (alpha / r) C x (A B)`, a Kronecker product: few parameters, full rank possible.

    Each side of W is split into its two divisors nearest its root: C has the smaller ones, starts
    at zero, and is whole; the second factor has the larger ones and rank r, or is whole too where r
    is at least half of its larger side. Unmerged the change is put together anew in every pass, as
    large as W: merge it. GPT-2's matrices are not read.
    """

    name: ClassVar[str] = "lokr"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset(
        {"parameters", "trainable", "flops", "bytes", "outputs", "recipe"}
    )
    source: ClassVar[str] = "arXiv 2309.14859 (LyCORIS); arXiv 2212.10650 (KronA)"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Rank, `alpha / r`, the matrices, the learning rate, and what happens after training."""
        return (RANK, ALPHA_RATIO, WHERE, learning_rate(1e-3), MERGE)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Matrices that cannot be adapted or are not read."""
        return [*not_adaptable(paper, settings), *transposed_matrices(paper, settings)]

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Attach, Select, Train, and Merge where that is wanted."""
        leaves = ("lokr_w1", "lokr_w2", "lokr_w2_a", "lokr_w2_b")
        return adapted(self, settings, beside(*(f"{leaf}.default" for leaf in leaves)))

    def adapter(self, profile: Profile, settings: Settings) -> Adapter:
        """The factors beside every matrix that is wrapped, and the change that they make."""
        matrices, rank = targeted(profile, settings), int(settings["rank"])
        weights: list[Weight] = []
        products: list[Product] = []
        for path, matrix in matrices.items():
            inputs, outputs = sides(matrix)
            found = _factors(inputs, outputs, rank)
            for leaf, shape in found.items():
                name = f"{path}.{leaf}.default"
                weights.append(Weight(name, shape, "adapter", "factor", matrix.layer))
            if "lokr_w2_a" in found:
                made = math.prod(found["lokr_w2_a"]) * found["lokr_w2_b"][1]
                products.append(Product(path, matrix.layer, made, once=True, gradients=2))
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
        from peft import LoKrConfig

        return LoKrConfig(
            r=int(dict(adapter.settings)["rank"]),
            alpha=alpha_of(adapter),
            target_modules=list(adapter.wraps),
        )


def divisors(size: int) -> tuple[int, int]:
    """The two divisors of a size nearest its root, the smaller one first.

    >>> divisors(768), divisors(127)
    ((24, 32), (1, 127))
    """
    small = next(d for d in range(math.isqrt(size), 0, -1) if size % d == 0)
    return small, size // small


def _factors(inputs: int, outputs: int, rank: int) -> dict[str, tuple[int, int]]:
    """Shapes by leaf."""
    (small_in, large_in), (small_out, large_out) = divisors(inputs), divisors(outputs)
    first = {"lokr_w1": (small_out, small_in)}
    if rank >= max(large_out, large_in) / 2:
        return {**first, "lokr_w2": (large_out, large_in)}
    return {**first, "lokr_w2_a": (large_out, rank), "lokr_w2_b": (rank, large_in)}
