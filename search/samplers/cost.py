"""Cost: how many seconds a configuration will take, given what this study has made already.

Trials share stages: the first configuration on a training pays for it, its siblings do not. What is
made is read from the history alone, and so are the seconds that work of a kind takes here; a pure
function of both. Not for a quote or a budget: only what candidates cost against each other matters.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Final, NamedTuple

from ...spaces.configuration import Configuration
from ..records import Record

FLOPS_A_SECOND: Final = 2e10
"""Of training, before this study has trained anything: one core of a server."""

JUDGING_SECONDS: Final = 5.0
"""Of one trial, before this study has judged any: the middle of what the quote reckons with."""


ASKING_SECONDS: Final = 1.0
"""Of the search itself for one trial: nothing is cheaper than that."""


class Piece(NamedTuple):
    """A piece of work whose result is kept for whoever needs it.

    Args:
        name: equal for pieces of which the store makes one.
        kind: pieces of a kind take seconds in proportion to their size.
        size: FLOPs, above 0.
    """

    name: str
    kind: str
    size: float


@dataclass(frozen=True)
class Job:
    """What a configuration takes at one rung, on paper.

    Args:
        pieces: in the order in which they are made; an artifact and its judging are not among them.
        runtime, rung: judging of the same two takes about the same time.
        session: a name for the timing session, equal for those who share one; None: none is taken.
    """

    pieces: tuple[Piece, ...]
    runtime: str
    rung: int
    session: Hashable | None = None


JobOf = Callable[[Configuration, int | None], Job | None]
"""What a configuration takes at a rung, None: the first that it is asked at; None: illegal."""


class _Judged(NamedTuple):
    """Seconds of a trial at one rung beside its pieces; whether a timing session was among them."""

    runtime: str
    rung: int
    timed: bool
    seconds: float


@dataclass
class Ledger:
    """What was made in a study, and what it took; not to be added to once it was asked.

    Args:
        made: names of pieces and timing sessions, those under way among them; of failed trials what
            their records name.
        taken: seconds and size of every piece that was seen, by kind and name.
        judged: one entry per trial and rung.
        spent: seconds of all trials so far.
        trial_seconds: as in `Problem`.
    """

    made: set[Hashable] = field(default_factory=set)
    taken: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    judged: list[_Judged] = field(default_factory=list)
    spent: float = 0.0
    trial_seconds: float = 0.0
    _answers: dict[Hashable, float] = field(default_factory=dict, compare=False)

    @staticmethod
    def of(records: Iterable[Record], job: JobOf, top: int, trial_seconds: float = 0.0) -> Ledger:
        """The ledger of a history.

        Args:
            records: in any order; confirmations are left out.
            job: on paper.
            top: index of the last rung, at which baselines run.
            trial_seconds: as in `Problem`.
        """
        ledger = Ledger(trial_seconds=trial_seconds)
        asked = [record for record in records if record.purpose != "confirm"]
        for record in sorted(asked, key=lambda record: record.number):
            ledger._enter(record, job, top)
        return ledger

    def price(self, job: Job) -> float:
        """What an expected gain is divided by: seconds until the candidate's figures are there."""
        return ASKING_SECONDS + self.trial_seconds + self.making(job) + self.judging(job)

    def is_dear(self, job: Job) -> bool:
        """Making it takes more than what any trial takes."""
        return self.making(job) > self.trial_seconds + self.judging(job)

    def making(self, job: Job) -> float:
        """Seconds of the pieces that nobody has made."""
        new = [piece for piece in job.pieces if piece.name not in self.made]
        return sum((piece.size * self._rate(piece.kind) for piece in new), 0.0)

    def judging(self, job: Job) -> float:
        """Seconds of all the rest: the usual ones of the nearest kind that was seen."""
        timed = job.session is not None and job.session not in self.made
        key = (job.runtime, job.rung, timed)
        return self._once(("judging", key), lambda: self._usual(*key))

    def _once(self, name: Hashable, answer: Callable[[], float]) -> float:
        """Thousands of candidates ask the same."""
        if name not in self._answers:
            self._answers[name] = answer()
        return self._answers[name]

    def _usual(self, runtime: str, rung: int, timed: bool) -> float:
        near = [row for row in self.judged if (row.rung, row.timed) == (rung, timed)]
        like = [row for row in near if row.runtime == runtime]
        rows = like or near or self.judged
        return median(row.seconds for row in rows) if rows else JUDGING_SECONDS

    def _rate(self, kind: str) -> float:
        return self._once(("rate", kind), lambda: self._seen_rate(kind))

    def _seen_rate(self, kind: str) -> float:
        """Seconds a FLOP: of the kind, else of everything that was made."""
        seen = self.taken.get(kind)
        if seen:
            return median(seconds / size for seconds, size in seen.values())
        rows = [row for rows in self.taken.values() for row in rows.values()]
        if not rows:
            return 1.0 / FLOPS_A_SECOND
        return sum(seconds for seconds, _ in rows) / sum(size for _, size in rows)

    def _enter(self, record: Record, job: JobOf, top: int) -> None:
        stages = {stage.key: stage for stage in record.stages}
        own: set[Hashable] = set()
        for reached in record.rungs:
            done = job(record.configuration, reached.rung)
            if done is None:
                continue
            names = [piece.name for piece in done.pieces]
            new = [stages[name] for name in names if name in stages and name not in own]
            paid = sum(stage.seconds for stage in new if not stage.cached)
            timed = done.session is not None and done.session not in self.made
            rest = max(reached.seconds - paid, 0.0)
            self.judged.append(_Judged(done.runtime, reached.rung, timed, rest))
            self._learn(done, {name: stage.seconds for name, stage in stages.items()})
            self._mark(done)
            own.update(names)
        self.made.update(stages)
        self.spent += record.seconds
        if record.state not in ("running", "queued", "failed"):
            return
        begun = job(record.configuration, _next_rung(record, top))
        if begun is not None:
            self._learn(begun, {name: stage.seconds for name, stage in stages.items()})
            if record.state != "failed":
                self._mark(begun)

    def _learn(self, job: Job, seconds: Mapping[str, float]) -> None:
        for piece in job.pieces:
            if piece.name in seconds:
                self.taken.setdefault(piece.kind, {})[piece.name] = seconds[piece.name], piece.size

    def _mark(self, job: Job) -> None:
        self.made.update(piece.name for piece in job.pieces)
        if job.session is not None:
            self.made.add(job.session)


def _next_rung(record: Record, top: int) -> int | None:
    if record.rungs:
        return record.rungs[-1].rung + 1
    return top if record.purpose == "baseline" else None
