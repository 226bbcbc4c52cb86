"""Benchmark: what every problem of `search.py` answers, whoever searches it.

Losses are minimised. `suggest` is all that a sampler needs; `known` is what ours may know besides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..search.pareto import hypervolume
from ..search.samplers.pool import Draw, Recorder, draw, repeated, uniform
from ..search.samplers.problem import Problem
from ..spaces.configuration import digest

Array = NDArray[np.float64]


class Benchmark(ABC):
    """One problem whose every answer is known at once."""

    objectives: tuple[str, ...]
    """What is minimised."""

    log: ClassVar[bool] = False
    """Hypervolume is taken on logarithms of the losses."""

    @property
    @abstractmethod
    def bounds(self) -> tuple[Array, Array]:
        """Ideal and reference point, `(m,)` each: hypervolume 1 and 0."""

    @abstractmethod
    def suggest(self, trial: Any) -> Any:
        """One point of the space, by `suggest_*` of a trial."""

    @abstractmethod
    def losses(self, made: Any) -> tuple[float, ...]:
        """What a trial is told of a point that `suggest` made."""

    def exact(self, made: Any) -> tuple[float, ...]:
        """What a point is judged by: the losses without their noise."""
        return self.losses(made)

    def violations(self, made: Any) -> Mapping[str, float]:
        """How far a point is beyond each limit, as a share of it; at most 0 where it is kept."""
        return {}

    def known(self) -> Problem:
        """What our own sampler may know."""
        return Problem(self.suggest, reference=lambda: self.bounds[1].tolist())

    @property
    def optimum(self) -> float | None:
        """The largest hypervolume there is, None where it takes a search of its own."""
        return None

    def hypervolume(self, losses: Array) -> float:
        """Share of the box between ideal and reference that `(n, m)` losses dominate."""
        points = np.vstack([*self.bounds, losses.reshape(-1, len(self.objectives))])
        ideal, reference, *rows = np.log(points) if self.log else points
        shape = (-1, len(ideal))
        scaled = (np.reshape(rows, shape) - ideal) / (reference - ideal)
        return hypervolume(scaled, np.ones(len(ideal)))


class Searchable(Benchmark):
    """One whose whole space can be searched for its optimum: many points are answered at once."""

    @property
    @abstractmethod
    def genes(self) -> int:
        """Numbers in [0, 1) that stand for a point in `at`."""

    @abstractmethod
    def at(self, genes: Array) -> Array:
        """Exact losses of many points, infinite where a limit is broken: `(n, g)` to `(n, m)`."""


def random_draws(benchmark: Benchmark, count: int, seed: int = 0) -> list[Draw]:
    """Points drawn evenly."""
    rng = np.random.default_rng(seed)
    return [draw(benchmark.suggest, uniform(rng)) for _ in range(count)]


def made_by(benchmark: Benchmark, drawn: Draw) -> Any:
    """What `suggest` makes of a draw."""
    return benchmark.suggest(Recorder(repeated(drawn.params)))


def fingerprint(benchmark: Benchmark) -> str:
    """A name for what a problem answers: another once its data, formulas or bounds change."""
    made = [made_by(benchmark, drawn) for drawn in random_draws(benchmark, 5)]
    figures = [[*benchmark.losses(m), *benchmark.violations(m).values()] for m in made]
    bounds = [side.tolist() for side in benchmark.bounds]
    # Not all digits: another processor's sums must not name another problem.
    return digest([[f"{value:.8g}" for value in row] for row in [*figures, *bounds]])[:8]
