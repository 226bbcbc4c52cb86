"""Driver: hands out the next piece of work, and takes what came of it into the records.

What it asks is a function of the rules and the records alone: no state of a process, no clock but
for the budget. So a search that was killed anywhere goes on as if nothing had happened, and every
engine - one process, many, a cluster, a replay - is a loop around `next` and `tell`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Final, Protocol

from ..evaluators.metric import StageCost
from ..spaces.configuration import Configuration, Scalar
from .budget import Budget, Spent, Tariff, spent, trainings_used
from .records import TRANSIENT, Ask, Purpose, Record, State
from .samplers.candidates import NothingLeft
from .samplers.fresh import fresh
from .seeds import seed_of
from .storage import Draft, StudyStorage

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import Trial

DRAWS: Final = 200
"""Draws for one trial before the space counts as used up."""

SAME_DRAWS: Final = 20
"""The same refused draw in a row: the sampler has nothing else to give, and chance takes over."""

ENDED: Final = ("final", "failed")

OUTSIDE: Final = "enqueued, but not in the space"
"""What speaks for good against a configuration that `suggest` cannot make."""


@dataclass(frozen=True)
class Wait:
    """Nothing can be asked until something that is under way comes back."""


@dataclass(frozen=True)
class Done:
    """Nothing will be asked any more, and why."""

    reason: str


class Source(Protocol):
    """What an engine works for: `Driver`, or `confirm.Confirmer`."""

    def next(self) -> Ask | Wait | Done:
        """The next piece of work."""
        ...

    def prior(self, ask: Ask) -> Record | None:
        """The record of the ask's trial so far, None for a trial without one."""
        ...

    def tell(self, record: Record) -> Record:
        """Takes in what came of an ask; returns the record as it was stored."""
        ...

    def beat(self) -> None:
        """Says that the engine lives; to be called every few seconds."""
        ...


def _no_words(configuration: Configuration) -> tuple[str, ...]:
    return ()


def _no_numbers(records: Sequence[Record]) -> tuple[int, ...]:
    return ()


def _no_values(record: Record) -> Mapping[str, float]:
    return {}


def _nothing_made(record: Record, rung: int) -> tuple[StageCost, ...]:
    return ()


def _no_parameters(configuration: Configuration) -> Mapping[str, Scalar]:
    return {}


@dataclass(frozen=True)
class Rules:
    """What the driver knows about a study: small pure functions and figures.

    Args:
        suggest: calls `trial.suggest_*` and returns the configuration that came out.
        make_sampler: a fresh sampler for one ask, from a number that is drawn for that ask.
        refuse: why a configuration may not become a trial; empty: it may.
        budget: what may be used.
        tariff: what an hour costs, for budgets of energy and money.
        seed: of the study; every ask carries it.
        baseline: trial 0; None: there is none.
        needs_baseline: some limit leans on the baseline: without it there is no search.
        initial: search trials that may be asked before the baseline has ended.
        enqueue: configurations to try first.
        parameters: the Optuna parameters of a configuration, for `enqueue`.
        rungs: number of fidelities.
        first_rung: where a configuration starts (the last rung where nothing trains).
        promote: numbers of the paused trials that go on, best first.
        finish: the same once nothing new is left to ask and there is time for more.
        trainings: names of the long trainings that a configuration rests on.
        violations: by limit, above 0 where a record breaks it.
        reference: the hypervolume's reference point from the baseline and the initial design.
        made: stages of a failed trial at the rung that it was asked at, as far as they are made.
        turn: held while a new configuration is looked for, which is heavy work: lets measurements
            have the host alone.
    """

    suggest: Callable[[Trial], Configuration]
    make_sampler: Callable[[int], BaseSampler]
    refuse: Callable[[Configuration], Sequence[str]] = _no_words
    budget: Budget = field(default_factory=Budget)
    tariff: Tariff = field(default_factory=Tariff)
    seed: int = 0
    baseline: Configuration | None = None
    needs_baseline: bool = False
    initial: int = 8
    enqueue: tuple[Configuration, ...] = ()
    parameters: Callable[[Configuration], Mapping[str, Scalar]] = _no_parameters
    rungs: int = 1
    first_rung: Callable[[Configuration], int] | None = None
    promote: Callable[[Sequence[Record]], Sequence[int]] = _no_numbers
    finish: Callable[[Sequence[Record]], Sequence[int]] = _no_numbers
    trainings: Callable[[Configuration], Sequence[str]] = _no_words
    violations: Callable[[Record], Mapping[str, float]] = _no_values
    reference: Callable[[Sequence[Record]], Mapping[str, float] | None] | None = None
    made: Callable[[Record, int], tuple[StageCost, ...]] = _nothing_made
    turn: Callable[[], AbstractContextManager[object]] = nullcontext


