"""The candidate pool: configurations drawn by running `suggest` against a trial that only records.

Whatever conditions `suggest` holds are kept by construction, without knowing them. Drawn at random,
with structure (the choices that repeat over layers share one mixture), by changing a good
configuration, or by crossing two.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from ...spaces.configuration import Configuration

Choose = Callable[[str, BaseDistribution], Any]
Suggest = Callable[[Any], Any]
Anew = Callable[[np.random.Generator], Choose]

FEW = 12
"""A whole number with at most so many values repeats over layers as a choice, not as a size."""


@dataclass
class Recorder:
    """Answers `suggest_*` like an Optuna trial and keeps what was asked.

    Args:
        choose: gives the value of a parameter that is asked for the first time.
    """

    choose: Choose
    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number in `[low, high]`."""
        return float(self._ask(name, _floats(low, high, log, step)))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """A whole number in `[low, high]`."""
        return int(self._ask(name, _whole_numbers(low, high, log, step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        try:
            distribution = _one_of(*choices)
        except TypeError:  # choices that cannot be remembered
            distribution = CategoricalDistribution(choices)
        return self._ask(name, distribution)

    def _ask(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self.params:
            single = distribution.single()
            value = from_unit(distribution, 0.5) if single else self.choose(name, distribution)
            self.params[name], self.distributions[name] = value, distribution
        return self.params[name]


# A search asks for the same few distributions again and again, and Optuna checks each that is made.
# Typed: 1, 1.0 and True are equal, and not the same choice.
@lru_cache(maxsize=4096, typed=True)
def _floats(low: float, high: float, log: bool, step: float | None) -> FloatDistribution:
    return FloatDistribution(low, high, log=log, step=step)


@lru_cache(maxsize=4096, typed=True)
def _whole_numbers(low: int, high: int, log: bool, step: int) -> IntDistribution:
    return IntDistribution(low, high, log=log, step=step)


@lru_cache(maxsize=4096, typed=True)
def _one_of(*choices: Any) -> CategoricalDistribution:
    return CategoricalDistribution(choices)


@dataclass(frozen=True)
class Draw:
    """One configuration with the parameters that make it.

    Args:
        configuration: what `suggest` returned; None where it returns none of ours.
        key: equal for equal meaning. Not the digest: a thousand draws an ask have no time for it.
    """

    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    configuration: Configuration | None
    key: Hashable


def draw(suggest: Suggest, choose: Choose) -> Draw:
    """Runs `suggest` once, with every value chosen by a rule."""
    recorder = Recorder(choose)
    made = suggest(recorder)
    if isinstance(made, Configuration):
        return Draw(recorder.params, recorder.distributions, made, made)
    key = tuple(sorted((name, repr(value)) for name, value in recorder.params.items()))
    return Draw(recorder.params, recorder.distributions, None, key)


def uniform(rng: np.random.Generator) -> Choose:
    """Every parameter by itself, evenly."""
    return lambda _, distribution: from_unit(distribution, rng.random())


def structured(rng: np.random.Generator) -> Choose:
    """Parameters that differ only by a number in their name share one mixture.

    Independent draws make every deep model average; a shared mixture reaches the corners where
    fronts lie.
    """
    mixtures: dict[tuple[str, int | None], Any] = {}

    def choose(name: str, distribution: BaseDistribution) -> Any:
        size = cardinality(distribution)
        kind = (stem(name), size)
        if kind not in mixtures:
            mixtures[kind] = _mixture(size, rng)
        mixture = mixtures[kind]
        if size is None or size > FEW:
            return from_unit(distribution, rng.normal(*mixture))
        return from_unit(distribution, (bisect(mixture, rng.random()) + 0.5) / size)

    return choose


def _mixture(size: int | None, rng: np.random.Generator) -> Any:
    """Mean and deviation on the unit scale; for few values, the inner edges of their shares."""
    if size is None or size > FEW:
        return rng.random(), rng.choice((0.05, 0.3))
    alpha = 0.3 if rng.random() < 0.5 else 1.0
    return rng.dirichlet([alpha] * size).cumsum()[:-1].tolist()


def mutated(
    parent: Mapping[str, Any],
    rng: np.random.Generator,
    rate: float | None = None,
    anew: Anew = structured,
) -> Choose:
    """A parent with some parameters changed: half of them to a neighbour, half anew.

    Args:
        rate: share of parameters to change; None: between one of them and a third, at random.
        anew: `structured` or `uniform`: how what is not the parent's is drawn.
    """
    fresh = anew(rng)
    if rate is None:
        rate = (1.0, 2.0, 4.0)[rng.integers(3)] / max(4, len(parent))

    def choose(name: str, distribution: BaseDistribution) -> Any:
        if name not in parent or not _holds(distribution, parent[name]):
            return fresh(name, distribution)
        if rng.random() >= rate:
            return parent[name]
        if rng.random() < 0.5:
            return fresh(name, distribution)
        return _neighbour(distribution, parent[name], rng)

    return choose


def crossed(
    a: Mapping[str, Any], b: Mapping[str, Any], rng: np.random.Generator, anew: Anew = structured
) -> Choose:
    """Each parameter from one of two parents, by turns that are drawn; what neither has, anew."""
    fresh, share = anew(rng), rng.random()

    def choose(name: str, distribution: BaseDistribution) -> Any:
        first, second = (a, b) if rng.random() < share else (b, a)
        for parent in (first, second):
            if name in parent and _holds(distribution, parent[name]):
                return parent[name]
        return fresh(name, distribution)

    return choose


def regrouped(
    parent: Mapping[str, Any], rng: np.random.Generator, anew: Anew = structured
) -> Choose:
    """Whole groups of parameters from a parent, the others anew.

    A group is what stands before the first dot of a name: in a study of this package, a slot.
    """
    fresh, share = anew(rng), float(rng.choice([0.3, 0.6, 0.9]))
    kept: dict[str, bool] = {}

    def choose(name: str, distribution: BaseDistribution) -> Any:
        group = name.partition(".")[0]
        if group not in kept:
            kept[group] = bool(rng.random() < share)
        if kept[group] and name in parent and _holds(distribution, parent[name]):
            return parent[name]
        return fresh(name, distribution)

    return choose


def repeated(params: Mapping[str, Any]) -> Choose:
    """The values of a trial that was asked before.

    Raises:
        KeyError: `suggest` asks for a parameter that the trial does not have.
    """
    return lambda name, _: params[name]


@cache
def stem(name: str) -> str:
    """A parameter's name without its numbers: what repeats over layers has one stem.

    >>> stem("mlp_ratio_3") == stem("mlp_ratio_11")
    True
    """
    return re.sub(r"\d+", "#", name)


def cardinality(distribution: BaseDistribution) -> int | None:
    """How many values there are, None for a number without steps."""
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return (distribution.high - distribution.low) // distribution.step + 1
    return None


def from_unit(distribution: BaseDistribution, u: float) -> Any:
    """The value at a share of a distribution's range, logarithmic where it says so.

    >>> from_unit(IntDistribution(1, 3), 0.99), from_unit(FloatDistribution(1, 100, log=True), 0.5)
    (3, 10.0)
    """
    u = min(max(u, 0.0), 1.0)
    if isinstance(distribution, CategoricalDistribution):
        size = len(distribution.choices)
        return distribution.choices[min(int(u * size), size - 1)]
    if isinstance(distribution, IntDistribution):
        return _whole(distribution, u)
    if not isinstance(distribution, FloatDistribution):
        raise TypeError(f"no rule for {type(distribution).__name__}")
    low, high = distribution.low, distribution.high
    value = low * (high / low) ** u if distribution.log else low + u * (high - low)
    if distribution.step is not None:
        value = low + round((value - low) / distribution.step) * distribution.step
    return float(min(max(value, low), high))


def _whole(distribution: IntDistribution, u: float) -> int:
    low, high, step = distribution.low, distribution.high, distribution.step
    if distribution.log:
        # Half a value beyond each end, as Optuna does: the ends are as likely as the rest.
        value = round((low - 0.5) * ((high + 0.5) / (low - 0.5)) ** u)
    else:
        size = (high - low) // step + 1
        value = low + min(int(u * size), size - 1) * step
    return int(min(max(value, low), high))


def _neighbour(distribution: BaseDistribution, value: Any, rng: np.random.Generator) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        size, place = len(distribution.choices), int(distribution.to_internal_repr(value))
        # Numbers stand in order; names do not, so any other is as near.
        if all(isinstance(c, int | float) for c in distribution.choices):
            return distribution.choices[min(max(place + rng.choice([-1, 1]), 0), size - 1)]
        return distribution.choices[(place + rng.integers(1, size)) % size]
    low, high = float(getattr(distribution, "low", 0.0)), float(getattr(distribution, "high", 1.0))
    if getattr(distribution, "log", False):
        u = np.log(value / low) / np.log(high / low)
    else:
        u = (value - low) / (high - low)
    values = cardinality(distribution)
    step = 0.1 if values is None else max(0.1, 1.0 / values)
    return from_unit(distribution, float(u + step * rng.standard_normal()))


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except ValueError:
        return False
