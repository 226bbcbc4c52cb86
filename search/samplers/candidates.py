"""Candidates: draws that are legal on paper, with their numbers; the pool that is searched.

The random part of a pool stays for ten asks and is remembered, the part around the front is drawn
for each ask. Both are functions of the seed and the history alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution

from ...errors import ParetuneError
from ...spaces.paper import Paper
from ...spaces.paper_features import paper_features
from .cost import Job, Ledger
from .encoding import FAMILY, Knobs, Scaling, flat
from .observations import Observation
from .pool import Anew, Choose, Draw, crossed, draw, mutated, regrouped, structured, uniform
from .problem import Memory, Problem
from .surrogate import Lengths

Array = NDArray[np.float64]

SAMPLE = 400
"""Draws that fix the scale of the features."""

BLOCK_LIFE = 10
"""Asks for which the random part of the pool stays."""

BUYING = 4
"""One trial in so many of the initial design makes something new, the others are its siblings."""

DEARER = 1.5
"""What the initial design buys costs at most so many times what the cheapest new thing does."""

NOTHING = Job((), "", 0)
"""What is not known to take anything."""


class NothingLeft(ParetuneError):
    """Every configuration that space, limits and budget allow has been asked."""


@dataclass(frozen=True)
class Candidate:
    """A draw that may be asked.

    Args:
        paper: what it is, None in a study without papers.
        known: losses known exactly on paper, by objective, in the metric's own direction.
        raw: its features before scaling.
        job: what it takes; empty in a study that does not say.
    """

    drawn: Draw
    paper: Paper | None
    known: Mapping[int, float]
    raw: tuple[float, ...]
    job: Job = NOTHING


@dataclass(frozen=True)
class Basis:
    """What a fixed sample of the space says about it."""

    knobs: Knobs
    scaling: Scaling
    distributions: Mapping[str, BaseDistribution]


class Candidates:
    """Draws, looks at them on paper, remembers.

    Args:
        problem: what may be known.
        seed: of the random part of the pool, where the problem has none.
    """

    def __init__(self, problem: Problem, seed: int = 0) -> None:
        self._problem = problem
        self._seed = seed if problem.seed is None else problem.seed
        self.memory = Memory() if problem.memory is None else problem.memory
        self._anew = structured if problem.structured else uniform
        # Without papers x0, x1, ... may be anything, not layers.
        self._each = 8 if problem.paper else 2

    @property
    def basis(self) -> Basis:
        """How features are numbered and scaled: a property of the space, whatever the seed."""
        return self.memory.recall("basis", self._basis)

    def _basis(self) -> Basis:
        rng = np.random.default_rng(0)
        rules = _random_rules(SAMPLE, rng, self._anew, self._each)
        draws = [draw(self._problem.suggest, rule) for rule in rules]
        papers = [self._paper(d) for d in draws]
        legal = [(d, paper) for d, (ok, paper) in zip(draws, papers, strict=True) if ok]
        if not legal:
            raise NothingLeft(f"none of {SAMPLE} random configurations is legal; widen the space")
        family = FAMILY if self._problem.paper else np.inf
        numbering = Knobs.of([flat(d) for d, _ in legal], family)
        rows = np.array([self._raw(d, paper, numbering) for d, paper in legal])
        lengths = self._lengths(rows.shape[1], numbering)
        found = {name: dist for d in draws for name, dist in d.distributions.items()}
        return Basis(numbering, Scaling.of(rows, lengths), found)

    def scaled(self, candidates: Sequence[Candidate]) -> Array:
        """Standardised features, `(n, k)`."""
        width = len(self.basis.scaling.keep)
        rows = np.array([candidate.raw for candidate in candidates])
        return self.basis.scaling(rows) if len(rows) else np.zeros((0, width))

    @property
    def top_rung(self) -> int:
        """Index of full fidelity; 0 where the history has no rungs."""
        return len(self._problem.rungs) - 1 if self._problem.history else 0

    def looked(self, trials: Sequence[Observation]) -> list[Candidate]:
        """Trials with their numbers, legal or not: a trial that ran is a fact."""
        return [self._look(trial.drawn)[1] for trial in trials]

    def _look(self, drawn: Draw) -> tuple[bool, Candidate]:
        return self.memory.recall(("draw", drawn.key), lambda: self._first_look(drawn))

    def _first_look(self, drawn: Draw) -> tuple[bool, Candidate]:
        legal, paper = self._paper(drawn)
        known = {} if paper is None else {j: f(paper) for j, f in self._problem.known.items()}
        raw = tuple(map(float, self._raw(drawn, paper, self.basis.knobs)))
        return legal, Candidate(drawn, paper, known, raw, self._job(drawn) if legal else NOTHING)

    def _job(self, drawn: Draw) -> Job:
        problem, configuration = self._problem, drawn.configuration
        if problem.job is None or configuration is None:
            return NOTHING
        return problem.job(configuration, None) or NOTHING

    def stratified(
        self,
        asked_before: Sequence[Observation],
        initial: int,
        asked: frozenset[Hashable],
        rng: np.random.Generator,
        ledger: Ledger | None = None,
    ) -> Candidate:
        """The next of the initial design: even over the quantiles of what is known on paper.

        Each stratum holds as many candidates of the pool; the emptiest one is served, by the one
        of a few candidates that lies farthest from what was asked before. With a ledger, only what
        is within its means takes part.
        """
        pool = self._open(self.sample(), asked)
        if len(pool) < initial:
            seen = [trial.drawn.params for trial in asked_before]
            pool = self.pool(SAMPLE, 0, [], seen, asked, rng)
        order = self._ordering(pool)
        edges = np.quantile(order, np.linspace(0, 1, initial + 1)[1:-1])
        before = self.looked(asked_before)
        if ledger is not None:
            pool = self._within_means(pool, asked_before, asked, ledger, rng)
            order = self._ordering(pool)
        taken = np.bincount(np.searchsorted(edges, self._ordering(before)), minlength=initial)
        turns = np.random.default_rng(2).permutation(initial)
        places = np.searchsorted(edges, order)
        filled = [s for s in turns if (places == s).any()]
        stratum = min(filled, key=lambda s: int(taken[s]))
        few = rng.permutation(np.flatnonzero(places == stratum))[:8]
        if not before:
            return pool[int(few[0])]
        gaps = self.scaled([pool[i] for i in few])[:, None] - self.scaled(before)[None]
        return pool[int(few[np.argmax((gaps**2).sum(axis=2).min(axis=1))])]

    def _within_means(
        self,
        pool: Sequence[Candidate],
        asked_before: Sequence[Observation],
        asked: frozenset[Hashable],
        ledger: Ledger,
        rng: np.random.Generator,
    ) -> list[Candidate]:
        """Siblings of what was made; every few trials instead the cheapest of what is new.

        New is what takes longer to make than any trial takes. None is bought that takes longer
        than all of the study so far, unless there is nothing else.
        """
        seen = [trial.drawn.params for trial in asked_before]
        rules = _siblings(seen, SAMPLE, rng, self._anew) if seen else ()
        near = self._open(self._drawn(rules), asked)
        found = list({candidate.drawn.key: candidate for candidate in [*pool, *near]}.values())
        making = np.array([ledger.making(candidate.job) for candidate in found])
        new = np.array([ledger.is_dear(candidate.job) for candidate in found], dtype=bool)
        cheapest = making[new].min(initial=np.inf)
        buys = len(asked_before) % BUYING == 1 and cheapest <= ledger.spent
        if buys or new.all():
            most = DEARER * cheapest
            wanted = new & (making <= (min(most, ledger.spent) if buys else most))
        else:
            wanted = ~new
        return [candidate for candidate, is_wanted in zip(found, wanted, strict=True) if is_wanted]

    def sample(self) -> list[Candidate]:
        """A fixed sample of the space: what the initial design is taken from."""
        return self._random(SAMPLE * 2, 0)

    def pool(
        self,
        size: int,
        turn: int,
        parents: Sequence[Mapping[str, Any]],
        seen: Sequence[Mapping[str, Any]],
        asked: frozenset[Hashable],
        rng: np.random.Generator,
    ) -> list[Candidate]:
        """Candidates for one ask: random ones, ones around the parents, and siblings.

        A sibling takes whole groups of knobs from a trial that was made: what that trial was
        trained for then costs nothing, and a budget of trainings admits it.

        Raises:
            NothingLeft: none is legal, admitted and new.
        """
        random = self._random(size * 7 // 10, 1 + turn // BLOCK_LIFE)
        near = self.varied(parents, size // 10, asked, rng) if parents else []
        if seen and (self._problem.admits is not None or self._problem.weighs):
            near += self._drawn(_siblings(seen, size // 5, rng, self._anew))
        found = {candidate.drawn.key: candidate for candidate in [*random, *near]}
        pool = self._open(found.values(), asked)
        if not pool:
            rules = _random_rules(4 * size, rng, self._anew, self._each)
            pool = self._open(self._drawn(rules), asked)
        if not pool:
            raise NothingLeft(
                f"none of {4 * size} further draws is legal, within the limits and the budget, and "
                f"new ({len(asked)} were asked); widen the space or the limits, or stop here"
            )
        return pool

    def varied(
        self,
        parents: Sequence[Mapping[str, Any]],
        count: int,
        asked: frozenset[Hashable],
        rng: np.random.Generator,
    ) -> list[Candidate]:
        """Children of parents: two in three changed, one in three crossed."""
        return self._open(self._drawn(_children(parents, count, rng, self._anew)), asked)

    def _random(self, size: int, index: int) -> list[Candidate]:
        rng = np.random.default_rng([1, self._seed, index])
        rules = _random_rules(size, rng, self._anew, self._each)
        name = ("block", size, self._seed, index)
        return self.memory.recall(name, lambda: self._drawn(rules))

    def _drawn(self, rules: Iterable[Choose]) -> list[Candidate]:
        """Draws that are legal, each once."""
        looks = [self._look(draw(self._problem.suggest, rule)) for rule in rules]
        return list({c.drawn.key: c for legal, c in looks if legal}.values())

    def _open(self, candidates: Iterable[Candidate], asked: frozenset[Hashable]) -> list[Candidate]:
        """Those that are new, within the known limits and within the budget."""
        problem = self._problem
        return [
            candidate
            for candidate in candidates
            if candidate.drawn.key not in asked
            and (problem.fits is None or candidate.paper is None or problem.fits(candidate.paper))
            and _admitted(problem, candidate)
        ]

    def _paper(self, drawn: Draw) -> tuple[bool, Paper | None]:
        """Whether it is legal, and its paper."""
        if self._problem.paper is None or drawn.configuration is None:
            return True, None
        paper = self._problem.paper(drawn.configuration)
        return paper is not None, paper

    def _raw(self, drawn: Draw, paper: Paper | None, numbering: Knobs) -> Array:
        problem = self._problem
        if paper is None or drawn.configuration is None:
            return np.array(numbering.encode(flat(drawn)))
        told = [_signed_log(f(paper)) for f in problem.known.values()]
        if problem.features is not None:
            return np.array([*problem.features(drawn.configuration, paper), *told])
        seen = paper_features(drawn.configuration, paper)
        return np.array([*seen, *told, *numbering.encode(flat(drawn))])

    def _lengths(self, width: int, numbering: Knobs) -> Lengths:
        """The length scales of the numbers of `_raw`."""
        if self._problem.features is not None:
            return Lengths.each(width)
        own = numbering.lengths()
        return Lengths.each(width - len(own.of)) + own

    def _ordering(self, candidates: Sequence[Candidate]) -> Array:
        """What strata are taken over: the first known objective, else the first feature."""
        if self._problem.known:
            first = min(self._problem.known)
            return np.array([candidate.known[first] for candidate in candidates])
        return np.asarray(self.scaled(candidates)[:, :1].sum(axis=1))


def _admitted(problem: Problem, candidate: Candidate) -> bool:
    configuration = candidate.drawn.configuration
    return problem.admits is None or configuration is None or problem.admits(configuration)


def _random_rules(count: int, rng: np.random.Generator, anew: Anew, each: int) -> Iterable[Choose]:
    """By a rule, but for one of each so many, which is even."""
    for i in range(count):
        yield anew(rng) if i % each else uniform(rng)


def _children(
    parents: Sequence[Mapping[str, Any]], count: int, rng: np.random.Generator, anew: Anew
) -> Iterable[Choose]:
    for i in range(count):
        first, second = rng.integers(len(parents), size=2)
        if i % 3 == 0 and first != second:
            yield crossed(parents[first], parents[second], rng, anew)
        else:
            yield mutated(parents[first], rng, anew=anew)


def _siblings(
    seen: Sequence[Mapping[str, Any]], count: int, rng: np.random.Generator, anew: Anew
) -> Iterable[Choose]:
    for _ in range(count):
        yield regrouped(seen[int(rng.integers(len(seen)))], rng, anew)


def _signed_log(value: float) -> float:
    return float(np.sign(value) * np.log1p(abs(value)))
