"""Outlook: what the history makes one expect of candidates, and how much each would add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from ..pareto import non_dominated, non_dominated_ranks, reference_point
from .acquisition import (
    MOST_BOXED_OBJECTIVES,
    chebyshev_improvement,
    expected_improvement,
    log_probability_below,
    open_boxes,
)
from .belief import Scale, fitting_count, learn
from .candidates import Candidate, Candidates
from .observations import Observation
from .prior import Guided, Prior, guided
from .problem import Memory
from .surrogate import Lengths, Posterior

Array = NDArray[np.float64]

FEW_PARENTS = 4
"""Below so many on the front, the next front's trials are varied too."""


@dataclass(frozen=True)
class Rivals:
    """Trials that count, with what is believed of them at full fidelity.

    Args:
        trials: those that did not fail.
        believed: `(n, m)` losses on the scales. feasible: `(n,)` they break no measured limit.
    """

    trials: Sequence[Observation]
    believed: Array
    feasible: NDArray[np.bool_]

    def front(self) -> Array:
        """Believed losses of the feasible front."""
        rows = self.believed[self.feasible]
        return rows[non_dominated(rows)] if len(rows) else rows

    def parents(self) -> list[Mapping[str, object]]:
        """Parameters worth varying: the front's, and the next one's while the front is short."""
        rows = np.flatnonzero(self.feasible) if self.feasible.any() else np.arange(len(self.trials))
        ranks = non_dominated_ranks(self.believed[rows])
        deepest = 0 if (ranks == 0).sum() >= FEW_PARENTS else 1
        chosen = [self.trials[i] for i in rows[ranks <= deepest]]
        return [trial.drawn.params for trial in chosen if trial.drawn.params]


@dataclass(frozen=True)
class Outlook:
    """What is expected of candidates.

    Args:
        candidates: where their features come from.
        scales: per objective. reference: `(m,)` on them. signs: -1 for maximised objectives.
        models: of the objectives that are not known on paper; one without any figure is left out.
        limits: a model of every measured limit's violation; 0 is where it lies.
        rivals: what a candidate has to beat.
        tried: features of all trials. failures: `(t,)` how sure each is to fail again.
        rungs: there is more than one, and features end with the distance to the last.
        guessed: objectives that earlier studies told of.
    """

    candidates: Candidates
    scales: Sequence[Scale]
    reference: Array
    signs: Array
    models: Mapping[int, Posterior | Guided]
    limits: Sequence[Posterior]
    rivals: Rivals
    tried: Array
    failures: Array
    rungs: bool
    guessed: frozenset[int] = frozenset()

    @property
    def borne_out(self) -> bool:
        """The figures agree with everything that earlier studies make one expect."""
        judged = [isinstance(self.models.get(j), Guided) for j in self.guessed]
        return bool(judged) and all(judged)

    def score(self, pool: Sequence[Candidate], weights: Array) -> Array:
        """How much each candidate is worth asking: `(k,)`, larger is better.

        Args:
            weights: `(m,)` of this ask, for the objectives' scalarisation where there are many.
        """
        features = self.candidates.scaled(pool)
        means, deviations = self.expect(pool, features)
        if len(self.reference) <= MOST_BOXED_OBJECTIVES:
            gain = expected_improvement(means, deviations, *self._boxes)
        else:
            front = self._front
            ideal = np.minimum(means.min(axis=0), front.min(axis=0, initial=np.inf))
            extent = np.maximum(self.reference - ideal, 1e-9)
            seen = (np.vstack([front, self.reference]) - ideal) / extent
            scaled = (means - ideal) / extent
            gain = chebyshev_improvement(scaled, deviations / extent, seen, weights)
        # Where nothing is expected to improve, what is least known decides.
        return np.asarray((gain + 1e-9 * deviations.sum(axis=1)) * self.chance(features))

    # An ask scores several times against the same rivals.
    @cached_property
    def _front(self) -> Array:
        return self.rivals.front()

    @cached_property
    def _boxes(self) -> tuple[Array, Array]:
        return open_boxes(self._front, self.reference)

    def expect(self, pool: Sequence[Candidate], features: Array) -> tuple[Array, Array]:
        """Means and deviations of the losses on their scales, `(k, m)` each; exact where known."""
        at = self._at_last_rung(features)
        means, deviations = self._on_paper(pool), np.zeros((len(pool), len(self.scales)))
        for j, model in self.models.items():
            means[:, j], deviations[:, j] = model.predict(at)
        return means, deviations

    def believe(self, pool: Sequence[Candidate], features: Array) -> Array:
        """The means of `expect`, without the deviations that take most of its time."""
        at = self._at_last_rung(features)
        means = self._on_paper(pool)
        for j, model in self.models.items():
            means[:, j] = model.mean(at)
        return means

    def _on_paper(self, pool: Sequence[Candidate]) -> Array:
        """What is known on paper on the scales, 0 elsewhere: `(k, m)`."""
        means = np.zeros((len(pool), len(self.scales)))
        for j, scale in enumerate(self.scales):
            if j not in self.models and pool and j in pool[0].known:
                exact = self.signs[j] * np.array([candidate.known[j] for candidate in pool])
                means[:, j] = scale(exact)
        return means

    def chance(self, features: Array) -> Array:
        """Probability that a candidate does not fail and keeps every measured limit: `(k,)`."""
        works = np.ones(len(features))
        if self.failures.any():
            near = _nearness(features, self.tried)
            works -= near @ self.failures / (1.0 + near.sum(axis=1))
        for model in self.limits:
            mean, deviation = model.predict(self._at_last_rung(features))
            logs = log_probability_below(np.zeros(1), mean[:, None], deviation[:, None])
            works = works * np.exp(logs)
        return np.asarray(works)

    def _at_last_rung(self, features: Array) -> Array:
        return np.hstack([features, np.zeros((len(features), 1))]) if self.rungs else features