class Driver:
    """The search of one run.

    Args:
        storage: the run's records; what a dead driver had begun is completed here.
        rules: what is known about the study.
    """

    def __init__(self, storage: StudyStorage, rules: Rules) -> None:
        self._storage = storage
        self._rules = rules
        self._busy: set[int] = set()
        self._trainings: frozenset[str] = frozenset()
        self._digests: frozenset[str] = frozenset()
        self._used_up: tuple[tuple[int, int, frozenset[str]], Done] | None = None
        self._settle()
        storage.note("tariff", rules.tariff.to_json())
        self._learn()

    def next(self) -> Ask | Wait | Done:
        """The next piece of work.

        First what was under way when a driver died and what failed for a passing reason, then the
        baseline, then paused trials that go on, then configurations to try first, then new ones;
        when there is nothing new and the budget is of time, money or energy, all that is paused.
        """
        over = self._rules.budget.over(self.spent())
        if over is not None:
            return Done(over)
        promote = self._rules.promote
        record = self._unfinished() or self._begin_baseline() or self._promoted(promote)
        if record is not None:
            return self._hand_out(record)
        answer = self._closed() or self._found()
        if isinstance(answer, Record):
            return self._hand_out(answer)
        record = self._promoted(self._rules.finish) if self._has_time() else None
        if record is not None:
            return self._hand_out(record)
        return Wait() if self._busy else answer

    def prior(self, ask: Ask) -> Record | None:
        """The record of the ask's trial so far."""
        return self._storage.records[ask.number]

    def tell(self, record: Record) -> Record:
        """Takes in what came of an ask, and decides what becomes of the trial."""
        before = self._storage.records[record.number]
        self._busy.remove(record.number)
        record = replace(record, attempts=before.attempts, purpose=before.purpose)
        if record.failure is not None:
            made = self._rules.made(record, self._next_rung(before))
            told = {stage.key for stage in record.stages}
            more = tuple(stage for stage in made if stage.key not in told)
            record = replace(record, stages=(*record.stages, *more))
        state = self._state_of(record)
        record = record.with_state(state)
        if state == "queued":
            record = replace(record, attempts=before.attempts + 1)
        self._storage.update(record)
        self._settle()
        self._learn()
        self._freeze_reference()
        self._storage.beat()
        return record

    def beat(self) -> None:
        """Says that the driver lives."""
        self._storage.beat()

    def spent(self) -> Spent:
        """What has been used of the budget, by all drivers of this run."""
        records, seconds = self._storage.records.values(), self._storage.spent_seconds()
        repeats = chain.from_iterable(self._storage.confirmations.values())
        return spent(records, seconds, len(self._trainings), self._rules.tariff, repeats)

    def objections(self, configuration: Configuration) -> list[str]:
        """Why a configuration may not become a trial now; empty: it may."""
        if configuration.digest in self._digests:
            return ["asked before"]
        limit = self._rules.budget.trainings
        if limit is not None:
            new = set(self._rules.trainings(configuration)) - self._trainings
            if new and len(self._trainings) + len(new) > limit:
                return [f"needs a new training, and the budget's {limit} are used"]
        return list(self._rules.refuse(configuration))

    def admits(self, configuration: Configuration) -> bool:
        """A configuration may become a trial now."""
        return not self.objections(configuration)

    def end(self) -> None:
        """Ends the study: paused trials will not go on, and Optuna is told so.

        A search that was shorter than its initial design fixes its reference point now.
        """
        self._freeze_reference(ended=True)
        self._settle(ended=True)
        for number, record in sorted(self._storage.records.items()):
            if record.state == "paused" and self._storage.going_on(number):
                self._storage.retire(number)

    def _settle(self, ended: bool = False) -> None:
        """Tells Optuna of trials that have ended, once the baseline has.

        Nothing can be added to a told trial, and a limit that leans on the baseline is open until
        its figures are there.

        Args:
            ended: nothing more will come; all are told.
        """
        baseline = self._baseline()
        if baseline is None or baseline.state in ENDED or ended:
            for record in self._storage.unsettled():
                self._storage.finish(record, self._rules.violations(record))

    def _unfinished(self) -> Record | None:
        """Trials that a dead driver left under way keep their number; so does a second attempt."""
        for number, record in sorted(self._storage.records.items()):
            if record.state in ("running", "queued") and number not in self._busy:
                return record
        return None

    def _begin_baseline(self) -> Record | None:
        if self._rules.baseline is None or self._storage.records:
            return None
        record = self._new_record(0, self._rules.baseline, "baseline")
        self._storage.add(record)
        return record

    def _has_time(self) -> bool:
        """The space is used up, and what bounds the search is not only how many may be asked."""
        budget = self._rules.budget
        bounded = any(limit is not None for limit in (budget.minutes, budget.kwh, budget.money))
        return bounded and self._closed() is None

    def _promoted(self, order: Callable[[Sequence[Record]], Sequence[int]]) -> Record | None:
        paused = {
            number
            for number, record in self._storage.records.items()
            if record.state == "paused" and self._storage.going_on(number)
        }
        if not paused:
            return None
        for number in order(self._history()):
            if number in paused:
                return self._storage.records[number]
        return None

    def _closed(self) -> Done | None:
        """Why no new trial may begin now."""
        full = self._rules.budget.full(self.spent())
        if full is not None:
            return Done(full)
        baseline = self._baseline()
        if baseline is None:
            return None
        if baseline.state == "failed" and self._rules.needs_baseline:
            assert baseline.failure is not None
            return Done(
                f"the baseline failed ({baseline.failure.kind}) and the limits lean on it: "
                f"{baseline.failure.last_words}"
            )
        begun = len(self._storage.records) - 1
        if baseline.state not in ENDED and begun >= self._rules.initial:
            return Done("the baseline has not ended")
        return None

    def _found(self) -> Record | Done:
        """A new configuration; that there is none is remembered while the records are the same."""
        figures = sum(len(record.rungs) for record in self._storage.records.values())
        state = len(self._storage.records), figures, self._trainings
        if self._used_up is not None and self._used_up[0] == state:
            return self._used_up[1]
        with self._rules.turn():
            found = self._wanted() or self._drawn()
        if isinstance(found, Done):
            self._used_up = state, found
        return found

    def _wanted(self) -> Record | None:
        """The next of the configurations to try first that may become a trial now.

        They are judged anew at every ask, as the budget and the limits allow more or less; what
        speaks against one is counted when it is first said.
        """
        told = dict(self._storage.notes.get("enqueued", {}))
        for known in self._rules.enqueue:
            if known.digest in self._digests or told.get(known.digest) == [OUTSIDE]:
                continue
            objections = self.objections(known)
            if not objections:
                draft = self._draw(0, known)
                if draft.configuration.digest == known.digest:
                    return self._admitted(draft)
                self._storage.discard(draft)
                objections = [OUTSIDE]
            if told.get(known.digest) != objections:
                told[known.digest] = objections
                self._note_refused(Counter(objections))
                self._storage.note("enqueued", dict(told))
        return None

    def _admitted(self, draft: Draft) -> Record:
        record = self._new_record(draft.number, draft.configuration, "search")
        self._storage.admit(record)
        return record

    def _drawn(self) -> Record | Done:
        refused: Counter[str] = Counter()
        last, repeats, stuck = "", 0, False
        for attempt in range(DRAWS):
            try:
                draft = self._draw(attempt, even=stuck)
            except NothingLeft as error:
                self._note_refused(refused)
                return Done(str(error))
            objections = self.objections(draft.configuration)
            if not objections:
                self._note_refused(refused)
                return self._admitted(draft)
            self._storage.discard(draft)
            refused.update(objections)
            digest = draft.configuration.digest
            last, repeats = digest, repeats + 1 if digest == last else 0
            if repeats >= SAME_DRAWS:
                if stuck:
                    break
                stuck, repeats = True, 0
        self._note_refused(refused)
        reasons = ", ".join(f"{reason} ({n})" for reason, n in refused.most_common(3))
        return Done(f"no further configuration was found: {reasons}")

    def _draw(
        self, attempt: int, known: Configuration | None = None, *, even: bool = False
    ) -> Draft:
        number = len(self._storage.records)
        seed = seed_of(self._rules.seed, number, attempt)
        sampler = fresh("random", seed) if even else self._rules.make_sampler(seed)
        parameters = None if known is None else self._rules.parameters(known)
        return self._storage.draw(self._rules.suggest, sampler, parameters)

    def _note_refused(self, refused: Counter[str]) -> None:
        if refused:
            before = Counter(self._storage.notes.get("refused", {}))
            self._storage.note("refused", dict(before + refused))

    def _new_record(self, number: int, configuration: Configuration, purpose: Purpose) -> Record:
        return Record(number, configuration, "running", self._rules.seed, purpose)

    def _hand_out(self, record: Record) -> Ask:
        if record.state != "running":
            record = replace(record, state="running", failure=None)
            self._storage.update(record)
        self._busy.add(record.number)
        self._learn()
        return Ask(
            number=record.number,
            configuration=record.configuration,
            rung=self._next_rung(record),
            seed=record.seed,
            purpose=record.purpose,
            attempt=record.attempts - 1,
        )

    def _next_rung(self, record: Record) -> int:
        if record.rungs:
            return record.rungs[-1].rung + 1
        if record.purpose == "baseline" or self._rules.first_rung is None:
            return self._rules.rungs - 1 if record.purpose == "baseline" else 0
        return self._rules.first_rung(record.configuration)

    def _state_of(self, record: Record) -> State:
        if record.failure is not None:
            again = record.failure.kind in TRANSIENT and record.attempts == 1
            return "queued" if again else "failed"
        return "final" if record.rungs[-1].rung >= self._rules.rungs - 1 else "paused"

    def _learn(self) -> None:
        """What every objection is judged by, once per change of the records."""
        records = self._storage.records.values()
        self._digests = frozenset(r.configuration.digest for r in records if r.purpose == "search")
        self._trainings = trainings_used(records, self._rules.trainings)

    def _baseline(self) -> Record | None:
        first = self._storage.records.get(0)
        return first if first is not None and first.purpose == "baseline" else None

    def _history(self) -> list[Record]:
        return [record for _, record in sorted(self._storage.records.items())]

    def _freeze_reference(self, ended: bool = False) -> None:
        """Fixes the reference point once the baseline and the initial design have ended.

        Args:
            ended: nothing more will come; what there is decides.
        """
        if self._rules.reference is None or "reference" in self._storage.notes:
            return
        wanted = self._rules.initial + (0 if self._rules.baseline is None else 1)
        first = self._history()[:wanted]
        settled = all(record.state in (*ENDED, "paused") for record in first)
        if ended or (len(first) == wanted and settled):
            reference = self._rules.reference(first)
            if reference is not None:
                self._storage.note("reference", dict(reference))
