"""Surrogate features: what a candidate is on paper, as a fixed list of numbers.

A surrogate that sees totals learns in a few trials what raw choices teach it in many. The counts
leave out biases and norms: they are features, not figures; those come from `profile.parameters`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from .configuration import SLOTS, Configuration
from .paper import Paper
from .profile import Adapter, Group, Layer, Profile, Sparsity, is_thin
from .recipe import LossKind, Recipe

TOKENS: Final = 128
"""Tokens of the text for which the attention products are counted: enough to weigh them."""

_LOSSES: Final = get_args(LossKind)
_STORED: Final[tuple[Group, ...]] = ("embeddings", "attention", "ffn", "head")

FEATURES: Final = (
    "log_parameters",
    "log_flops",
    "log_bytes",
    "log_width",
    "depth",
    "log_attention",
    "log_ffn",
    "attention_missing",
    "ffn_missing",
    "attention_variance",
    "ffn_variance",
    "kv_share",
    "gated_share",
    *(f"bits_{group}" for group in _STORED),
    *(f"sparsity_{group}" for group in _STORED),
    "thin_attention",
    "thin_ffn",
    "log_adapter",
    "adapted_modules",
    "log_rank",
    "log_steps",
    "log_learning_rate",
    "log_batch",
    "epochs",
    "trains",
    *(f"loss_{kind}" for kind in _LOSSES),
    "log_temperature",
    "taught",
    "trains_in_bf16",
    "log_devices",
    *(f"changes_{slot}" for slot in SLOTS),
)
"""Names, in the order of the numbers. Sizes are logarithms; 0 stands for what is not there."""


def paper_features(configuration: Configuration, paper: Paper) -> NDArray[np.float64]:
    """The features of a candidate: `(len(FEATURES),)`, finite, by the names in `FEATURES`.

    Args:
        configuration: which slots are left as they are.
        paper: the candidate on paper, all its steps folded in.
    """
    profile, recipe = paper.profile, paper.recipe
    structure = _structure(profile)
    changed = dict(configuration.choices)
    devices = math.log(paper.plan.devices) if paper.plan else 0.0
    slots = [float(slot in changed) for slot in SLOTS]
    return np.array([*structure, *_training(recipe), devices, *slots])


def variance(sizes: Sequence[float]) -> float:
    """Variance of a whole population; 0 for none. `statistics` is 30 x slower.

    >>> variance([1, 3])
    1.0
    """
    if not sizes:
        return 0.0
    mean = sum(sizes) / len(sizes)
    return sum((size - mean) ** 2 for size in sizes) / len(sizes)


def _structure(profile: Profile) -> tuple[float, ...]:
    # `extra` may be long and never enters: without it the memory is keyed by what is used.
    return _sizes(
        profile.width,
        profile.rows("vocabulary") + profile.positions + profile.token_types,
        profile.layers,
        0 if profile.head.tied else profile.head.outputs,
        profile.head.outputs if profile.head.kind == "language-modelling" else 0,
        _bits(profile),
        profile.sparsity,
        _added(profile.adapters),
    )


class _Added(NamedTuple):
    """What adapters add, all together."""

    weights: int
    multiplied: int
    flops: int
    modules: int
    rank: float
    tokens: int
    past: int


def _added(adapters: Sequence[Adapter]) -> _Added:
    ranks = [float(dict(adapter.settings).get("rank", 0)) for adapter in adapters]
    macs = [adapter.beside for adapter in adapters]
    weights = [weight for adapter in adapters for weight in adapter.weights]
    return _Added(
        sum(adapter.section.parameters for adapter in adapters),
        sum(weight.count for weight in weights if weight.role != "table"),
        2 * sum(TOKENS * m.get("token", 0) + m.get("pass", 0) for m in macs),
        sum(len(adapter.wraps) for adapter in adapters),
        max(ranks, default=0.0),
        sum(adapter.tokens for adapter in adapters),
        sum(adapter.past for adapter in adapters),
    )


def _bits(profile: Profile) -> tuple[tuple[Group, float], ...]:
    """Bits by group, the mean where layers differ."""
    bits: dict[Group, float] = {group: fmt.bits for group, fmt in profile.formats}
    for group, formats in profile.by_layer:
        bits[group] = sum(fmt.bits for fmt in formats) / len(formats)
    return tuple(bits.items())


@lru_cache(maxsize=65_536)
def _sizes(
    width: int,
    rows: int,
    layers: tuple[Layer, ...],
    stored_outputs: int,
    outputs: int,
    formats: tuple[tuple[Group, float], ...],
    sparsity: tuple[tuple[Group, Sparsity], ...],
    adapters: _Added,
) -> tuple[float, ...]:
    attention, kv, ffn, gated = _per_layer(layers)
    whole = {
        "attention": 2 * width * (sum(attention) + sum(kv)),
        "ffn": width * (2 * sum(ffn) + sum(n for n, g in zip(ffn, gated, strict=True) if g)),
    }
    saved = _saved(layers, width)
    thin = {group: saved[group] / max(1, count) for group, count in whole.items()}
    counts = {
        "embeddings": rows * width,
        "attention": whole["attention"] - saved["attention"],
        "ffn": whole["ffn"] - saved["ffn"],
        "head": stored_outputs * width,
    }
    added = adapters.weights
    products = counts["attention"] + counts["ffn"] + outputs * width + adapters.multiplied
    read = TOKENS + adapters.tokens
    seen = read + adapters.past
    flops = read * (2 * products + 4 * seen * sum(attention)) + adapters.flops
    bits, zeros = dict(formats), {group: found.share for group, found in sparsity}
    stored = [
        _stored_bits(counts[group], bits.get(group, 32), zeros.get(group, 0.0)) / 8
        for group in _STORED
    ]
    return (
        math.log(sum(counts.values()) + added + 1),
        math.log(flops + 1),
        math.log(sum(stored) + added * bits.get("adapter", 32) / 8 + 1),
        math.log(width),
        float(sum(1 for a, f in zip(attention, ffn, strict=True) if a or f)),
        math.log1p(sum(attention)),
        math.log1p(sum(ffn)),
        float(attention.count(0)),
        float(ffn.count(0)),
        # Layers gain less and less from size: at equal totals the variance tells models apart.
        variance(attention) / width**2,
        variance(ffn) / width**2,
        sum(kv) / max(1, sum(attention)),
        sum(gated) / max(1, len(gated)),
        *(math.log2(bits.get(group, 32)) for group in _STORED),
        *(zeros.get(group, 0.0) for group in _STORED),
        *thin.values(),
        math.log1p(added),
        float(adapters.modules),
        math.log1p(adapters.rank),
    )


def _per_layer(layers: tuple[Layer, ...]) -> tuple[list[int], list[int], list[int], list[bool]]:
    parts = [(layer.attention, layer.feed_forward) for layer in layers]
    attention = [a.heads * a.head_width if a else 0 for a, _ in parts]
    kv = [a.kv_heads * a.head_width if a else 0 for a, _ in parts]
    ffn = [f.width if f else 0 for _, f in parts]
    return attention, kv, ffn, [f is not None and f.gated for _, f in parts]


def _saved(layers: tuple[Layer, ...], width: int) -> dict[str, int]:
    """Weights that thin matrices spare, by group."""
    saved = {"attention": 0, "ffn": 0}
    for layer in layers:
        part, block = layer.attention, layer.feed_forward
        if part is not None and part.rank is not None:
            for heads in (part.heads, part.kv_heads):
                saved["attention"] += 2 * _spared(part.rank, width, heads * part.head_width)
        if block is not None and block.rank is not None:
            saved["ffn"] += (3 if block.gated else 2) * _spared(block.rank, width, block.width)
    return saved


def _spared(rank: int, inputs: int, outputs: int) -> int:
    thin = is_thin(rank, inputs, outputs)
    return inputs * outputs - rank * (inputs + outputs) if thin else 0


def _stored_bits(count: int, bits: float, zeros: float) -> float:
    """Zeros are left out, and one bit a weight put in, where that is less; never in int4."""
    return min(bits, (1 - zeros) * bits + 1) * count if bits > 4 and zeros else bits * count


def _training(recipe: Recipe) -> tuple[float, ...]:
    steps = recipe.total_steps if recipe.trainable else 0
    if steps == 0:
        return (0.0,) * (5 + len(_LOSSES) + 3)
    weights = {loss.kind: loss.weight for loss in recipe.losses}
    return (
        math.log1p(steps),
        math.log(recipe.learning_rate),
        math.log(recipe.batch),
        float(recipe.epochs),
        1.0 if "*" in recipe.trainable else 0.5,
        *(float(weights.get(kind, 0.0)) for kind in _LOSSES),
        math.log(max(loss.temperature for loss in recipe.losses)),
        float(recipe.teacher is not None),
        float(recipe.compute == "bf16"),
    )