def outlook(
    seen: Sequence[Observation],
    candidates: Candidates,
    reference: Array | None,
    caps: Array,
    signs: Array,
    initial: int,
    priors: Mapping[int, Prior],
) -> Outlook:
    """The outlook from a history.

    Args:
        seen: every trial, in the order of their numbers; at least one with figures of some rung.
        reference: `(m,)` losses, frozen; None: taken from baseline and initial design.
        caps: `(m,)` losses that the user allows at most, infinite where there is no such limit.
        initial: trials of the initial design.
        priors: what earlier studies make one expect, by objective.
    """
    trials = [trial for trial in seen if trial.state != "failed"]
    looked, memory = candidates.looked(trials), candidates.memory
    table = _table(trials, looked, candidates, signs)
    if reference is None:
        foreseen = _foreseen(seen, candidates, signs, initial, priors) if priors else None
        reference = _own_reference(trials, table, caps, initial, foreseen)
    reference = np.minimum(reference, caps)
    scales = [_scale(table, table.losses[:, j], reference[j]) for j in range(len(signs))]
    waiting = [i for i, trial in enumerate(trials) if trial.state == "waiting"]
    here = table.at_last[waiting]
    models: dict[int, Posterior | Guided] = {}
    for j, scale in enumerate(scales):
        rows = np.isfinite(table.losses[:, j])
        if not (looked and j in looked[0].known) and rows.any():
            targets = scale.drawn_in(table.losses[rows, j])
            models[j] = _learnt(memory, table, rows, targets, priors.get(j), scale.cap).given(here)
    base = Outlook(
        candidates=candidates,
        scales=scales,
        reference=np.array([s(np.array([r]))[0] for s, r in zip(scales, reference, strict=True)]),
        signs=signs,
        models=models,
        limits=[_limit(table, values, memory).given(here) for values in table.violations.values()],
        rivals=Rivals(trials, np.zeros((0, len(signs))), np.zeros(0, dtype=bool)),
        tried=candidates.scaled(candidates.looked(seen)),
        failures=np.array([trial.failure for trial in seen]),
        rungs=table.inputs.shape[1] > len(candidates.basis.scaling.keep),
        guessed=frozenset(priors),
    )
    believed = base.believe(looked, candidates.scaled(looked))
    feasible = np.array([_feasible(trial) for trial in trials], dtype=bool)
    return replace(base, rivals=Rivals(trials, believed, feasible))


def _foreseen(
    seen: Sequence[Observation],
    candidates: Candidates,
    signs: Array,
    initial: int,
    priors: Mapping[int, Prior],
) -> Array | None:
    """Losses that a sample of the space is expected to have, None where no guess is believed.

    A design that guesses cut short has seen too little of the front to say where it ends.
    """
    nowhere = np.full(len(signs), np.inf)
    expected = outlook(seen, candidates, nowhere, nowhere, signs, initial, priors)
    if not expected.borne_out:
        return None
    sample = candidates.sample()
    means, _ = expected.expect(sample, candidates.scaled(sample))
    columns = [scale.back(means[:, j]) for j, scale in enumerate(expected.scales)]
    return np.stack(columns, axis=1)


@dataclass(frozen=True)
class _Table:
    """The history as arrays; a row is one rung of one trial, in the order of trial numbers.

    Scales are taken from the `fitted` rows: on another scale hyper-parameters would have to be
    fitted anew to the same figures.
    """

    inputs: Array
    losses: Array
    trial: NDArray[np.intp]
    last: NDArray[np.bool_]
    fitted: NDArray[np.bool_]
    violations: Mapping[str, Array]
    at_last: Array
    lengths: Lengths


