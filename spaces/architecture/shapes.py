"""Sub-networks on paper: what stays of each block, which numbers there are, which are drawn.

All sub-networks lie on one grid, eighths of the given sizes: those that are drawn in training and
those that can be chosen. All blocks of the given model are alike; see `refusals`. Knobs are shares,
as in the `structure` slot, so that a study can be read before its model is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from statistics import fmean
from typing import Final

from ..hyperparameter import OneOf
from ..paper import Paper
from ..profile import REMEMBERED, Layer, Profile
from ..recipe import Elastic
from ..structure.counts import SHARES, kept_of, nearest, others
from ..structure.ffn import MULTIPLE
from ..training import derived_seed

SHALLOWEST: Final = 0.5
"""Share of the blocks that every sub-network has."""


@dataclass(frozen=True)
class Block:
    """What stays of one block: groups of heads, feed-forward neurons."""

    groups: int
    neurons: int


Blocks = tuple[Block, ...]
"""A sub-network: its blocks in their order. Data says which of the given ones they are."""


def whole_block(profile: Profile) -> Block:
    """A block of the given model."""
    return _whole_block(profile.layers)


@lru_cache(maxsize=1024)
def _whole_block(layers: tuple[Layer, ...]) -> Block:
    parts = [(layer.attention, layer.feed_forward) for layer in layers]
    groups = max((attention.kv_heads for attention, _ in parts if attention), default=1)
    return Block(groups, max((ffn.width for _, ffn in parts if ffn), default=MULTIPLE))


def depths(profile: Profile, least: int = 1) -> tuple[int, ...]:
    """Numbers of blocks, ascending, from half of them to all."""
    total = len(profile.layers)
    return _grid(total, 1, max(least, kept_of(total, SHALLOWEST)))


def share_knob(name: str, total: int, multiple: int = 1, least: float = SHARES[0]) -> OneOf:
    """The knob for how much stays; of shares that come to the same number the nearest is offered.

    The others may be written, and stand for it.

    Args:
        name: of the knob. total: units that there are. multiple: see `kept_of`.
        least: share below which none is offered.

    >>> share_knob("depth", 3, least=0.5).values, share_knob("heads", 1).values
    ((0.625, 1.0), (1.0,))
    """
    counts = {s: kept_of(total, s, multiple) for s in (*SHARES, 1.0) if s >= least}
    offered = nearest({s: (count, abs(s * total - count)) for s, count in counts.items()})
    values = tuple(dict.fromkeys(offered.values()))
    return OneOf(name, values, 1.0, ordered=True, same=others(offered))


def groups(profile: Profile, least: int = 1) -> tuple[int, ...]:
    """Numbers of groups of heads in a block, ascending, all of them last."""
    return _grid(whole_block(profile).groups, 1, least)


def neurons(profile: Profile, least: int = 1) -> tuple[int, ...]:
    """Numbers of feed-forward neurons in a block, ascending, all of them last."""
    return _grid(whole_block(profile).neurons, MULTIPLE, least)


def block_of(profile: Profile, heads: float, ffn: float) -> Block:
    """A block of which shares of the groups of heads and of the neurons stay."""
    whole = whole_block(profile)
    return Block(kept_of(whole.groups, heads), kept_of(whole.neurons, ffn, MULTIPLE))


def bounds(profile: Profile, share: float, random: int) -> Elastic:
    """The sub-networks of a model down to half of its blocks and a share of its units.

    Args:
        profile: the largest one.
        share: of the groups and neurons of a block, in (0, 1].
        random: drawn at every step.
    """
    least = block_of(profile, share, share)
    return Elastic(depths(profile)[0], least.groups, least.neurons, random)


def sandwich(profile: Profile, elastic: Elastic, seed: int, step: int) -> tuple[Blocks, ...]:
    """The sub-networks that train beside the largest at a step: the smallest, and random ones.

    They depend on seed and step alone: a training that was paused goes on as if it had not been.
    """
    rng = Random(derived_seed("sub-networks", seed, step))
    least = (Block(elastic.groups, elastic.neurons),) * elastic.depth
    return (least, *(_drawn(profile, elastic, rng) for _ in range(elastic.random)))


def expected_size(profile: Profile, elastic: Elastic) -> tuple[float, float]:
    """What a random sub-network has on average of the whole one's attention and feed-forward parts.

    Depth and sizes are drawn apart from each other, so that shares multiply.
    """
    block, total = whole_block(profile), len(profile.layers)
    depth = fmean(depths(profile, elastic.depth)) / total
    heads = fmean(groups(profile, elastic.groups)) / block.groups
    return depth * heads, depth * fmean(neurons(profile, elastic.neurons)) / block.neurons


@lru_cache(maxsize=REMEMBERED)
def narrowed(layer: Layer, block: Block) -> Layer:
    """A block of the given model with what stays of it."""
    attention, ffn = layer.attention, layer.feed_forward
    assert attention is not None
    assert ffn is not None
    heads = block.groups * (attention.heads // attention.kv_heads)
    return Layer(
        replace(attention, heads=heads, kv_heads=block.groups), replace(ffn, width=block.neurons)
    )


def shrunk(profile: Profile, blocks: Blocks) -> Profile:
    """The sub-network's own profile: a plain smaller model."""
    pairs = zip(profile.layers, blocks, strict=False)
    return replace(profile, layers=tuple(narrowed(layer, block) for layer, block in pairs))


