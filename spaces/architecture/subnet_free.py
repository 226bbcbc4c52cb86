"""Architecture: a sub-network whose every block has sizes of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..configuration import Settings
from ..hyperparameter import Hyperparameter, OneOf
from ..paper import Paper
from ..steps import Step
from ..technique import Targets
from .shapes import Block, Blocks, depths, groups, neurons
from .subnet import Subnet, objections, steps, training_knobs


class SubnetFree:
    """Depth, and each block's own heads and neurons, of the super-network that `subnet` trains.

    A space of two numbers a block: large, and worth a large budget of trials. Sizes belong to
    places in the sub-network, first to last; places that a lower depth does not have mean nothing.
    Shares its training with `subnet`.
    """

    name: ClassVar[str] = "subnet_free"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = Subnet.moves
    source: ClassVar[str] = "arXiv 1908.09791, 2003.11142 (sandwich rule), 2405.10299 (the space)"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Blocks; groups of heads and neurons of each; the training."""
        profile = paper.profile
        places = range(1, len(profile.layers) + 1)
        heads, widths = groups(profile), neurons(profile)
        return (
            OneOf("depth", depths(profile), len(profile.layers), ordered=True),
            *(OneOf(f"heads_{place}", heads, heads[-1], ordered=True) for place in places),
            *(OneOf(f"ffn_{place}", widths, widths[-1], ordered=True) for place in places),
            *training_knobs(paper),
        )

    def canonical(self, settings: Settings) -> Settings:
        """Places beyond the depth are written like the last that there is."""
        depth, told = int(settings["depth"]), dict(settings)
        for name in settings:
            part, _, place = name.rpartition("_")
            if part in ("heads", "ffn") and int(place) > depth:
                told[name] = settings[f"{part}_{depth}"]
        return told

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """No super-network of this model, or a sub-network that it does not hold."""
        return objections(paper, _free(settings), settings, targets)

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Order, Widen, Train, Extract."""
        return steps(_free(settings), settings)


def _free(settings: Settings) -> Blocks:
    places = range(1, int(settings["depth"]) + 1)
    return tuple(Block(int(settings[f"heads_{p}"]), int(settings[f"ffn_{p}"])) for p in places)