def _table(
    trials: Sequence[Observation],
    looked: Sequence[Candidate],
    candidates: Candidates,
    signs: Array,
) -> _Table:
    top = candidates.top_rung
    features, lengths = candidates.scaled(looked), candidates.basis.scaling.lengths
    rows = [(i, sight) for i, trial in enumerate(trials) for sight in trial.sights]
    losses = np.array([_exact(sight.losses, looked[i], signs) for i, sight in rows])
    place = np.array([i for i, _ in rows], dtype=np.intp)
    rung = np.array([sight.rung for _, sight in rows])
    distance = 2.0 * (top - rung) / max(1, top)
    inputs = features[place]
    if top:
        inputs = np.hstack([inputs, distance[:, None]])
        features = np.hstack([features, np.zeros((len(features), 1))])
        lengths = lengths + Lengths.each(1)
    told = [i for i, trial in enumerate(trials) if trial.sights]
    fitted = set(told[: fitting_count(len(told))])
    names = sorted({name for _, sight in rows for name in sight.violations})
    violations = {
        name: np.array([sight.violations.get(name, np.nan) for _, sight in rows]) for name in names
    }
    mask = np.array([i in fitted for i in place], dtype=bool)
    shaped = losses.reshape(len(rows), len(signs))
    last = rung >= top
    return _Table(inputs, shaped, place, last, mask, violations, features, lengths)


def _exact(losses: Array, candidate: Candidate, signs: Array) -> Array:
    exact = losses.copy()
    for j, value in candidate.known.items():
        exact[j] = signs[j] * value
    return exact


def _own_reference(
    trials: Sequence[Observation],
    table: _Table,
    caps: Array,
    initial: int,
    foreseen: Array | None,
) -> Array:
    """From baseline and initial design; from all rungs while none of these is complete.

    Losses that are foreseen count as well.
    """
    ended = [i for i, t in enumerate(trials) if t.state == "seen" and not t.baseline]
    first = [i for i, t in enumerate(trials) if t.baseline] + ended[:initial]
    complete = np.isfinite(table.losses).all(axis=1)
    rows = table.losses[complete & table.last & np.isin(table.trial, first)]
    rows = rows if len(rows) else table.losses[complete]
    if len(rows) == 0:
        rows = np.nan_to_num(table.losses, nan=0.0)
    if foreseen is not None:
        rows = np.vstack([rows, foreseen])
    return reference_point(None, rows, np.where(np.isfinite(caps), caps, np.nan))


def _steady(table: _Table, figures: Array) -> Array:
    """The figures that a scale is taken from."""
    rows = np.isfinite(figures)
    fitted = rows & table.fitted
    return figures[fitted if fitted.any() else rows]


def _scale(table: _Table, losses: Array, reference: float) -> Scale:
    values = _steady(table, losses)
    end = reference if np.isfinite(reference) else None
    return Scale.of(values, end) if len(values) else Scale(False, 0.0, 1.0)


def _limit(table: _Table, values: Array, memory: Memory) -> Posterior:
    """A model of a violation on the scale of its spread; far from the limit it matters little."""
    rows = np.isfinite(values)
    targets = values[rows] / (float(np.std(_steady(table, values))) or 1.0)
    targets = np.clip(targets, -3.0, 3.0)
    return learn(memory, table.inputs[rows], targets, table.fitted[rows], table.lengths)


def _learnt(
    memory: Memory,
    table: _Table,
    rows: NDArray[np.bool_],
    targets: Array,
    prior: Prior | None,
    cap: float,
) -> Posterior | Guided:
    inputs, fitted = table.inputs[rows], table.fitted[rows]
    believe = partial(learn, memory, fitted=fitted, lengths=table.lengths)
    cold = believe(inputs, targets)
    if prior is None:
        return cold
    return guided(prior, cold, believe, inputs, targets, cap)


def _feasible(trial: Observation) -> bool:
    return not trial.sights or all(v <= 0.0 for v in trial.sights[-1].violations.values())


def _nearness(features: Array, tried: Array) -> Array:
    """How alike candidates and trials are, in (0, 1]: `(k, t)`."""
    if len(tried) == 0 or features.shape[1] == 0:
        return np.zeros((len(features), len(tried)))
    square = (features**2).sum(axis=1)[:, None] + (tried**2).sum(axis=1) - 2 * features @ tried.T
    return np.asarray(np.exp(-np.maximum(square, 0.0) / (0.25 * features.shape[1])))