@lru_cache(maxsize=REMEMBERED)
def tapered(first: int, last: int, depth: int, choices: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes that change evenly from the first block to the last (2404.14619, section 2.1).

    Args:
        first, last: sizes at the ends.
        depth: blocks.
        choices: sizes that there are; each block has the nearest, of two the smaller.

    >>> tapered(2, 8, 4, (2, 4, 6, 8)), tapered(4, 2, 3, (2, 4, 6, 8)), tapered(4, 2, 1, (2, 4))
    ((2, 4, 6, 8), (4, 2, 2), (4,))
    """
    rise = (last - first) / max(1, depth - 1)
    even = [first + rise * place for place in range(depth)]
    return tuple(min(choices, key=lambda choice: (abs(choice - size), choice)) for size in even)


def refusals(paper: Paper) -> list[str]:
    """Why a model has no super-network here."""
    from ..families import FAMILIES

    profile = paper.profile
    if profile.family not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        return [
            f"family {profile.family} has no super-network; choose architecture given, or one of "
            f"the families {known}"
        ]
    if profile.adapters:
        return ["adapters hold on to the shapes of the layers; merge them first"]
    if len(set(profile.layers)) != 1:
        return [
            "only blocks of one size can stand in for each other, or the size of a sub-network "
            "would not be known on paper; choose architecture given, and a structure"
        ]
    if profile.layers[0].attention is None or profile.layers[0].feed_forward is None:
        return ["the blocks lack attention or feed-forward part; choose architecture given"]
    if not paper.recipe.train_items:
        return [
            "the task has no training items, and a super-network is trained; give it a train "
            "split, or choose architecture given"
        ]
    return []


@lru_cache(maxsize=1024)
def _grid(total: int, multiple: int, least: int) -> tuple[int, ...]:
    sizes = {kept_of(total, share, multiple) for share in (*SHARES, 1.0)}
    return tuple(sorted(size for size in sizes if size >= least))


def _drawn(profile: Profile, elastic: Elastic, rng: Random) -> Blocks:
    """Depth, then each block's sizes, every number as likely as any other."""
    depth = rng.choice(depths(profile, elastic.depth))
    heads, widths = groups(profile, elastic.groups), neurons(profile, elastic.neurons)
    return tuple(Block(rng.choice(heads), rng.choice(widths)) for _ in range(depth))
