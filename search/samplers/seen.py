"""The space that a study's own trials show: a `suggest` for studies that hand over none.

What every trial asked for is asked always. Where trials asked for different parameters, the answer
that tells them apart best decides what comes next, and again within each branch: a decision tree.
What no answer tells, and where an answer leads that nobody gave yet, is left open: the study's
objective asks for it, and it is drawn by itself.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class SeenSpace:
    """A `suggest`: asks a trial for what trials with such answers asked for.

    Args:
        asks: names with the distributions they had last, in the order of the first trial.
        fork: what decides what else is asked, None where nothing does.
    """

    asks: tuple[tuple[str, BaseDistribution], ...]
    fork: Fork | None = None

    def __call__(self, trial: Any) -> dict[str, Any]:
        """The parameters of a trial, or of a recorder."""
        answers: dict[str, Any] = {}
        part: SeenSpace | None = self
        while part is not None:
            answers.update({name: _ask(trial, name, kind) for name, kind in part.asks})
            fork = part.fork
            part = None if fork is None else fork.branch(answers[fork.name])
        return answers


@dataclass(frozen=True)
class Fork:
    """Branches by one answer.

    Args:
        choices: answers that are names, one a branch; empty where answers are numbers.
        cuts: numbers that part the branches, ascending.
    """

    name: str
    choices: tuple[Any, ...]
    cuts: tuple[float, ...]
    branches: tuple[SeenSpace, ...]

    def branch(self, answer: Any) -> SeenSpace | None:
        """Where an answer leads, None where no trial gave it."""
        if not self.choices:
            return self.branches[bisect(self.cuts, answer)]
        place = _place(self.choices, answer)
        return None if place is None else self.branches[place]


def seen_space(trials: Iterable[FrozenTrial]) -> SeenSpace | None:
    """The space that finished trials show, None while none asked for anything.

    Args:
        trials: complete ones, in the order of their numbers: each asked for all it needs.
    """
    rows = [trial for trial in trials if trial.params]
    return _grown(rows, frozenset()) if rows else None


def _grown(rows: Sequence[FrozenTrial], asked: frozenset[str]) -> SeenSpace:
    kinds = [frozenset(row.params) for row in rows]
    shared = frozenset.intersection(*set(kinds))
    latest = {name: kind for row in rows for name, kind in row.distributions.items()}
    common = [name for name in rows[0].params if name in shared]
    asks = tuple((name, latest[name]) for name in common if name not in asked)
    if len(set(kinds)) == 1:
        return SeenSpace(asks)
    parts = [(name, *_parted(rows, kinds, name, latest[name])) for name in common]
    ways = [part for part in parts if len(part[2]) > 1]
    if not ways:
        return SeenSpace(asks)
    name, marks, groups = min(ways, key=lambda part: _price(part[2], kinds))
    # A tree that costs as much as its trials' surprises has learnt nothing.
    if _price(groups, kinds) >= _price([range(len(rows))], kinds):
        return SeenSpace(asks)
    branches = tuple(_grown([rows[i] for i in group], asked | shared) for group in groups)
    if isinstance(latest[name], CategoricalDistribution):
        return SeenSpace(asks, Fork(name, tuple(marks), (), branches))
    cuts = tuple((low + high) / 2 for (_, low), (high, _) in pairwise(marks))
    return SeenSpace(asks, Fork(name, (), cuts, branches))


def _parted(
    rows: Sequence[FrozenTrial],
    kinds: Sequence[frozenset[str]],
    name: str,
    distribution: BaseDistribution,
) -> tuple[list[Any], list[list[int]]]:
    """Rows grouped by one answer, and what marks each group: its name, or its lowest and highest.

    Numbers that lie side by side and lead to the same are one group.
    """
    if isinstance(distribution, CategoricalDistribution):
        marks, groups = list[Any](), list[list[int]]()
        for i, row in enumerate(rows):
            place = _place(marks, row.params[name])
            if place is None:
                marks.append(row.params[name])
                groups.append([i])
            else:
                groups[place].append(i)
        return marks, groups
    by_value: dict[float, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        by_value[row.params[name]].append(i)
    runs = [
        list(run)
        for _, run in groupby(sorted(by_value), key=lambda value: _most(by_value[value], kinds)[0])
    ]
    return (
        [(run[0], run[-1]) for run in runs],
        [[i for value in run for i in by_value[value]] for run in runs],
    )


def _price(groups: Sequence[Sequence[int]], kinds: Sequence[frozenset[str]]) -> int:
    """One for each group, and one for each row that is unlike most of its group."""
    return sum(1 + len(group) - _most(group, kinds)[1] for group in groups)


def _most(group: Sequence[int], kinds: Sequence[frozenset[str]]) -> tuple[frozenset[str], int]:
    return Counter(kinds[i] for i in group).most_common(1)[0]


def _place(known: Sequence[Any], answer: Any) -> int | None:
    """Where an answer stands: True is not 1, and answers need not be hashable."""
    for place, one in enumerate(known):
        if type(one) is type(answer) and (one == answer or one is answer):
            return place
    return None


def _ask(trial: Any, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, FloatDistribution):
        low, high, step = distribution.low, distribution.high, distribution.step
        return trial.suggest_float(name, low, high, step=step, log=distribution.log)
    if isinstance(distribution, IntDistribution):
        first, last, by = distribution.low, distribution.high, distribution.step
        return trial.suggest_int(name, first, last, step=by, log=distribution.log)
    raise TypeError(f"no rule for {type(distribution).__name__}")
