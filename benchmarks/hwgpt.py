"""HW-GPT-Bench (arXiv 2405.10299) as a search problem: 27 choices, perplexity against latency.

Reads the authors' perplexity surrogate and linear latency models from a folder of measured data
that is no part of this repository. The whole space of about 1e12 models is answered.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, UnknownName
from ..search.pareto import hypervolume
from ..spaces.configuration import Choice, Configuration
from ..spaces.paper import Paper
from ..spaces.profile import Attention, FeedForward, Head, Layer, Profile

Array = NDArray[np.float64]

SCALES: Final[dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]] = {
    "s": ((192, 384, 768), (10, 11, 12), (4, 8, 12)),
    "m": ((256, 512, 1024), (22, 23, 24), (8, 12, 16)),
    "l": ((320, 640, 1280), (34, 35, 36), (8, 16, 20)),
}
"""Embedding widths, depths and head counts of each scale."""

RATIOS: Final = (2, 3, 4)
VOCABULARY: Final = 50_304
HEAD_WIDTH: Final = 64


@dataclass(frozen=True)
class HwGpt:
    """The problem at one scale, on one device.

    Args:
        scale: `s`, `m` or `l`. device: as in `lat_ms_DEVICE`. folder: the measured data.

    Raises:
        UnknownName: no such scale or device.
        DataError: the folder does not hold the files.
    """

    scale: str
    device: str
    folder: Path

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise UnknownName("HW-GPT-Bench scale", self.scale, SCALES)
        for name in (f"hwgpt_ppl_mlp_{self.scale}.npz", f"hwgpt_hw_linear_{self.scale}.json"):
            if not (self.folder / name).is_file():
                raise DataError(f"no {name} in {self.folder}; say where it lies with --data")
        devices = [name.removeprefix("lat_ms_") for name in self._linear if "lat_ms_" in name]
        if self.device not in devices:
            raise UnknownName("HW-GPT-Bench device", self.device, devices)

    @property
    def objectives(self) -> tuple[str, ...]:
        """What is minimised."""
        return ("perplexity", "latency_ms")

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
            Layer(
                Attention(choice[f"n_head_{i}"], choice[f"n_head_{i}"], HEAD_WIDTH),
                FeedForward(choice[f"mlp_ratio_{i}"] * width, gated=True),
            )
            for i in range(choice["n_layer"])
        )
        head = Head("language-modelling", VOCABULARY)
        return Paper(Profile("gpt2", width, VOCABULARY, 1024, 0, layers, head))

    def losses(self, configuration: Configuration) -> tuple[float, ...]:
        """Perplexity (the authors' surrogate) and latency in ms (a linear model of R2 > .999)."""
        choice = _settings(configuration)
        return (self._perplexity(choice), self._figure(f"lat_ms_{self.device}", choice))

    def hypervolume(self, losses: Array) -> float:
        """Normalised hypervolume of `(n, 2)` losses, by the convention of the survey's figures.

        Ideal: perplexity of the largest, latency of the smallest model; reference: 1.01 x the
        perplexity of the smallest and the latency of the largest.
        """
        ideal, worst = self.bounds
        return hypervolume((losses - ideal) / (worst - ideal), np.ones(2))

    @cached_property
    def bounds(self) -> tuple[Array, Array]:
        """Ideal and reference point."""
        small, large = (np.array(self.losses(self._corner(i))) for i in (0, -1))
        return np.array([large[0], small[1]]), 1.01 * np.array([small[0], large[1]])

    def _corner(self, place: int) -> Configuration:
        class Corner:
            def suggest_categorical(self, _: str, choices: Any) -> Any:
                return choices[place]

        return self.suggest(Corner())

    @cached_property
    def _linear(self) -> dict[str, dict[str, Any]]:
        text = (self.folder / f"hwgpt_hw_linear_{self.scale}.json").read_text()
        return {str(name): model for name, model in json.loads(text).items()}

    @cached_property
    def _network(self) -> list[tuple[Array, Array]]:
        with np.load(self.folder / f"hwgpt_ppl_mlp_{self.scale}.npz") as arrays:
            return [(arrays[f"fc{i}.weight"], arrays[f"fc{i}.bias"]) for i in range(1, 6)]

    def _perplexity(self, choice: dict[str, Any]) -> float:
        widths, depths, heads = SCALES[self.scale]
        most, depth = depths[-1], choice["n_layer"]
        ratio = [_one_hot(choice[f"mlp_ratio_{i}"], RATIOS) for i in range(depth)]
        head = [_one_hot(choice[f"n_head_{i}"], heads) for i in range(depth)]
        absent = [[0.0] * 3] * (most - depth)
        parts = [_one_hot(choice["embed_dim"], widths), _one_hot(depth, depths)]
        parts += [*ratio, *absent, *head, *absent, _one_hot(choice["bias"], (True, False))]
        state = np.concatenate(parts)
        for i, (weight, bias) in enumerate(self._network):
            state = weight @ state + bias
            state = np.maximum(state, 0.0) if i < 4 else state
        return float(state[0])

    def _figure(self, name: str, choice: dict[str, Any]) -> float:
        widths, _, heads = SCALES[self.scale]
        layers = range(choice["n_layer"])
        chosen = [choice[f"n_head_{i}"] for i in layers]
        ratios = sum(choice[f"mlp_ratio_{i}"] for i in layers)
        few, many = chosen.count(heads[0]), chosen.count(heads[-1])
        summary = [1.0, len(chosen), ratios, sum(chosen), few, many, float(choice["bias"])]
        row = np.outer(_one_hot(choice["embed_dim"], widths), summary).ravel()
        return float(row @ np.array(self._linear[name]["coef"]))


def _settings(configuration: Configuration) -> dict[str, Any]:
    choice = configuration.get("architecture")
    if choice is None:
        raise DataError("a configuration of HW-GPT-Bench has an architecture")
    return dict(choice.settings)


def _one_hot(value: Any, options: tuple[Any, ...]) -> list[float]:
    return [float(value == option) for option in options]
