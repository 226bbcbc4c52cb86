"""Fine-tuning: bottleneck adapters behind the sub-layers (Houlsby's and Pfeiffer's places)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from ..configuration import Settings
from ..family import Role
from ..hyperparameter import Hyperparameter, OneOf
from ..paper import Paper
from ..profile import Adapter, Profile, Weight
from ..steps import Step
from ..technique import Targets
from .adapters import adapted, beside, sides, thin_refusals, wrapped
from .selection import learning_rate

if TYPE_CHECKING:
    from torch import nn

PLACES: Final[Mapping[str, tuple[Role, ...]]] = {
    "pfeiffer": ("ffn.down",),
    "houlsby": ("attention.output", "ffn.down"),
}
"""The matrices behind which an adapter stands: of the feed-forward part, or of both parts."""

DOWN, UP = "adapter_down", "adapter_up"


class Bottleneck:
    """Trains `h + U f(D h)` behind sub-layers of the frozen model; a classifier trains too.

    Two per layer (Houlsby: behind attention and feed-forward) or one (Pfeiffer: behind the latter;
    its other order of residual and norm is left out), each before the residual is added. D is as
    narrow as the width over `reduction`; U starts at zero, so that nothing changes at first. The
    non-linearity cannot be folded into a matrix: the adapter stays, and costs FLOPs and bytes.
    """

    name: ClassVar[str] = "bottleneck"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset(
        {"parameters", "trainable", "flops", "bytes", "outputs", "recipe"}
    )
    source: ClassVar[str] = "arXiv 1902.00751 (Houlsby); arXiv 2005.00247 (Pfeiffer)"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Places, reduction, non-linearity, and the learning rate."""
        return (
            OneOf("places", tuple(PLACES), "pfeiffer", ordered=True),
            OneOf("reduction", (2, 4, 8, 16, 32, 64), 16, ordered=True),
            OneOf("activation", ("relu", "gelu", "silu"), "relu"),
            learning_rate(1e-3),
        )

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """No such sub-layers, thin matrices in them, or a bottleneck of no width at all."""
        if thin := thin_refusals(paper.profile, PLACES[str(settings["places"])]):
            return thin
        matrices = wrapped(paper.profile, PLACES[str(settings["places"])])
        if not matrices:
            return [f"no layer has the parts of {settings['places']}; choose other places"]
        reduction, width = int(settings["reduction"]), paper.profile.width
        if reduction <= width:
            return []
        return [f"a width of {width} cannot be reduced by {reduction}; choose reduction <= {width}"]

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Attach, Select, Train."""
        leaves = [f"{part}.{leaf}" for part in (DOWN, UP) for leaf in ("weight", "bias")]
        return adapted(self, settings, beside(*leaves))

    def adapter(self, profile: Profile, settings: Settings) -> Adapter:
        """Two matrices with biases behind every matrix that is wrapped."""
        matrices = wrapped(profile, PLACES[str(settings["places"])])
        weights: list[Weight] = []
        for path, matrix in matrices.items():
            width = sides(matrix)[1]
            narrow = width // int(settings["reduction"])
            for part, inputs, outputs in ((DOWN, width, narrow), (UP, narrow, width)):
                name = f"{path}.{part}"
                shape = (outputs, inputs)
                weights += [
                    Weight(f"{name}.weight", shape, "adapter", "matrix", matrix.layer),
                    Weight(f"{name}.bias", (outputs,), "adapter", "vector", matrix.layer),
                ]
        return Adapter(self.name, tuple(sorted(settings.items())), tuple(matrices), tuple(weights))

    def attach(self, module: nn.Module, adapter: Adapter) -> nn.Module:
        """The module with the bottlenecks in it, in place; drawn from torch's random state."""
        from .bottleneck_layer import BottleneckLayer

        shapes = {weight.name: weight.shape for weight in adapter.weights}
        activation = str(dict(adapter.settings)["activation"])
        for path in adapter.wraps:
            narrow, width = shapes[f"{path}.{DOWN}.weight"]
            layer = BottleneckLayer(module.get_submodule(path), width, narrow, activation)
            module.set_submodule(path, layer)
        return module
