"""Fine-tuning: low-rank adapters (LoRA), through peft."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final, cast

from ..configuration import Settings
from ..family import Role
from ..hyperparameter import Hyperparameter, Integer, OneOf, Real
from ..paper import Paper
from ..profile import Adapter, Profile, Weight
from ..steps import Step
from ..technique import Targets
from ..training import FinetuneStep
from .adapters import MERGE, Attach, Merge, fills_zeros, sides, wrapped
from .selection import Select, learning_rate, new_answers

if TYPE_CHECKING:
    from torch import nn

_ATTENTION: Final[tuple[Role, ...]] = (
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
)
TARGETS: Final[Mapping[str, tuple[Role, ...]]] = {
    "attention-qv": ("attention.query", "attention.value"),
    "attention": _ATTENTION,
    "all-linear": (*_ATTENTION, "ffn.gate", "ffn.up", "ffn.down"),
}
"""The matrices that are adapted; a fused matrix is adapted whole."""


class Lora:
    """Trains `W + (alpha / r) B A` for chosen matrices W, which stay; a classifier trains too.

    A (`r x inputs`) is drawn from the seed, B (`outputs x r`) starts at zero.
    """

    name: ClassVar[str] = "lora"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset(
        {"parameters", "trainable", "flops", "bytes", "outputs", "recipe"}
    )
    source: ClassVar[str] = "arXiv 2106.09685"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Rank, `alpha / r`, the matrices, the learning rate, and what happens after training."""
        return (
            Integer("rank", 2, 64, 8, log=True),
            Real("alpha_ratio", 0.5, 4.0, 2.0, log=True),
            OneOf("targets", tuple(TARGETS), "attention-qv", ordered=True),
            # Measured with a width of 384, rank 8, 225 steps: 5e-4 reached .530, 2e-3 .565.
            learning_rate(1e-3),
            MERGE,
        )

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """No such matrices, a rank beyond the smallest side of one, or zeros that would fill."""
        matrices = wrapped(paper.profile, TARGETS[str(settings["targets"])])
        if not matrices:
            return [f"no layer has {settings['targets']}; choose other targets"]
        path = min(matrices, key=lambda p: min(sides(matrices[p])))
        smallest, rank = min(sides(matrices[path])), int(settings["rank"])
        if rank <= smallest:
            return fills_zeros(paper, settings)
        return [
            f"rank {rank} exceeds the smallest wrapped dimension {smallest} ({path}); "
            f"choose rank <= {smallest}"
        ]

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Attach, Select, Train, and Merge where that is wanted."""
        told = tuple((knob, settings[knob]) for knob in ("alpha_ratio", "rank", "targets"))
        rate = float(settings["learning_rate"])
        steps = (Attach(self, told), Select(self.name, rate, lora_names), FinetuneStep())
        return (*steps, Merge(self.name)) if settings["merge"] == "merge" else steps

    def adapter(self, profile: Profile, settings: Settings) -> Adapter:
        """The two factors beside every matrix that is wrapped."""
        matrices = wrapped(profile, TARGETS[str(settings["targets"])])
        rank = int(settings["rank"])
        weights = [w for path, matrix in matrices.items() for w in _factors(path, matrix, rank)]
        return Adapter(self.name, tuple(sorted(settings.items())), tuple(matrices), tuple(weights))

    def attach(self, module: nn.Module, adapter: Adapter) -> nn.Module:
        """The module with the factors in it, in place; drawn from torch's random state."""
        from peft import LoraConfig

        from .peft_layers import injected, stored_transposed

        settings = dict(adapter.settings)
        rank = int(settings["rank"])
        config = LoraConfig(
            r=rank,
            # peft says int, and only ever divides it by the rank.
            lora_alpha=cast(int, rank * float(settings["alpha_ratio"])),
            target_modules=list(adapter.wraps),
            fan_in_fan_out=stored_transposed(module, adapter.wraps),
        )
        return injected(module, config)


def lora_names(profile: Profile) -> tuple[str, ...]:
    """The factors, and a classifier's own parameters."""
    return ("*.lora_A.default.weight", "*.lora_B.default.weight", *new_answers(profile))


def _factors(path: str, matrix: Weight, rank: int) -> tuple[Weight, Weight]:
    inputs, outputs = sides(matrix)
    a, b = f"{path}.lora_A.default.weight", f"{path}.lora_B.default.weight"
    return (
        Weight(a, (rank, inputs), "adapter", "matrix", matrix.layer),
        Weight(b, (outputs, rank), "adapter", "matrix", matrix.layer),
    )
