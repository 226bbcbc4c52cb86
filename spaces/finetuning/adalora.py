"""Fine-tuning: low-rank adapters whose ranks go where they matter (AdaLoRA), in peft's layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from ..configuration import Settings
from ..hyperparameter import Hyperparameter
from ..paper import Paper
from ..profile import Adapter, Profile, Weight
from ..recipe import RankBudget
from ..steps import Step
from ..technique import Targets
from ..training import FinetuneStep
from .adapters import Attach, Merge, beside, sides
from .lora import ALPHA_RATIO, RANK, WHERE, not_adaptable, targeted
from .selection import Select, learning_rate

if TYPE_CHECKING:
    from torch import nn

ORTHOGONALITY: Final = 0.1
"""Weight of the regulariser."""


class AdaLora:
    """Trains `W + (alpha / r) P diag(e) Q`, r half as large again as `rank`, and lets ranks go.

    `rank` is the mean over the matrices in the end: how many ranks stay in all. Which ones, a
    sensitivity smoothed over the steps decides while it trains. Merging is the only way out: what a
    kept adapter would take depends on where its ranks went, which paper does not know. While it
    trains every matrix has its r ranks, those that went with e = 0.
    """

    name: ClassVar[str] = "adalora"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset(
        {"parameters", "trainable", "flops", "outputs", "recipe"}
    )
    source: ClassVar[str] = "arXiv 2303.10512"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Mean rank in the end, `alpha / r`, the matrices, and the learning rate."""
        return (RANK, ALPHA_RATIO, WHERE, learning_rate(1e-3))

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Matrices that cannot be adapted, or a first rank beyond the smallest side of one."""
        found = not_adaptable(paper, {**settings, "merge": "merge"})
        matrices, first = targeted(paper.profile, settings), first_rank(settings)
        smallest = min((min(sides(matrix)) for matrix in matrices.values()), default=first)
        if first <= smallest:
            return found
        return [
            *found,
            f"rank {settings['rank']} begins as {first}, which exceeds the smallest wrapped "
            f"dimension {smallest}; choose rank <= {2 * smallest // 3}",
        ]

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Attach, Select, Train, Merge."""
        shape = {name: settings[name] for name in ("alpha_ratio", "rank", "targets")}
        choose = beside("lora_A.default", "lora_B.default", "lora_E.default")
        count, rate = len(targeted(paper.profile, settings)), float(settings["learning_rate"])
        budget = RankBudget(
            count * first_rank(settings), count * int(settings["rank"]), ORTHOGONALITY
        )
        return (
            Attach(self, tuple(sorted(shape.items()))),
            Select(self.name, rate, choose, ranks=budget),
            FinetuneStep(),
            Merge(self.name),
        )

    def adapter(self, profile: Profile, settings: Settings) -> Adapter:
        """Q, e and P beside every matrix that is wrapped, and the number that peft divides by."""
        matrices, rank = targeted(profile, settings), first_rank(settings)
        weights: list[Weight] = []
        for path, matrix in matrices.items():
            inputs, outputs = sides(matrix)
            for leaf, shape in (("lora_A", (rank, inputs)), ("lora_B", (outputs, rank))):
                name = f"{path}.{leaf}.default"
                weights.append(Weight(name, shape, "adapter", "matrix", matrix.layer))
            for leaf, size in (("lora_E", (rank, 1)), ("ranknum", (1,))):
                name = f"{path}.{leaf}.default"
                weights.append(Weight(name, size, "adapter", "vector", matrix.layer))
        told = tuple(sorted(settings.items()))
        return Adapter(self.name, told, tuple(matrices), tuple(weights))

    def attach(self, module: nn.Module, adapter: Adapter) -> nn.Module:
        """The module with the factors in it, in place; drawn from torch's random state."""
        from peft import AdaLoraConfig

        from .peft_layers import injected, stored_transposed

        told = dict(adapter.settings)
        rank = first_rank(told)
        config = AdaLoraConfig(
            init_r=rank,
            target_r=int(told["rank"]),
            # peft only divides it by the rank
            lora_alpha=rank * float(told["alpha_ratio"]),  # type: ignore[arg-type]
            target_modules=list(adapter.wraps),
            fan_in_fan_out=stored_transposed(module, adapter.wraps),
            total_step=1,  # ranks go as `ranks.py` says
        )
        return injected(module, config)


def first_rank(settings: Settings) -> int:
    """The rank that every matrix begins with: half as large again (section 4.1).

    >>> first_rank({"rank": 3})
    5
    """
    return math.ceil(1.5 * int(settings["rank"]))
