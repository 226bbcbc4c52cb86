"""Replay: answers a search from the records of an earlier run, under a virtual clock.

For tests, and for comparing samplers on figures that were really measured. A configuration costs
what it cost then, less the stages that this replay has made already: sharing is replayed too.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from ...evaluators.metric import StageCost
from ...spaces.configuration import Configuration
from ..driver import Done, Source
from ..records import Ask, Failure, Record

ARTIFACT: Final = ".deploy"
"""How steps are named that write an artifact."""


class VirtualClock:
    """Time that passes only when it is told to; give it to `StudyStorage.open` as its clock."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        """Seconds since the replay began."""
        return self.seconds


class Replay:
    """The answers of an earlier run.

    Args:
        records: that run's; those that are neither final nor failed answer up to the rung they
            reached.
        clock: moved on by `run`.

    `missing` collects configurations that were asked but never run; they fail as illegal.
    """

    def __init__(self, records: Iterable[Record], clock: VirtualClock) -> None:
        self._known = {record.configuration.digest: record for record in records}
        self._clock = clock
        self._made: set[str] = set()
        self.missing: list[Configuration] = []

    def run(self, source: Source, workers: int = 1) -> Done:
        """Works until nothing is left to ask.

        Args:
            source: hands out asks and takes records.
            workers: how many asks are under way at once.

        Returns:
            Why it ended.
        """
        under_way: list[tuple[float, int, Record]] = []
        while True:
            ended = None
            while len(under_way) < workers:
                ask = source.next()
                if not isinstance(ask, Ask):
                    ended = ask if isinstance(ask, Done) else None
                    break
                record = self.answer(ask, source.prior(ask))
                heapq.heappush(under_way, (record.finished or 0.0, ask.number, record))
            if not under_way:
                assert ended is not None, "the driver waits for work that nobody does"
                return ended
            self._clock.seconds, _, record = heapq.heappop(under_way)
            source.tell(record)

    def answer(self, ask: Ask, prior: Record | None) -> Record:
        """What came of a configuration then, as if it had begun now."""
        now = self._clock.seconds
        before = prior or Record(ask.number, ask.configuration, "running", ask.seed, ask.purpose)
        before = replace(before, started=now if before.started is None else before.started)
        then = self._known.get(ask.configuration.digest)
        reached = [] if then is None else [rung for rung in then.rungs if rung.rung == ask.rung]
        if then is None or not (reached or then.failure):
            self.missing.append(ask.configuration)
            failure = Failure("illegal", f"rung {ask.rung} was never run: it cannot be replayed")
            return replace(before, failure=failure, finished=now)
        paid = {stage.key for stage in before.stages}
        needed = [s for s in _needed(then, ask.rung) if s.key not in paid]
        stages = tuple(replace(s, cached=s.key in self._made) for s in needed)
        seconds = _judging(then, ask.rung) + sum(s.seconds for s in stages if not s.cached)
        self._made.update(stage.key for stage in stages)
        rungs = tuple(replace(rung, seconds=seconds) for rung in reached)
        return replace(
            before,
            rungs=(*before.rungs, *rungs),
            failure=None if reached else then.failure,
            stages=(*before.stages, *stages),
            seconds=before.seconds + seconds,
            finished=now + seconds,
            files=then.files,
        )


def _needed(then: Record, rung: int) -> list[StageCost]:
    """Stages that a trial rested on at a rung and below.

    They lie in a record as they were made, and what every rung makes ends with an artifact. A rung
    that made none was of items alone and needed nothing new.
    """
    reached = _asked(then, rung)
    groups: list[list[StageCost]] = [[]]
    for stage in then.stages:
        groups[-1].append(stage)
        if stage.step.endswith(ARTIFACT) and len(groups) < len(reached):
            groups.append([])
    return [s for at, group in zip(reached, groups, strict=False) if at <= rung for s in group]


def _asked(then: Record, rung: int) -> list[int]:
    """Rungs that a trial was asked at; the last of one that failed has no figures.

    Args:
        rung: where it failed, if it had figures of none.
    """
    reached = [r.rung for r in then.rungs]
    if then.failure is None:
        return reached
    return [*reached, reached[-1] + 1 if reached else rung]


def _judging(then: Record, rung: int) -> float:
    """Seconds of one rung beside its stages: the record's, shared out as the rungs' own were.

    What is left of a failed trial's seconds went by at the rung where it failed.
    """
    paid, own, before = 0.0, dict[int, float](), set[str]()
    seconds = {reached.rung: reached.seconds for reached in then.rungs}
    if then.failure is not None:
        *_, failed = _asked(then, rung)
        seconds[failed] = max(then.seconds - sum(seconds.values()), 0.0)
    for reached, spent in seconds.items():
        new = [s for s in _needed(then, reached) if s.key not in before and not s.cached]
        before |= {stage.key for stage in new}
        made = sum(stage.seconds for stage in new)
        paid, own[reached] = paid + made, max(spent - made, 0.0)
    whole, total = max(then.seconds - paid, 0.0), sum(own.values())
    return whole * (own.get(rung, 0.0) / total if total else 1.0 / max(1, len(own)))
