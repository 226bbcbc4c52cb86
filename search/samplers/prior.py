"""Prior: what earlier studies make one expect of a candidate, and whether that is believed.

A lesson is what an earlier study's trials are on paper, and their figures. A Gaussian process over
them gives each objective a first guess m(x); the new study's figures are y = rho m(x) +
delta(x), where rho is normal around `TRUST` and delta a process of the new study's own. Unless
the figures are clearly more probable with the guess, it is left out: the cold model is left.

Source: Kennedy & O'Hagan 2000, eq. 1, with both levels apart as in Le Gratiet & Garnier 2014.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import BadRequest
from ...spaces.configuration import Configuration
from ...spaces.paper_features import FEATURES
from .belief import Scale, learn
from .encoding import knobs
from .surrogate import Posterior

if TYPE_CHECKING:
    from .candidates import Candidates
    from .problem import Problem

Array = NDArray[np.float64]

TRUST, DOUBT = 0.75, 0.5
"""Mean and standard deviation of rho before a figure is there, both in units of the spread."""

MARGIN = 1.0
"""Log odds by which figures must be more probable with the guesses: three agree by chance."""

NARROW = 0.3
"""Guesses that differ by less than this share of their lesson's spread are not stretched."""


@dataclass(frozen=True)
class Lesson:
    """An earlier study, as far as it teaches.

    Args:
        name: for people.
        configurations: of its trials that ended with figures, n of them.
        features: `(n, len(FEATURES))` on paper, moved as from its given model to the new study's.
        figures: `(n,)` by metric, in the metric's own direction; NaN where there is none.
    """

    name: str
    configurations: tuple[Configuration, ...]
    features: Array
    figures: Mapping[str, Array]


@dataclass(frozen=True)
class Prior:
    """The first guesses of one objective, one a lesson.

    Args:
        columns: `(c,)` of a candidate's features, those that lessons have too.
        taught: what each lesson makes one expect, lower is better, in units of that one's spread.
    """

    columns: NDArray[np.intp]
    taught: tuple[Posterior, ...]

    def __call__(self, inputs: Array) -> Array:
        """Guesses for `(n, d)` standardised features: `(n, s)`; columns after them do not count."""
        seen = inputs[:, self.columns]
        return np.stack([one.mean(seen) for one in self.taught], axis=1)

    def alone(self) -> list[Prior]:
        """The guesses of each lesson alone; none where there is one anyway."""
        alone = [replace(self, taught=(one,)) for one in self.taught]
        return alone if len(alone) > 1 else []


@dataclass(frozen=True)
class Guided:
    """What is believed where figures agree with the guesses.

    Args:
        inner: the process over features and, after them, guesses.
        prior: what guesses. centre, spread: `(s,)` of the guesses where figures are.
        cap: guesses beyond it are drawn in, as figures are.
    """

    inner: Posterior
    prior: Prior
    centre: Array
    spread: Array
    cap: float

    def predict(self, at: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the function, without noise, at `(k, d)` inputs."""
        guesses = self.guesses(at)
        mean, deviation = self.inner.predict(np.hstack([at, guesses]))
        return mean + TRUST * guesses.mean(axis=1), deviation

    def mean(self, at: Array) -> Array:
        """The mean alone, `(k,)`."""
        guesses = self.guesses(at)
        return np.asarray(self.inner.mean(np.hstack([at, guesses])) + TRUST * guesses.mean(axis=1))

    def guesses(self, at: Array) -> Array:
        """The guesses on the scale of the figures: `(k, s)`."""
        return _on_scale(self.prior(at), self.centre, self.spread, self.cap)

    def given(self, waiting: Array) -> Guided:
        """The same once `(w, d)` more inputs have come out as believed."""
        return replace(self, inner=self.inner.given(np.hstack([waiting, self.guesses(waiting)])))


def priors(problem: Problem, candidates: Candidates, signs: Array) -> dict[int, Prior]:
    """The priors of the objectives that are not known on paper and that a lesson has figures of.

    Raises:
        BadRequest: there are lessons, but no papers or features of the problem's own.
    """
    if not problem.lessons:
        return {}
    if problem.paper is None or problem.features is not None:
        raise BadRequest("earlier studies teach through papers; Problem.lessons needs `paper`")
    found = {}
    for j, name in enumerate(problem.objectives):
        able = [] if j in problem.known else [o for o in problem.lessons if name in o.figures]
        if able:
            make = partial(_prior, able, name, signs[j], candidates, len(problem.known))
            found[j] = candidates.memory.recall(("prior", j), make)
    return found


def _prior(
    lessons: Sequence[Lesson], objective: str, sign: float, candidates: Candidates, told: int
) -> Prior:
    """What each lesson makes one expect of an objective; `told` objectives are known on paper."""
    scaling, encode = candidates.basis.scaling, candidates.basis.knobs.encode
    # What is told exactly lies between features and knobs, and no lesson has it.
    first, end = len(FEATURES), len(FEATURES) + told
    columns = np.flatnonzero((scaling.keep < first) | (scaling.keep >= end))
    lengths = scaling.lengths.kept(columns)
    taught = []
    for lesson in lessons:
        losses = sign * lesson.figures[objective]
        there = np.isfinite(losses)
        numbers = np.array([encode(knobs(one)) for one in lesson.configurations])
        raw = np.hstack([lesson.features, np.zeros((len(numbers), told)), numbers])
        inputs, figures = scaling(raw[there])[:, columns], losses[there]
        targets = Scale.of(figures, None)(figures)
        fitted = np.ones(len(targets), dtype=bool)
        taught.append(learn(candidates.memory, inputs, targets, fitted, lengths))
    return Prior(columns, tuple(taught))


def guided(
    prior: Prior,
    cold: Posterior,
    believe: Callable[..., Posterior],
    inputs: Array,
    targets: Array,
    cap: float,
) -> Guided | Posterior:
    """What is believed with the guesses; `cold` where figures are not more probable with them.

    All lessons together and each alone are tried: one that misleads must not spoil the others.

    Args:
        prior: of the figure.
        cold: what is believed without guesses, of the same figures.
        believe: `learn` of such rows: inputs and targets, and `slopes`.
        inputs, targets: of those rows, as for `learn`. cap: of the targets.
    """
    parts = [prior, *prior.alone()]
    found = [_guided(part, believe, inputs, targets, cap) for part in parts]
    best = max(found, key=lambda one: one.inner.evidence)
    odds = best.inner.evidence - cold.evidence
    return best if odds > MARGIN + np.log(len(parts)) else cold


def _guided(
    prior: Prior, believe: Callable[..., Posterior], inputs: Array, targets: Array, cap: float
) -> Guided:
    told, count = prior(inputs), len(prior.taught)
    centre, spread = told.mean(axis=0), np.maximum(told.std(axis=0), NARROW)
    guesses = _on_scale(told, centre, spread, cap)
    rest = targets - TRUST * guesses.mean(axis=1)
    slopes = np.full(count, DOUBT**2 / count)
    inner = believe(np.hstack([inputs, guesses]), rest, slopes=slopes)
    return Guided(inner, prior, centre, spread, cap)


def _on_scale(told: Array, centre: Array, spread: Array, cap: float) -> Array:
    return np.asarray(np.minimum((told - centre) / spread, cap))
