"""Architecture: a sub-network of the given model's super-network, chosen by a few numbers.

The super-network trains once on the task: at every step the whole model on the labels, then its
smallest and a few random sub-networks on what the whole one answered (the sandwich rule with
distillation in place). Every sub-network is then there without further training; what comes after,
fine-tuning included, starts from the one that was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..configuration import Settings
from ..finetuning.full import usual_peak
from ..hyperparameter import Hyperparameter, Integer, OneOf, Real
from ..paper import Paper
from ..profile import Profile
from ..steps import Step
from ..structure.counts import kept_of
from ..structure.ffn import MULTIPLE
from ..technique import Targets
from ..training import SupernetStep
from .elastic import Extract, OrderUnits, Widen
from .shapes import (
    SHALLOWEST,
    Block,
    Blocks,
    block_of,
    bounds,
    groups,
    neurons,
    refusals,
    share_knob,
    tapered,
    whole_block,
)


class Subnet:
    """Depth, heads and neurons of one super-network, even or tapering from first to last block.

    The blocks that stay, and the heads and neurons in them, are the most important ones of the
    given model on the calibration split. All choices share one training, as long as `smallest`,
    `random`, `length` and `learning_rate` stay as they are. The hidden states keep their width.
    """

    name: ClassVar[str] = "subnet"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset(
        {"parameters", "trainable", "flops", "bytes", "outputs", "recipe"}
    )
    source: ClassVar[str] = "arXiv 1908.09791, 2003.11142 (sandwich rule), 2404.14619 (taper)"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Shares: of the blocks; of groups of heads and neurons in the first and the last block."""
        whole = whole_block(paper.profile)
        return (
            depth_knob(paper.profile),
            share_knob("heads_first", whole.groups),
            share_knob("heads_last", whole.groups),
            share_knob("ffn_first", whole.neurons, MULTIPLE),
            share_knob("ffn_last", whole.neurons, MULTIPLE),
            *training_knobs(paper),
        )

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """No super-network of this model, or a sub-network that it does not hold."""
        return objections(paper, _tapering(paper, settings), settings)

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Order, Widen, Train, Extract."""
        return steps(_tapering(paper, settings), settings)


def _tapering(paper: Paper, settings: Settings) -> Blocks:
    profile = paper.profile
    first, last = (
        block_of(profile, float(settings[f"heads_{end}"]), float(settings[f"ffn_{end}"]))
        for end in ("first", "last")
    )
    depth = depth_of(profile, settings)
    heads = tapered(first.groups, last.groups, depth, groups(profile))
    widths = tapered(first.neurons, last.neurons, depth, neurons(profile))
    return tuple(Block(*sizes) for sizes in zip(heads, widths, strict=True))


def depth_knob(profile: Profile) -> OneOf:
    """The share of the blocks that stay."""
    return share_knob("depth", len(profile.layers), least=SHALLOWEST)


def depth_of(profile: Profile, settings: Settings) -> int:
    """Blocks that stay."""
    return kept_of(len(profile.layers), float(settings["depth"]))


def training_knobs(paper: Paper) -> tuple[Hyperparameter, ...]:
    """What the super-network's training may be told; each value trains another one.

    They stay at their defaults unless a study names them, so that a search pays for one training.
    """
    return (
        OneOf("smallest", (0.25, 0.5, 0.75), 0.25, ordered=True, still=True),
        Integer("random", 1, 4, 2, still=True),
        OneOf("length", (1.0, 2.0, 4.0), 1.0, ordered=True, still=True),
        Real("learning_rate", 2e-6, 2e-3, usual_peak(paper.profile.width), log=True, still=True),
    )


def objections(paper: Paper, blocks: Blocks, settings: Settings) -> list[str]:
    """Why these blocks cannot be a sub-network of this model, or of a super-network so small."""
    found = refusals(paper)
    if found:
        return found
    share = float(settings["smallest"])
    least = bounds(paper.profile, share, int(settings["random"]))
    for what, sizes, fewest in (
        ("groups of heads", [block.groups for block in blocks], least.groups),
        ("neurons", [block.neurons for block in blocks], least.neurons),
    ):
        if min(sizes) < fewest:
            found.append(
                f"a block of {min(sizes)} {what} is not in a super-network of smallest {share:g}, "
                f"which has at least {fewest}; choose larger shares, or a lower smallest"
            )
    return found


def steps(blocks: Blocks, settings: Settings) -> Sequence[Step]:
    """The steps that train the super-network and take these blocks out of it."""
    widen = _widen(settings)
    return (OrderUnits(), widen, SupernetStep(), Extract(blocks, widen.length))


def _widen(settings: Settings) -> Widen:
    return Widen(
        smallest=float(settings["smallest"]),
        random=int(settings["random"]),
        length=float(settings["length"]),
        learning_rate=float(settings["learning_rate"]),
    )
