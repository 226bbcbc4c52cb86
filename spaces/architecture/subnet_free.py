"""Architecture: a sub-network whose every block has sizes of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..configuration import Settings
from ..hyperparameter import Hyperparameter
from ..paper import Paper
from ..steps import Step
from ..structure.counts import kept_of
from ..structure.ffn import MULTIPLE
from ..technique import Targets
from .shapes import Blocks, block_of, share_knob, whole_block
from .subnet import Subnet, depth_knob, depth_of, objections, steps, training_knobs


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
        """Shares: of the blocks; of groups of heads and neurons in each place; the training."""
        whole = whole_block(paper.profile)
        places = range(1, len(paper.profile.layers) + 1)
        return (
            depth_knob(paper.profile),
            *(share_knob(f"heads_{place}", whole.groups) for place in places),
            *(share_knob(f"ffn_{place}", whole.neurons, MULTIPLE) for place in places),
            *training_knobs(paper),
        )

    def canonical(self, settings: Settings) -> Settings:
        """Places beyond the depth are written like the last that there is."""
        total = sum(name.startswith("heads_") for name in settings)
        depth, told = kept_of(total, float(settings["depth"])), dict(settings)
        for place in range(depth + 1, total + 1):
            for part in ("heads", "ffn"):
                told[f"{part}_{place}"] = settings[f"{part}_{depth}"]
        return told

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """No super-network of this model, or a sub-network that it does not hold."""
        return objections(paper, _free(paper, settings), settings)

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Order, Widen, Train, Extract."""
        return steps(_free(paper, settings), settings)


def _free(paper: Paper, settings: Settings) -> Blocks:
    places = range(1, depth_of(paper.profile, settings) + 1)
    shares = ((float(settings[f"heads_{p}"]), float(settings[f"ffn_{p}"])) for p in places)
    return tuple(block_of(paper.profile, heads, ffn) for heads, ffn in shares)
