"""Confirmation: near-ties repeated, then the finished front seen once on the test split.

Points whose place is not settled are made again under further seeds first and judged on validation,
as many as `confirm.near_ties` allows: the front and the recommended point rest on their means.
Test figures are taken once, for the front that the validation split decided, never to decide it.
The baseline and the front are judged under the study's own seed, so that all answer the same items.
Then the point that is recommended, of those that keep the limits there too, is made anew under
further seeds: a lucky seed shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from .driver import Done, Wait
from .front import Front
from .pareto import Array, contributions, just_beyond, non_dominated
from .pooled import seeds_of, seeds_stderr
from .records import TRANSIENT, Ask, Purpose, Record, State
from .run import read_run
from .select import current_front, first_choice, recommend, recommendation, repeated
from .storage import StudyStorage

if TYPE_CHECKING:
    from .rules import Knowledge


SETTLED: Final = 0.05
"""A probability as near as this to 0 or 1 is settled."""


class Confirmer:
    """Repeats of trials at full fidelity, kept beside the trials.

    Args:
        storage: the run's records.
        wanted: (trial, seed) pairs; those already stored are not made again.
        rung: the last.
        further: more pairs, asked for whenever all of the wanted are stored, until it names none
            that is not.
        purpose: `confirm`, or `repeat` on the validation split.
    """

    def __init__(
        self,
        storage: StudyStorage,
        wanted: Sequence[tuple[int, int]],
        rung: int,
        further: Callable[[], Sequence[tuple[int, int]]] = tuple,
        purpose: Purpose = "confirm",
    ) -> None:
        self.wanted = tuple(wanted)
        self._further = further
        self._purpose = purpose
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
            return Ask(number, trial.configuration, self._rung, seed, self._purpose, attempt)
        if self._busy:
            return Wait()
        further = [pair for pair in self._further() if not self._made(*pair)]
        if not further:
            return Done("the front is confirmed")
        self.wanted = tuple(further)
        return self.next()

    def prior(self, ask: Ask) -> Record | None:
        """A repeat starts from nothing but its ask."""
        return Record(ask.number, ask.configuration, "running", ask.seed, self._purpose)

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
        made = self._storage.confirmations.get(number, ())
        return any((r.seed, r.purpose) == (seed, self._purpose) for r in made)


def near_tie(knowledge: Knowledge) -> list[tuple[int, int]]:
    """The one repeat that settles most now: (trial, a further seed); empty: none, or none is left.

    Of k seeds' mean a further one takes 1 / k - 1 / (k + 1) of the seeds' variance, from the share
    of all doubt that rests on the trial. The baseline is not repeated: limits lean on it. Nor is a
    trial that is surely beaten, or one that its repeats show no seed to change.
    """
    study, storage = knowledge.study, knowledge.storage
    made = {number: len(repeated(storage, number)) for number in storage.records}
    if sum(made.values()) >= study.confirm.near_ties:
        return []
    front = current_front(knowledge)
    rests = _doubt(front)
    worth = {
        r.number: rests[i] / ((made[r.number] + 1) * (made[r.number] + 2))
        for i, r in enumerate(front.judged)
        if r.purpose == "search"
        and front.probability[r.number] > SETTLED
        and rests[i] > 0
        and not _unchanged(r)
    }
    if not worth:
        return []
    number = min(worth, key=lambda number: (-worth[number], number))
    return [(number, study.seed + 1 + made[number])]


def _doubt(front: Front) -> Array:
    """How much of what is not settled rests on the error of each judged trial, `(n,)`.

    What may be open: whether a trial is on the front, and whether it is the recommended one. Of
    each that is, the variance that a row's redrawn errors explain linearly; 0 where none is.
    """
    n, m = front.losses.shape
    if not n:
        return np.zeros(0)
    drawn = np.array(list(front.redrawn()))
    on = np.array([non_dominated(losses) for losses in drawn], dtype=np.float64)
    first = np.eye(n)[[first_choice(front, losses) for losses in drawn]]
    outcomes = np.hstack([on, first])
    share = outcomes.mean(axis=0)
    outcomes = (outcomes - share)[:, share * (1.0 - share) > SETTLED * (1.0 - SETTLED)]
    noise = (drawn - front.losses).reshape(len(drawn), n * m)
    noise -= noise.mean(axis=0)
    variance = (noise**2).mean(axis=0)
    together = noise.T @ outcomes / len(drawn)
    explained = (together**2).sum(axis=1) / np.where(variance > 0, variance, 1.0)
    return np.asarray(explained.reshape(n, m).sum(axis=1))


def _unchanged(record: Record) -> bool:
    """Whether a pooled trial answered alike under every seed."""
    several = [figure for figure in record.measurements.values() if seeds_of(figure) > 1]
    return bool(several) and not any(seeds_stderr(figure) for figure in several)


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
