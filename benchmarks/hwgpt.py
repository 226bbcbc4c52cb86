"""HW-GPT-Bench (arXiv 2405.10299) as search problems: 27 choices, perplexity against cost.

Reads the authors' perplexity surrogate and linear hardware models from a folder of measured data
that is no part of this repository. The whole space of about 1e12 models is answered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, UnknownName
from ..search.samplers.prior import Lesson
from ..search.samplers.problem import Problem
from ..spaces.configuration import Choice, Configuration
from ..spaces.paper import Paper
from ..spaces.paper_features import paper_features
from ..spaces.profile import Attention, FeedForward, Head, Layer, Profile
from .benchmark import Array, Searchable, random_draws

Levels = NDArray[np.int64]
"""Models as `(n, 3 + 2 layers)`: width, depth, bias, then ratios and heads layer by layer, each the
place among its options; -1 for a layer beyond the depth."""

SCALES: Final[dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]] = {
    "s": ((192, 384, 768), (10, 11, 12), (4, 8, 12)),
    "m": ((256, 512, 1024), (22, 23, 24), (8, 12, 16)),
    "l": ((320, 640, 1280), (34, 35, 36), (8, 16, 20)),
}
"""Embedding widths, depths and head counts of each scale."""

RATIOS: Final = (2, 3, 4)
VOCABULARY: Final = 50_304
HEAD_WIDTH: Final = 64
CONTEXT: Final = 1024

FLOPS_CAP, CACHE_CAP = 0.95, 0.88
"""Limits, in units of the model in the middle of the space: FLOPs, and bytes of the cache of keys
and values. At scale s .113 of 100,000 random models keep both: two of the three widths."""


EARLIER: Final = ("rtx2080", "P100")
"""Devices that an earlier study ran on: the first, or the second where a study is on the first."""


@dataclass(frozen=True)
class HwGpt(Searchable):
    """The problem at one scale, on one device.

    Args:
        scale: `s`, `m` or `l`. device: as in `lat_ms_DEVICE`. folder: the measured data.
        objectives: `perplexity`, and some of `latency_ms`, `memory_mb`, `energy_wh`.
        limited: models beyond `FLOPS_CAP` and `CACHE_CAP` do not count; both are known on paper.

    Raises:
        UnknownName: no such scale, or no such figures for the device.
        DataError: the folder does not hold the files.
    """

    scale: str
    device: str
    folder: Path
    objectives: tuple[str, ...] = ("perplexity", "latency_ms")
    limited: bool = False

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise UnknownName("HW-GPT-Bench scale", self.scale, SCALES)
        for name in (f"hwgpt_ppl_mlp_{self.scale}.npz", f"hwgpt_hw_linear_{self.scale}.json"):
            if not (self.folder / name).is_file():
                raise DataError(f"no {name} in {self.folder}; say where it lies with --data")
        every = {name.removeprefix("lat_ms_") for name in self._linear if "lat_ms_" in name}
        able = [device for device in every if self._told_for(device)]
        if self.device not in able:
            figures = " and ".join(self.objectives[1:])
            raise UnknownName(f"HW-GPT-Bench device with {figures}", self.device, able)

    def suggest(self, trial: Any) -> Configuration:
        """One model of the space; layers beyond its depth are not asked for."""
        widths, depths, heads = SCALES[self.scale]
        depth = trial.suggest_categorical("n_layer", depths)
        settings = {
            "embed_dim": trial.suggest_categorical("embed_dim", widths),
            "n_layer": depth,
            "bias": trial.suggest_categorical("bias", (False, True)),
        }
        for i in range(depth):
            settings[f"mlp_ratio_{i}"] = trial.suggest_categorical(f"mlp_ratio_{i}", RATIOS)
            settings[f"n_head_{i}"] = trial.suggest_categorical(f"n_head_{i}", heads)
        return Configuration.of(architecture=Choice.of("hwgpt", **settings))

    def paper(self, configuration: Configuration) -> Paper:
        """The model on paper."""
        choice = _settings(configuration)
        width = choice["embed_dim"]
        layers = tuple(
            _layer(choice[f"n_head_{i}"], choice[f"mlp_ratio_{i}"] * width)
            for i in range(choice["n_layer"])
        )
        head = Head("language-modelling", VOCABULARY)
        return Paper(Profile("gpt2", width, VOCABULARY, CONTEXT, 0, layers, head))

    def losses(self, configuration: Configuration) -> tuple[float, ...]:
        """Perplexity (the authors' surrogate) and what it costs (linear models, R2 > .95)."""
        return tuple(self._losses_at(self._levels(_settings(configuration)))[0].tolist())

    def violations(self, configuration: Configuration) -> Mapping[str, float]:
        """Shares by which FLOPs and the cache of keys and values are beyond their caps."""
        if not self.limited:
            return {}
        excess = self._excess(self._levels(_settings(configuration)))[0]
        return dict(zip(("flops", "kv_cache_bytes"), excess.tolist(), strict=True))

    def elsewhere(self, trials: int, seed: int) -> Lesson:
        """What so many random models of the same scale teach that were run on another device."""
        other = replace(self, device=next(name for name in EARLIER if name != self.device))
        made = [drawn.configuration for drawn in random_draws(self, trials, seed)]
        configurations = tuple(one for one in made if one is not None)
        losses = np.array([other.losses(one) for one in configurations])
        features = [paper_features(one, self.paper(one)) for one in configurations]
        figures = dict(zip(self.objectives, losses.T, strict=True))
        return Lesson(other.device, configurations, np.array(features), figures)

    def known(self) -> Problem:
        """Papers, and whether one keeps the limits."""
        problem = replace(super().known(), paper=self.paper)
        return replace(problem, fits=self._fits) if self.limited else problem

    @cached_property
    def bounds(self) -> tuple[Array, Array]:
        """Ideal: perplexity of the largest, costs of the smallest model.

        Reference: 1.01 x the perplexity of the smallest and the costs of the largest.
        """
        small, large = (self._losses_at(self._corner(place))[0] for place in (0, -1))
        ideal = np.concatenate([large[:1], small[1:]])
        return ideal, 1.01 * np.concatenate([small[:1], large[1:]])

    @property
    def genes(self) -> int:
        """As many as choices."""
        return 3 + 2 * SCALES[self.scale][1][-1]

    def at(self, genes: Array) -> Array:
        """Losses of many models, infinite where a limit is broken."""
        options = np.full(self.genes, 3)
        options[2] = 2
        levels = self._canonical((genes * options).astype(np.int64))
        losses = self._losses_at(levels)
        if self.limited:
            losses[(self._excess(levels) > 0.0).any(axis=1)] = np.inf
        return losses

    def _told_for(self, device: str) -> list[str]:
        """Names of the device's linear models for the objectives; empty if it lacks one."""
        memory = next((n for n in self._linear if n.startswith("mem") and n.endswith(device)), None)
        names = {
            "latency_ms": f"lat_ms_{device}",
            # What a model takes differs by a few parts in a thousand between the two measured.
            "memory_mb": memory or "mem_mb_bf16_a100",
            "energy_wh": f"energy_wh_{device}",
        }
        wanted = [names[objective] for objective in self.objectives[1:]]
        return wanted if all(name in self._linear for name in wanted) else []

    def _levels(self, choice: Mapping[str, Any]) -> Levels:
        widths, depths, heads = SCALES[self.scale]
        depth = choice["n_layer"]
        absent = [-1] * (depths[-1] - depth)
        row = [widths.index(choice["embed_dim"]), depths.index(depth), int(choice["bias"])]
        row += [*(RATIOS.index(choice[f"mlp_ratio_{i}"]) for i in range(depth)), *absent]
        row += [*(heads.index(choice[f"n_head_{i}"]) for i in range(depth)), *absent]
        return np.array([row])

    def _corner(self, place: int) -> Levels:
        row = np.full((1, self.genes), place % 3)
        row[0, 2] = place % 2
        return self._canonical(row)

    def _canonical(self, levels: Levels) -> Levels:
        missing = np.tile(~self._active(levels), 2)
        levels[:, 3:][missing] = -1
        return levels

    def _active(self, levels: Levels) -> NDArray[np.bool_]:
        depths = np.array(SCALES[self.scale][1])
        return np.asarray(np.arange(depths[-1]) < depths[levels[:, 1]][:, None])

    def _losses_at(self, levels: Levels) -> Array:
        costs = [self._figure(name, levels) for name in self._told_for(self.device)]
        return np.stack([self._perplexity(levels), *costs], axis=1)

    def _perplexity(self, levels: Levels) -> Array:
        parts = [_one_hot(levels[:, :2], 3), _one_hot(levels[:, 3:], 3)]
        # The authors' order of the last two inputs: with bias, without.
        state = np.hstack([*parts, _one_hot(1 - levels[:, 2:3], 2)])
        for i, (weight, bias) in enumerate(self._network):
            state = state @ weight.T + bias
            state = np.maximum(state, 0.0) if i < 4 else state
        return np.asarray(state[:, 0])

    def _figure(self, name: str, levels: Levels) -> Array:
        active = self._active(levels)
        ratios, heads = np.split(levels[:, 3:], 2, axis=1)
        few, many = (heads == 0).sum(axis=1), (heads == 2).sum(axis=1)
        chosen = np.where(active, np.array(SCALES[self.scale][2])[heads], 0).sum(axis=1)
        ratio = np.where(active, np.array(RATIOS)[ratios], 0).sum(axis=1)
        depth, one = active.sum(axis=1), np.ones(len(levels))
        summary = np.stack([one, depth, ratio, chosen, few, many, levels[:, 2]], axis=1)
        coefficients = np.array(self._linear[name]["coef"]).reshape(3, -1)
        return np.asarray((summary * coefficients[levels[:, 0]]).sum(axis=1))

    def _excess(self, levels: Levels) -> Array:
        """Shares beyond the caps, `(n, 2)`: FLOPs, cache of keys and values."""
        flops, cache = self._middle
        beyond = [
            self._figure("flops", levels) / (FLOPS_CAP * flops) - 1.0,
            self._cache(levels) / (CACHE_CAP * cache) - 1.0,
        ]
        return np.stack(beyond, axis=1)

    def _cache(self, levels: Levels) -> Array:
        """Bytes of keys and values of a whole context in 16 bits."""
        heads = np.array(SCALES[self.scale][2])[levels[:, -self._active(levels).shape[1] :]]
        total = np.where(self._active(levels), heads, 0).sum(axis=1)
        return np.asarray(2.0 * 2 * CONTEXT * HEAD_WIDTH * total)

    @cached_property
    def _middle(self) -> tuple[float, float]:
        levels = self._corner(1)
        return float(self._figure("flops", levels)[0]), float(self._cache(levels)[0])

    def _fits(self, paper: Paper) -> bool:
        # Bias counts nothing here: its share in the linear model of FLOPs is below one in 1e15.
        settings: dict[str, Any] = {"embed_dim": paper.profile.width, "bias": False}
        settings["n_layer"] = len(paper.profile.layers)
        for i, layer in enumerate(paper.profile.layers):
            assert layer.attention is not None
            assert layer.feed_forward is not None
            settings[f"n_head_{i}"] = layer.attention.heads
            settings[f"mlp_ratio_{i}"] = layer.feed_forward.width // paper.profile.width
        return bool((self._excess(self._levels(settings)) <= 0.0).all())

    @cached_property
    def _linear(self) -> dict[str, dict[str, Any]]:
        text = (self.folder / f"hwgpt_hw_linear_{self.scale}.json").read_text()
        return {str(name): model for name, model in json.loads(text).items()}

    @cached_property
    def _network(self) -> list[tuple[Array, Array]]:
        with np.load(self.folder / f"hwgpt_ppl_mlp_{self.scale}.npz") as arrays:
            return [(arrays[f"fc{i}.weight"], arrays[f"fc{i}.bias"]) for i in range(1, 6)]


def _settings(configuration: Configuration) -> dict[str, Any]:
    choice = configuration.get("architecture")
    if choice is None:
        raise DataError("a configuration of HW-GPT-Bench has an architecture")
    return dict(choice.settings)


@cache
def _layer(heads: int, width: int) -> Layer:
    return Layer(Attention(heads, heads, HEAD_WIDTH), FeedForward(width, gated=True))


def _one_hot(levels: Levels, options: int) -> Array:
    """`(n, k)` to `(n, k x options)`; -1 is nothing at all."""
    return np.asarray(
        (levels[:, :, None] == np.arange(options)).reshape(len(levels), -1).astype(np.float64)
    )
