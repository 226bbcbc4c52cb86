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
from collections.abc import Hashable, Mapping
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ...errors import BadRequest
from ...spaces.configuration import Configuration
from .candidates import Candidate, Candidates, NothingLeft
from .cost import Job, Ledger
from .observations import Observation, TrialReader, caps_of, read_records, signs_of
from .pool import Draw, draw, from_unit, mutated
from .prior import priors
from .problem import Problem
from .score import Outlook, outlook
from .seen import seen_space

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
    """An Optuna sampler; with a `Problem` it knows the space and more, alone it learns the space.

    Without a problem the space is what the complete trials asked for (`SeenSpace`). Until one is
    complete, and where a trial asks for what none did before, a parameter is drawn by itself; once
    all that can be drawn was asked, trials repeat.

    Args:
        problem: what may be known, None: nothing.
        seed: of all draws but those that fix the scale of the features.
        initial: trials of the initial design, None: 8, fewer in a space of few knobs.
        pool: candidates looked at per ask.

    >>> import optuna
    >>> study = optuna.create_study(
    ...     directions=["minimize", "minimize"], sampler=GreyBoxSampler(seed=1)
    ... )
    >>> def objective(trial): return (x := trial.suggest_float("x", 0, 1)) ** 2, (x - 1) ** 2
    >>> study.optimize(objective, n_trials=2)
    """

    def __init__(
        self,
        problem: Problem | None = None,
        seed: int = 0,
        initial: int | None = None,
        pool: int = 800,
    ) -> None:
        self._problem, self._seed, self._initial, self._pool = problem, seed, initial, pool
        self._search = None if problem is None else Search(problem, seed, initial, pool)
        self._chosen: dict[int, Draw | None] = {}
        self._told: set[str] = set()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Every distribution seen, and those of the candidate that is asked now."""
        search = self._searched(study)
        if search is None:
            return {}
        try:
            chosen = search.choose(study, trial)
        except NothingLeft:
            if self._problem is not None:
                raise
            self._tell(
                "nothing new is left in what is known of the space",
                "parameters are drawn by themselves, and trials may repeat",
            )
            self._chosen[trial.number] = None
            return {}
        self._chosen[trial.number] = chosen
        return {**search.distributions, **chosen.distributions}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The candidate's parameters, as far as they are wanted."""
        if trial.number not in self._chosen:
            self.infer_relative_search_space(study, trial)
        chosen = self._chosen.pop(trial.number, None)
        params = {} if chosen is None else chosen.params
        return {name: value for name, value in params.items() if name in search_space}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A random value; never with a problem, where nothing is left to chance.

        Raises:
            BadRequest: `suggest` asked for something else than when the sampler ran it.
        """
        if self._problem is None:
            rng = np.random.default_rng([self._seed, trial.number, crc32(param_name.encode())])
            return from_unit(param_distribution, rng.random())
        raise BadRequest(
            f"trial {trial.number} asked for {param_name!r}, which was not asked when the sampler "
            "ran `suggest` itself; suggest must depend on nothing but the trial's answers"
        )

    def _searched(self, study: Study) -> Search | None:
        """The search of the space that is known now, None while none is."""
        if self._problem is not None:
            if self._problem.paper is None:
                self._tell("no paper", "the surrogate sees the parameters themselves")
            return self._search
        self._tell("no space was given", "it is learnt from what the study's trials ask for")
        space = seen_space(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        if space is None:
            return None
        search = self._search
        if search is None or search.problem.suggest != space:
            search = self._search = Search(Problem(space), self._seed, self._initial, self._pool)
        return search

    def _tell(self, what: str, why: object) -> None:
        if what not in self._told:
            self._told.add(what)
            _LOG.log(logging.INFO if self._problem else logging.WARNING, "%s: %s", what, why)


class Search:
    """What is asked next in a space that is known; arguments as of `GreyBoxSampler`."""

    def __init__(self, problem: Problem, seed: int, initial: int | None, pool: int) -> None:
        self.problem, self._seed, self._initial, self._pool = problem, seed, initial, pool
        self._candidates = Candidates(problem, seed)
        self._trials = TrialReader(problem.suggest)

    @property
    def distributions(self) -> Mapping[str, BaseDistribution]:
        """Every distribution that a sample of the space shows."""
        return self._candidates.basis.distributions

    def choose(self, study: Study, trial: FrozenTrial) -> Draw:
        """The candidate for a trial.

        Raises:
            NothingLeft: all that may be asked was asked.
        """
        rng = np.random.default_rng([self._seed, trial.number])
        fixed = trial.system_attrs.get("fixed_params")
        if fixed:
            return draw(self.problem.suggest, mutated(fixed, rng, rate=0.0))
        signs = signs_of(study)
        seen = self._observe(study, trial.number, signs)
        drawn = [o for o in seen if not o.baseline]
        initial = self._initial
        if initial is None:
            initial = initial_size(len(self.distributions))
        asked = frozenset(o.drawn.key for o in seen)
        ledger = self._ledger(trial.number)
        told = sum(bool(o.sights) for o in seen)  # at whatever rung
        designed = len(drawn) >= initial
        if told >= 3 and (designed or self.problem.lessons):
            expected = self._expected(seen, initial, signs)
            # Figures that bear out what earlier studies taught cut the design short.
            if designed or expected.borne_out:
                return self._improve(seen, expected, asked, rng, ledger).drawn
        return self._candidates.stratified(drawn, initial, asked, rng, ledger).drawn

    def _observe(self, study: Study, but: int, signs: Array) -> list[Observation]:
        problem = self.problem
        if problem.history is None:
            return self._trials.read(study, but)
        trials = {t.number: t for t in study.get_trials(deepcopy=False)}
        limits = problem.limits() if problem.limits else ()
        _, measured = caps_of(limits, problem.objectives, signs)
        records = [record for record in problem.history() if record.number != but]
        return read_records(records, trials, problem.objectives, measured, signs)

    def _expected(self, seen: list[Observation], initial: int, signs: Array) -> Outlook:
        reference, caps = self._reference(signs)
        guesses = priors(self.problem, self._candidates, signs)
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
        problem, job, recall = self.problem, self.problem.job, self._candidates.memory.recall
        if job is None or problem.history is None:
            return None

        def known(configuration: Configuration, rung: int | None) -> Job | None:
            return recall(("job", configuration, rung), lambda: job(configuration, rung))

        records = [record for record in problem.history() if record.number != but]
        return Ledger.of(records, known, len(problem.rungs) - 1, problem.trial_seconds)

    def _reference(self, signs: Array) -> tuple[Array | None, Array]:
        """The frozen reference point, None while there is none, and the user's caps: losses."""
        problem = self.problem
        limits = problem.limits() if problem.limits else ()
        caps, _ = caps_of(limits, problem.objectives, signs)
        given = problem.reference() if problem.reference else None
        return (None if given is None else signs * np.asarray(given, dtype=np.float64)), caps
