"""Fine-tuning: vectors around shared random projections (VeRA), through peft's layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from ..configuration import Settings
from ..hyperparameter import Hyperparameter, Integer
from ..paper import Paper
from ..profile import Adapter, Product, Profile, Weight
from ..steps import Step
from ..technique import Targets
from .adapters import MERGE, adapted, beside, sides
from .lora import WHERE, no_matrices, targeted
from .selection import learning_rate

if TYPE_CHECKING:
    from peft import VeraConfig
    from torch import Tensor, nn

KEY: Final = 0
"""What the projections are drawn from, whatever the study's seed: they are never stored."""


class Vera:
    """Trains `W + diag(b) B diag(d) A`: vectors b and d alone; A and B are random and shared.

    One A and one B, as large as the largest matrix needs, serve all of them. They are drawn from a
    fixed number whenever a model is built, so that files hold none of them; memory and FLOPs do
    while the adapter is not merged. b starts at zero.
    """

    name: ClassVar[str] = "vera"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset(
        {"parameters", "trainable", "flops", "bytes", "outputs", "recipe"}
    )
    source: ClassVar[str] = "arXiv 2310.11454"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Rank, the matrices, the learning rate, and what happens after training."""
        return (Integer("rank", 16, 1024, 256, log=True), WHERE, learning_rate(1e-2), MERGE)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """No such matrices."""
        return no_matrices(paper, settings)

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Attach, Select, Train, and Merge where that is wanted."""
        return adapted(self, settings, beside("vera_lambda_b.default", "vera_lambda_d.default"))

    def adapter(self, profile: Profile, settings: Settings) -> Adapter:
        """Two vectors and two products beside every matrix that is wrapped."""
        matrices, rank = targeted(profile, settings), int(settings["rank"])
        weights: list[Weight] = []
        products: list[Product] = []
        for path, matrix in matrices.items():
            inputs, outputs = sides(matrix)
            for leaf, size in (("vera_lambda_b", outputs), ("vera_lambda_d", rank)):
                name = f"{path}.{leaf}.default"
                weights.append(Weight(name, (size,), "adapter", "vector", matrix.layer))
            products.append(Product(path, matrix.layer, rank * inputs, hidden=True))
            products.append(Product(path, matrix.layer, rank * outputs, gradients=1))
        largest = {
            "inputs": max(sides(matrix)[0] for matrix in matrices.values()),
            "outputs": max(sides(matrix)[1] for matrix in matrices.values()),
        }
        told = tuple(sorted({**settings, **largest}.items()))
        return Adapter(self.name, told, tuple(matrices), tuple(weights), tuple(products))

    def attach(self, module: nn.Module, adapter: Adapter) -> nn.Module:
        """The module with the vectors in it, in place, around the shared projections."""
        from .peft_layers import stored_transposed, with_projections

        config = self.peft_config(adapter, stored_transposed(module, adapter.wraps))
        return with_projections(module, adapter.wraps, config, *projections(adapter))

    def peft_config(self, adapter: Adapter, transposed: bool) -> VeraConfig:
        """What peft is told."""
        from peft import VeraConfig

        return VeraConfig(
            r=int(dict(adapter.settings)["rank"]),
            target_modules=list(adapter.wraps),
            fan_in_fan_out=transposed,
            projection_prng_key=KEY,
        )


def projections(adapter: Adapter) -> tuple[Tensor, Tensor]:
    """A (`rank x inputs`) and B (`outputs x rank`), uniform as He draws them (arXiv 1502.01852)."""
    import torch

    told = {name: int(value) for name, value in adapter.settings if name != "targets"}
    generator = torch.Generator().manual_seed(KEY)
    drawn = []
    for shape in ((told["rank"], told["inputs"]), (told["outputs"], told["rank"])):
        bound = math.sqrt(6 / shape[1])
        drawn.append((2 * torch.rand(shape, generator=generator) - 1) * bound)
    return drawn[0], drawn[1]
