"""The grey-box sampler: beside the knobs it sees what a candidate is.

Candidates are drawn by running `suggest`, looked at on paper first (what is illegal or over a known
limit never costs a trial), scored by Gaussian processes over their features, and the one that is
expected to add most hypervolume is asked: per second, where the problem says what candidates take.
Objectives known on paper enter exactly.

A pure function of (seed, history): the same history gives the same candidate, in any process.

Sources: EHVI over a candidate pool as measured in docs/log.md; cheap against expensive objectives
as in LEMONADE (arXiv 1804.09081).
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from ...errors import BadRequest
from ...spaces.configuration import Configuration
from .candidates import Candidate, Candidates
from .cost import Job, Ledger
from .observations import Observation, TrialReader, caps_of, read_records, signs_of
from .pool import Draw, draw, mutated
from .prior import priors
from .problem import Problem
from .score import Outlook, outlook

Array = NDArray[np.float64]

_LOG = logging.getLogger(__name__)

MOST_INITIAL = 8
"""Trials of the initial design; more were not worth their cost in any measured space."""

REFINED, CHILDREN, ROUNDS = 8, 12, 5
"""So many of the best are varied so often, in so many rounds: the pool alone is too coarse."""


def initial_size(parameters: int) -> int:
    """Trials of the initial design of a space with that many parameters.

    >>> initial_size(1), initial_size(20)
    (3, 8)
    """
    return min(MOST_INITIAL, max(3, 2 * parameters))


class GreyBoxSampler(BaseSampler):
    """An Optuna sampler that needs the study's `suggest`; see `Problem` for what else it can use.

    Args:
        problem: what may be known.
        seed: of the draws around the front and within a stratum; what stays for many asks (the
            scale of the features, the random part of the pool) is the same for every seed.
        initial: trials of the initial design, None: 8, fewer in a space of few knobs.
        pool: candidates looked at per ask.

    >>> import optuna
    >>> def suggest(trial): return {"x": trial.suggest_float("x", 0, 1)}
    >>> sampler = GreyBoxSampler(Problem(suggest), seed=1)
    >>> study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    >>> study.optimize(lambda t: ((x := suggest(t)["x"]) ** 2, (x - 1) ** 2), n_trials=2)
    """

    def __init__(
        self, problem: Problem, seed: int = 0, initial: int | None = None, pool: int = 800
    ) -> None:
        self._problem, self._seed, self._pool = problem, seed, pool
        self._candidates = Candidates(problem)
        self._trials = TrialReader(problem.suggest)
        self._chosen: tuple[int, Draw] | None = None
        self._told = problem.paper is not None
        self._initial = initial

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Every distribution seen, and those of the candidate that is asked now."""
        chosen = self._choose(study, trial)
        self._chosen = (trial.number, chosen)
        return {**self._candidates.basis.distributions, **chosen.distributions}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The candidate's parameters."""
        if self._chosen is None or self._chosen[0] != trial.number:
            self.infer_relative_search_space(study, trial)
        assert self._chosen is not None
        return dict(self._chosen[1].params)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Never: a parameter that the sampler did not choose would be a random one.

        Raises:
            BadRequest: `suggest` asked for something else than when the sampler ran it.
        """
        raise BadRequest(
            f"trial {trial.number} asked for {param_name!r}, which was not asked when the sampler "
            "ran `suggest` itself; suggest must depend on nothing but the trial's answers"
        )

    def _choose(self, study: Study, trial: FrozenTrial) -> Draw:
        rng = np.random.default_rng([self._seed, trial.number])
        self._tell()
        fixed = trial.system_attrs.get("fixed_params")
        if fixed:
            return draw(self._problem.suggest, mutated(fixed, rng, rate=0.0))
        signs = signs_of(study)
        seen = self._observe(study, trial.number, signs)
        drawn = [o for o in seen if not o.baseline]
        initial = self._initial
        if initial is None:
            initial = initial_size(len(self._candidates.basis.distributions))
        asked = frozenset(o.drawn.key for o in seen)
        ledger = self._ledger(trial.number)
        ended = sum(o.state == "seen" for o in seen)
        designed = len(drawn) >= initial
        if ended >= 3 and (designed or self._problem.lessons):
            expected = self._expected(seen, initial, signs)
            # Figures that bear out what earlier studies taught cut the design short.
            if designed or expected.borne_out:
                return self._improve(seen, expected, asked, rng, ledger).drawn
        return self._candidates.stratified(drawn, initial, asked, rng, ledger).drawn

    def _observe(self, study: Study, but: int, signs: Array) -> list[Observation]:
        problem = self._problem
        if problem.history is None:
            return self._trials.read(study, but)
        trials = {t.number: t for t in study.get_trials(deepcopy=False)}
        limits = problem.limits() if problem.limits else ()
        _, measured = caps_of(limits, problem.objectives, signs)
        records = [record for record in problem.history() if record.number != but]
        return read_records(records, trials, problem.objectives, measured, signs)

    def _expected(self, seen: list[Observation], initial: int, signs: Array) -> Outlook:
        reference, caps = self._reference(signs)
        guesses = priors(self._problem, self._candidates, signs)
        return outlook(seen, self._candidates, reference, caps, signs, initial, guesses)

    def _improve(
        self,
        seen: list[Observation],
        expected: Outlook,
        asked: frozenset[Hashable],
        rng: np.random.Generator,
        ledger: Ledger | None,
    ) -> Candidate:
        weights = rng.dirichlet(np.ones(len(expected.signs)))
        parents = expected.rivals.parents()
        made = [trial.drawn.params for trial in seen if not trial.baseline]
        pool = self._candidates.pool(self._pool, len(seen), parents, made, asked, rng)

        def worth(some: list[Candidate]) -> Array:
            gains = expected.score(some, weights)
            if ledger is None:
                return gains
            return np.asarray(gains / np.array([ledger.price(c.job) for c in some]))

        scores = worth(pool)
        known = asked | {candidate.drawn.key for candidate in pool}
        for _ in range(ROUNDS):
            best = np.argsort(-scores, kind="stable")[:REFINED]
            varied = self._candidates.varied(
                [pool[i].drawn.params for i in best], CHILDREN * REFINED, known, rng
            )
            if not varied:
                break
            pool = [*pool, *varied]
            known |= {candidate.drawn.key for candidate in varied}
            scores = np.concatenate([scores, worth(varied)])
        return pool[int(np.argmax(scores))]

    def _ledger(self, but: int) -> Ledger | None:
        """What was made and what it took, None where the problem does not say what work is."""
        problem, job, recall = self._problem, self._problem.job, self._candidates.memory.recall
        if job is None or problem.history is None:
            return None

        def known(configuration: Configuration, rung: int | None) -> Job | None:
            return recall(("job", configuration, rung), lambda: job(configuration, rung))

        records = [record for record in problem.history() if record.number != but]
        return Ledger.of(records, known, len(problem.rungs) - 1, problem.trial_seconds)

    def _reference(self, signs: Array) -> tuple[Array | None, Array]:
        """The frozen reference point, None while there is none, and the user's caps: losses."""
        problem = self._problem
        limits = problem.limits() if problem.limits else ()
        caps, _ = caps_of(limits, problem.objectives, signs)
        given = problem.reference() if problem.reference else None
        return (None if given is None else signs * np.asarray(given, dtype=np.float64)), caps

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            _LOG.info("no paper: the surrogate sees the parameters themselves")
