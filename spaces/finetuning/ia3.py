"""Fine-tuning: learnt scales of keys, values and feed-forward activations (IA3), through peft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from ..configuration import Settings
from ..family import Role
from ..hyperparameter import Hyperparameter
from ..paper import Paper
from ..profile import Adapter, Profile, Weight
from ..steps import Step
from ..technique import Targets
from .adapters import MERGE, adapted, beside, sides, thin_refusals, wrapped
from .selection import learning_rate

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

_OUTPUTS: Final[tuple[Role, ...]] = ("attention.key", "attention.value")
_INPUTS: Final[tuple[Role, ...]] = ("ffn.down",)


class Ia3:
    """Trains one factor per key, value and feed-forward channel, all 1 at first; a classifier too.

    Where query, key and value are one fused matrix (GPT-2), its queries are scaled as well.
    """

    name: ClassVar[str] = "ia3"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset(
        {"parameters", "trainable", "bytes", "outputs", "recipe"}
    )
    source: ClassVar[str] = "arXiv 2205.05638"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """The learning rate, and what happens after training."""
        return (learning_rate(5e-3), MERGE)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Nothing to scale, or thin matrices."""
        if thin := thin_refusals(paper.profile, (*_OUTPUTS, *_INPUTS)):
            return thin
        if wrapped(paper.profile, (*_OUTPUTS, *_INPUTS)):
            return []
        return ["no layer has attention or a feed-forward part to scale; choose full or head"]

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Attach, Select, Train, and Merge where that is wanted."""
        return adapted(self, settings, beside("ia3_l.default"))

    def adapter(self, profile: Profile, settings: Settings) -> Adapter:
        """One vector beside every matrix that is wrapped."""
        after, before = wrapped(profile, _OUTPUTS), wrapped(profile, _INPUTS)
        weights = [_scale(path, matrix, (sides(matrix)[1], 1)) for path, matrix in after.items()]
        weights += [_scale(path, matrix, (1, sides(matrix)[0])) for path, matrix in before.items()]
        return Adapter(self.name, (), (*after, *before), tuple(weights))

    def attach(self, module: nn.Module, adapter: Adapter) -> nn.Module:
        """The module with the scales in it, in place, all 1."""
        from .peft_layers import injected, stored_transposed

        transposed = stored_transposed(module, adapter.wraps)
        return injected(module, self.peft_config(adapter, transposed))

    def peft_config(self, adapter: Adapter, transposed: bool) -> PeftConfig:
        """What peft is told."""
        from peft import IA3Config

        # A scale of inputs is a row, a scale of outputs a column.
        inputs = [path for path in adapter.wraps if _shape_of(adapter, path)[0] == 1]
        return IA3Config(
            target_modules=list(adapter.wraps),
            feedforward_modules=inputs,
            fan_in_fan_out=transposed,
        )


def _scale(path: str, matrix: Weight, shape: tuple[int, int]) -> Weight:
    return Weight(f"{path}.ia3_l.default", shape, "adapter", "vector", matrix.layer)


def _shape_of(adapter: Adapter, path: str) -> tuple[int, ...]:
    return next(w.shape for w in adapter.weights if w.name == f"{path}.ia3_l.default")
