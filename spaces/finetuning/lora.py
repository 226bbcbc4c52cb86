"""Fine-tuning: low-rank adapters (LoRA), through peft; what its relatives share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from ..configuration import Settings
from ..family import Role
from ..hyperparameter import Hyperparameter, Integer, OneOf, Real
from ..paper import Paper
from ..profile import Adapter, Profile, Weight
from ..steps import Step
from ..technique import Targets
from .adapters import MERGE, adapted, beside, fills_zeros, sides, thin_refusals, wrapped
from .selection import learning_rate

if TYPE_CHECKING:
    from peft import PeftConfig
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

WHERE: Final = OneOf("targets", tuple(TARGETS), "attention-qv", ordered=True)
RANK: Final = Integer("rank", 2, 64, 8, log=True)
ALPHA_RATIO: Final = Real("alpha_ratio", 0.5, 4.0, 2.0, log=True)


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
        # Measured with a width of 384, rank 8, 225 steps: 5e-4 reached .530, 2e-3 .565.
        return (RANK, ALPHA_RATIO, WHERE, learning_rate(1e-3), MERGE)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Matrices that cannot be adapted, or a rank beyond the smallest side of one."""
        return [*not_adaptable(paper, settings), *beyond_rank(paper, settings)]

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Attach, Select, Train, and Merge where that is wanted."""
        return adapted(self, settings, beside("lora_A.default.weight", "lora_B.default.weight"))

    def adapter(self, profile: Profile, settings: Settings) -> Adapter:
        """The two factors beside every matrix that is wrapped."""
        matrices = targeted(profile, settings)
        rank = int(settings["rank"])
        weights = [w for path, matrix in matrices.items() for w in factors(path, matrix, rank)]
        return Adapter(self.name, tuple(sorted(settings.items())), tuple(matrices), tuple(weights))

    def attach(self, module: nn.Module, adapter: Adapter) -> nn.Module:
        """The module with the factors in it, in place; drawn from torch's random state."""
        from .peft_layers import injected, stored_transposed

        transposed = stored_transposed(module, adapter.wraps)
        return injected(module, self.peft_config(adapter, transposed))

    def peft_config(self, adapter: Adapter, transposed: bool) -> PeftConfig:
        """What peft is told."""
        return lora_config(adapter, transposed, alpha_of(adapter))


def alpha_of(adapter: Adapter) -> int:
    """The strength: rank times `alpha_ratio`."""
    settings = dict(adapter.settings)
    # peft says int, and only ever divides it by the rank or its root.
    return cast(int, int(settings["rank"]) * float(settings["alpha_ratio"]))


def lora_config(adapter: Adapter, transposed: bool, alpha: int, **told: Any) -> PeftConfig:
    """peft's configuration of an adapter of this kind or one of its relatives.

    Args:
        adapter: says rank and modules.
        transposed: its matrices are stored as (inputs, outputs).
        alpha: the strength. told: what the relatives add.
    """
    from peft import LoraConfig

    return LoraConfig(
        r=int(dict(adapter.settings)["rank"]),
        lora_alpha=alpha,
        target_modules=list(adapter.wraps),
        fan_in_fan_out=transposed,
        **told,
    )


def targeted(profile: Profile, settings: Settings) -> dict[str, Weight]:
    """The matrices that the `targets` of some settings name, by path."""
    return wrapped(profile, TARGETS[str(settings["targets"])])


def not_adaptable(paper: Paper, settings: Settings) -> list[str]:
    """Why matrices that shall be adapted cannot be: none there, thin ones, zeros would fill."""
    if thin := thin_refusals(paper.profile, TARGETS[str(settings["targets"])]):
        return thin
    matrices = targeted(paper.profile, settings)
    if matrices:
        return fills_zeros(paper, settings, matrices.values())
    return [f"no layer has {settings['targets']}; choose other targets"]


def beyond_rank(paper: Paper, settings: Settings) -> list[str]:
    """An objection where the rank exceeds the smallest side of a matrix."""
    matrices, rank = targeted(paper.profile, settings), int(settings["rank"])
    smallest, path = min(((min(sides(m)), p) for p, m in matrices.items()), default=(rank, ""))
    if rank <= smallest:
        return []
    return [
        f"rank {rank} exceeds the smallest wrapped dimension {smallest} ({path}); "
        f"choose rank <= {smallest}"
    ]


def transposed_matrices(paper: Paper, settings: Settings) -> list[str]:
    """An objection where matrices are stored as (inputs, outputs), which few of peft's layers read.

    GPT-2's are.
    """
    matrices = targeted(paper.profile, settings)
    if all(matrix.input_axis == 1 for matrix in matrices.values()):
        return []
    return [
        f"peft's layers of this kind do not read {paper.profile.family}'s transposed matrices "
        "(Conv1D); choose lora, rslora, dora or vera"
    ]


def factors(path: str, matrix: Weight, rank: int) -> tuple[Weight, Weight]:
    """A (`rank x inputs`) and B (`outputs x rank`) beside a matrix."""
    inputs, outputs = sides(matrix)
    a, b = f"{path}.lora_A.default.weight", f"{path}.lora_B.default.weight"
    return (
        Weight(a, (rank, inputs), "adapter", "matrix", matrix.layer),
        Weight(b, (outputs, rank), "adapter", "matrix", matrix.layer),
    )
