"""The arms of `joint.py`: ways to spend the same time on the same space, all with its sampler.

joint: the whole space. habit: in the first half of the time the best fine-tuning is looked for,
uncompressed and eager, by validation accuracy; then it stays, and the rest is searched on it; at
once when no fine-tuning is left to try. alone-SLOT: one slot, all others as the baseline has them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from ..errors import RunError, UnknownName, WorkFailed
from ..search.budget import Budget
from ..search.driver import Driver, Rules
from ..search.engines.local import INTERRUPTED
from ..search.records import Record
from ..search.rules import Knowledge
from ..search.samplers import sampler
from ..search.samplers.cost import Job, JobOf
from ..search.samplers.problem import Memory
from ..search.seeds import seed_of
from ..search.storage import StudyStorage
from ..spaces.configuration import Choice, Configuration
from ..spaces.space import Space
from .joint_table import Engine, Ground, Yardstick, every_configuration, own

QUALITY: Final = "accuracy"
"""By which the habit chooses its fine-tuning."""


@dataclass(frozen=True)
class Search:
    """One search that an arm makes.

    Args:
        ground: what is searched. storage: where its records go.
        run: works for a driver. seed: of the sampler; trainings keep the study's.
        minutes: that it may take. memories: what samplers looked up before, by space.
        held: digests of the only configurations that may be asked; None: all that are legal.
    """

    ground: Ground
    storage: StudyStorage
    run: Engine
    seed: int
    minutes: float
    memories: dict[str, Memory] = field(default_factory=dict)
    held: frozenset[str] | None = None

    def over(self, wanted: Mapping[str, Mapping[str, Any]], minutes: float) -> None:
        """Goes on over a space until so many minutes are spent in all.

        Raises:
            WorkFailed: it was interrupted, so that it is no comparison.
        """
        if self.run(Driver(self.storage, self._rules(wanted, minutes))) is INTERRUPTED:
            raise WorkFailed("interrupted: a search that was broken off compares with nothing")

    def _rules(self, wanted: Mapping[str, Mapping[str, Any]], minutes: float) -> Rules:
        ground = self.ground
        space = Space.of(wanted, ground.material.subject.paper)
        knowledge = Knowledge(ground.study, ground.material, space, self.storage)
        memory = self.memories.setdefault(json.dumps(wanted, sort_keys=True), Memory())
        paper = knowledge.lookup.paper
        budget = Budget(minutes=minutes, trainings=ground.study.budget.trainings)
        problem = knowledge.problem(budget)
        problem = replace(
            problem,
            seed=self.seed,
            memory=memory,
            paper=lambda c: paper(c) if self._holds(c) else None,
            job=self._job(problem.job),
        )
        row = sampler(ground.study.sampler)
        return replace(
            knowledge.rules(),
            refuse=lambda c: knowledge.refusals(c) if self._holds(c) else ["not in the table"],
            make_sampler=lambda number: row.make(problem, seed_of(self.seed, number, 0)),
            budget=budget,
            reference=lambda first: Yardstick.of(first, ground.rows).reference,
        )

    def _job(self, job: JobOf | None) -> JobOf | None:
        if job is None or not self.ground.costed:
            return None
        return job if self.ground.stored else partial(_own_job, job)

    def _holds(self, configuration: Configuration) -> bool:
        return self.held is None or configuration.digest in self.held


def _own_job(job: JobOf, configuration: Configuration, rung: int | None) -> Job | None:
    found = job(configuration, rung)
    if found is None:
        return None
    pieces = tuple(p._replace(name=own(configuration, p.name)) for p in found.pieces)
    session = None if found.session is None else own(configuration, "session")
    return replace(found, pieces=pieces, session=session)


Arm = Callable[[Search], Choice | None]
"""Searches, and says which fine-tuning it settled on, if it did."""


def arms_of(ground: Ground) -> dict[str, Arm]:
    """Every arm by name: joint, the habit where fine-tunings differ, each slot with a choice."""
    slots: dict[str, Arm] = {
        f"alone-{slot}": partial(alone, slot=slot)
        for slot in ground.study.space
        if every_configuration(ground, alone_space(ground, slot))
    }
    usual: dict[str, Arm] = {"habit": habit} if "alone-finetuning" in slots else {}
    return {"joint": joint, **usual, **slots}


def arm_of(ground: Ground, name: str) -> Arm:
    """One arm by name.

    Raises:
        UnknownName: with the names that this study has.
    """
    known = arms_of(ground)
    if name not in known:
        raise UnknownName("arm", name, known)
    return known[name]


def joint(search: Search) -> None:
    """The whole space, all the time."""
    search.over(search.ground.study.space, search.minutes)


def habit(search: Search) -> Choice:
    """First the fine-tuning alone, then everything else on the best one; which one that was.

    The architecture stays the one that was fine-tuned: a sub-network would be fine-tuned anew.
    """
    space = dict(search.ground.study.space)
    search.over(alone_space(search.ground, "finetuning"), search.minutes / 2)
    best = best_finetuning(list(search.storage.records.values()))
    space.pop("architecture", None)
    search.over({**space, "finetuning": only(best)}, search.minutes)
    return best


def alone(search: Search, slot: str) -> None:
    """One slot, all the time."""
    search.over(alone_space(search.ground, slot), search.minutes)


def alone_space(ground: Ground, slot: str) -> dict[str, Any]:
    """The study's space in one slot, and what the baseline has in the others."""
    kept = {s: only(choice) for s, choice in ground.material.subject.baseline if s != slot}
    return {**kept, slot: ground.study.space[slot]}


def only(choice: Choice) -> dict[str, Any]:
    """A slot's space that holds one choice."""
    return {"methods": [choice.method], choice.method: dict(choice.settings)}


def best_finetuning(records: Sequence[Record]) -> Choice:
    """The fine-tuning of the most accurate record that changes nothing else; the first of equals.

    Raises:
        RunError: none has a figure; the first half was too short for one training.
    """
    plain = [
        (value, -record.number, choice)
        for record in records
        if record.state == "final"
        and not {slot for slot, _ in record.configuration} - {"recipe", "finetuning"}
        for choice in [record.configuration.get("finetuning")]
        for value in [record.value(QUALITY)]
        if choice is not None and value is not None
    ]
    if not plain:
        raise RunError("no fine-tuning was finished in half of the time; give more --minutes")
    return max(plain, key=lambda row: row[:2])[2]
