"""Problems of closed form: without structure (ZDT1, DTLZ2), and with conditions (mixed)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from ..search.samplers.pool import Recorder, from_unit
from .benchmark import Array, Benchmark, Searchable, random_draws


@dataclass(frozen=True)
class Zdt1(Benchmark):
    """ZDT1 (Zitzler, Deb & Thiele 2000): ten numbers, two objectives."""

    variables: int = 10
    objectives = ("f1", "f2")

    @property
    def bounds(self) -> tuple[Array, Array]:
        """The second is as far as random points: nearer, they would all count nothing."""
        return np.zeros(2), np.array([1.1, 6.0])

    def suggest(self, trial: Any) -> dict[str, float]:
        """Numbers in [0, 1]."""
        return {f"x{i}": trial.suggest_float(f"x{i}", 0.0, 1.0) for i in range(self.variables)}

    def losses(self, made: Mapping[str, float]) -> tuple[float, ...]:
        """f1 = x0, f2 = g (1 - sqrt(f1 / g)), g = 1 + 9 mean(x1, ...)."""
        first, *rest = made.values()
        g = 1.0 + 9.0 * sum(rest) / len(rest)
        return first, g * (1.0 - math.sqrt(first / g))

    @property
    def optimum(self) -> float:
        """Below the reference (a, b) the front f2 = 1 - sqrt(f1) leaves b - 1 + 2/3 + (a - 1) b."""
        a, b = self.bounds[1].tolist()
        return float((b - 1.0 / 3.0 + (a - 1.0) * b) / (a * b))


@dataclass(frozen=True)
class Dtlz2(Benchmark):
    """DTLZ2 (Deb et al. 2002): six numbers, three objectives, the front an eighth of a sphere."""

    variables: int = 6
    objectives = ("f1", "f2", "f3")

    @property
    def bounds(self) -> tuple[Array, Array]:
        """The usual reference, a tenth beyond the front."""
        return np.zeros(3), np.full(3, 1.1)

    def suggest(self, trial: Any) -> dict[str, float]:
        """Numbers in [0, 1]."""
        return {f"x{i}": trial.suggest_float(f"x{i}", 0.0, 1.0) for i in range(self.variables)}

    def losses(self, made: Mapping[str, float]) -> tuple[float, ...]:
        """A point of the sphere by two angles, the radius 1 + the rest's distance from 1/2."""
        first, second, *rest = made.values()
        radius = 1.0 + sum((x - 0.5) ** 2 for x in rest)
        a, b = first * math.pi / 2, second * math.pi / 2
        level = radius * math.cos(a)
        return level * math.cos(b), level * math.sin(b), radius * math.sin(a)

    @property
    def optimum(self) -> float:
        """The box without an eighth of the unit ball."""
        return 1.0 - math.pi / 6.0 / 1.1**3


NOISE: Final = 0.02
"""Standard deviation of the logarithm of the error that a trial of `mixed` is told."""

BEST_RATE: Final = {"full": -4.5, "lora": -3.5, "distil": -4.0, "prune": -4.3}
"""Logarithm (base 10) of the best learning rate of each method."""

CUT: Final = {"heads": (0.3, 0.4), "neurons": (0.2, 0.6), "layers": (0.5, 0.9)}
"""Error and size that pruning everything of a kind would cost and save."""

ADAPTED: Final = {"query": 1, "attention": 3, "all": 8}


@dataclass(frozen=True)
class Mixed(Searchable):
    """A made-up space with conditions: a method with knobs of its own, error against size.

    Args:
        seed: of the noise; the same point is always told the same.
    """

    seed: int = 0
    log = True
    objectives = ("error", "size")

    @property
    def bounds(self) -> tuple[Array, Array]:
        """Round figures about the space."""
        return np.array([0.08, 0.03]), np.array([0.5, 1.6])

    def suggest(self, trial: Any) -> dict[str, Any]:
        """A method with its own knobs, and three that all have."""
        method = trial.suggest_categorical("method", tuple(BEST_RATE))
        made = {
            "method": method,
            "rate": trial.suggest_float("rate", 1e-6, 1e-2, log=True),
            "epochs": trial.suggest_int("epochs", 1, 8),
            "bits": trial.suggest_categorical("bits", (16, 8, 4)),
        }
        if method == "full":
            made["frozen"] = trial.suggest_int("frozen", 0, 11)
        elif method == "lora":
            made["rank"] = trial.suggest_int("rank", 1, 128, log=True)
            made["targets"] = trial.suggest_categorical("targets", tuple(ADAPTED))
        elif method == "distil":
            made["layers"] = trial.suggest_int("layers", 1, 12)
            made["temperature"] = trial.suggest_float("temperature", 1.0, 10.0, log=True)
        else:
            made["share"] = trial.suggest_float("share", 0.0, 0.9)
            made["unit"] = trial.suggest_categorical("unit", tuple(CUT))
        return made

    def exact(self, made: Mapping[str, Any]) -> tuple[float, ...]:
        """Error and size without noise."""
        away = math.log10(made["rate"]) - BEST_RATE[made["method"]]
        error = 0.1 + 0.1 * math.exp(-made["epochs"] / 2.0) + 0.05 * away**2
        lost, size = _of_the_method(made)
        error += lost + {16: 0.0, 8: 0.003, 4: 0.02 + 0.2 * lost}[made["bits"]]
        return min(error, 1.0), size * made["bits"] / 16.0 * (1.0 + 0.02 * made["epochs"])

    def losses(self, made: Mapping[str, Any]) -> tuple[float, ...]:
        """The same with noise on the error."""
        error, size = self.exact(made)
        digits = [int(d) for d in "".join(map(str, made.values())).encode()]
        noise = np.random.default_rng([self.seed, *digits]).standard_normal()
        return error * math.exp(NOISE * noise), size

    @property
    def genes(self) -> int:
        """One for every knob of the space."""
        return len(self._knobs)

    def at(self, genes: Array) -> Array:
        """Exact losses of many points."""
        places = {name: i for i, name in enumerate(self._knobs)}

        def point(row: Array) -> tuple[float, ...]:
            return self.exact(
                self.suggest(Recorder(lambda name, kind: from_unit(kind, row[places[name]])))
            )

        return np.array([point(row) for row in genes])

    @cached_property
    def _knobs(self) -> tuple[str, ...]:
        return tuple(sorted({name for d in random_draws(self, 200) for name in d.params}))


def _of_the_method(made: Mapping[str, Any]) -> tuple[float, float]:
    """Error that a method adds, and its size before quantization."""
    if made["method"] == "full":
        return 0.0008 * made["frozen"] ** 2, 1.0 - 0.02 * made["frozen"]
    if made["method"] == "lora":
        capacity = made["rank"] * ADAPTED[made["targets"]]
        return 0.06 / (1.0 + capacity / 16.0), 0.75 + capacity / 4000.0
    if made["method"] == "distil":
        gone = 1.0 - made["layers"] / 12.0
        return 0.18 * gone**2 + 0.03 * math.log(made["temperature"] / 4.0) ** 2, 1.05 - 0.9 * gone
    lost, saved = CUT[made["unit"]]
    return lost * made["share"] ** 2, 1.0 - saved * made["share"]
