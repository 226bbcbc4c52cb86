"""Confirmation: the finished front seen once on the test split, and again under new seeds.

Test figures are taken once, for the front that the validation split decided, never to decide it.
The baseline and the front are judged under the study's own seed, so that all answer the same items.
Then the point that is recommended, of those that keep the limits there too, is made anew under
further seeds: a lucky seed shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .driver import Done, Wait
from .pareto import contributions, just_beyond
from .records import TRANSIENT, Ask, Record, State
from .run import read_run
from .select import current_front, recommend, recommendation
from .storage import StudyStorage

if TYPE_CHECKING:
    from .rules import Knowledge


class Confirmer:
    """Repeats of trials at full fidelity, kept beside the trials.

    Args:
        storage: the run's records.
        wanted: (trial, seed) pairs; those already stored are not made again.
        rung: the last.
        further: more pairs, asked once all of the wanted are stored.
    """

    def __init__(
        self,
        storage: StudyStorage,
        wanted: Sequence[tuple[int, int]],
        rung: int,
        further: Callable[[], Sequence[tuple[int, int]]] = tuple,
    ) -> None:
        self.wanted = tuple(wanted)
        self._further: Callable[[], Sequence[tuple[int, int]]] | None = further
        self._storage = storage
        self._rung = rung
        self._busy: set[tuple[int, int]] = set()
        self._attempts: Counter[tuple[int, int]] = Counter()

    def next(self) -> Ask | Wait | Done:
        """The next repeat that is not stored yet."""
        for number, seed in self.wanted:
            if (number, seed) in self._busy or self._made(number, seed):
                continue
            self._busy.add((number, seed))
            trial, attempt = self._storage.records[number], self._attempts[number, seed]
            return Ask(number, trial.configuration, self._rung, seed, "confirm", attempt)
        if self._busy:
            return Wait()
        if self._further is None:
            return Done("the front is confirmed")
        self.wanted, self._further = (*self.wanted, *self._further()), None
        return self.next()

    def prior(self, ask: Ask) -> Record | None:
        """A repeat starts from nothing but its ask."""
        return Record(ask.number, ask.configuration, "running", ask.seed, "confirm")

    def tell(self, record: Record) -> Record:
        """Stores a repeat; one that failed for a passing reason is made once more."""
        which = (record.number, record.seed)
        self._busy.remove(which)
        kind = record.failure.kind if record.failure else None
        if kind in TRANSIENT and not self._attempts[which]:
            self._attempts[which] += 1
            return record.with_state("queued")
        state: State = "failed" if kind else "final"
        record = replace(record, state=state, attempts=self._attempts[which] + 1)
        self._storage.confirm(record)
        self._storage.beat()
        return record

    def beat(self) -> None:
        """Says that the driver lives."""
        self._storage.beat()

    def _made(self, number: int, seed: int) -> bool:
        return any(r.seed == seed for r in self._storage.confirmations.get(number, ()))


def confirmations(knowledge: Knowledge) -> list[tuple[int, int]]:
    """What is to be seen on the test split: (trial, the study's seed).

    The baseline, and the front of final trials that keep every limit.
    """
    study, front = knowledge.study, current_front(knowledge)
    if not any(record.purpose == "search" for record in front.judged):
        return []
    rows = [i for i, on in enumerate(front.on) if on]
    if len(rows) > study.confirm.points:
        worth = contributions(front.losses[rows], just_beyond(front.losses[rows]))
        rows = [rows[i] for i in np.argsort(-worth, kind="stable")[: study.confirm.points]]
    chosen = recommend(knowledge)
    final = [r for r in knowledge.storage.records.values() if r.state == "final"]
    baseline = [record.number for record in final if record.purpose == "baseline"]
    numbers = dict.fromkeys([*baseline, chosen, *(front.judged[i].number for i in rows)])
    return [(number, study.seed) for number in numbers]


def further_seeds(knowledge: Knowledge) -> list[tuple[int, int]]:
    """The point that is recommended now, under each of `confirm.seeds` further seeds."""
    study = knowledge.study
    chosen, _ = recommendation(read_run(knowledge.storage.folder))
    if chosen is None:
        return []
    return [(chosen.number, study.seed + 1 + i) for i in range(study.confirm.seeds)]
