"""The workshop: makes the nodes of one graph, finding in the store what others made.

It is the `Bench` that steps ask. Trains, Deploys and steps that read data are stored; other changes
take less time to make again than to read back, so only their cost is kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..errors import StepFailed
from ..evaluators.metric import StageCost
from ..spaces.candidate import Candidate, load_candidate, save_candidate
from ..spaces.device import CPU
from ..spaces.lower import Graph, Node
from ..spaces.steps import Change, Deploy, Key, Split, Train
from ..spaces.task import Batch, Items, Task
from .stages import StageCostFacts, StageNote, StageStore


class Workshop:
    """Makes one graph.

    Args:
        graph: what is to be made.
        store: where stages are found and kept.
        task: the data that steps may read.
        seed: enters every step that draws.
        device: where steps that compute much do so, `cpu` or `cuda:N`.
        turn: called between two optimiser steps; lets a measurement have the host alone, and
            returns the seconds that took.
        report: told the step's name and how far it is, `(step, done, total)`.
    """

    def __init__(
        self,
        graph: Graph,
        store: StageStore,
        task: Task,
        seed: int,
        *,
        device: str = CPU,
        turn: Callable[[], float] = lambda: 0.0,
        report: Callable[[str, int, int], None] = lambda step, done, total: None,
    ) -> None:
        self._graph = graph
        self._store = store
        self._task = task
        self._seed = seed
        self._device = device
        self._turn = turn
        self._report = report
        self._step = ""  # these two are the current step's: `_doing`
        self._waited = 0.0
        self._made: dict[Key, StageNote] = {}

    @property
    def device(self) -> str:
        """Where steps that compute much do so."""
        return self._device

    def artifact(self) -> Path:
        """The folder of the deployed artifact, made or found.

        Raises:
            StepFailed: a step failed, with its kind.
            StorageFailed: the store cannot be written.
        """
        node = self._graph.last

        def write(folder: Path) -> StageCostFacts:
            candidate = self.candidate(node.inputs[0])
            candidate.paper = node.before
            assert isinstance(node.step, Deploy)
            with self._doing(node) as seconds:
                node.step.deploy(candidate, folder, self)
                return StageCostFacts(seconds())

        return self._stored(node, write)

    def costs(self) -> tuple[StageCost, ...]:
        """What each node cost when it was made; those made by this workshop are not `cached`."""
        return stage_costs(
            self._graph,
            lambda key: self._made.get(key) or self._store.cost(key),
            lambda key: key in self._made,
        )

    def candidate(self, key: Key) -> Candidate:
        """The candidate that a key of this graph names; the caller may change it."""
        node = self._graph.node(key)
        if not node.kept:
            candidate, facts = self._apply(node)
            self._made[key] = self._store.record(key, node.step.name, facts)
            return candidate
        folder, fresh = self._kept(node)
        return fresh or load_candidate(folder)

    def batches(
        self, split: Split, *, batch: int, share: float = 1.0, seed: int | None = None
    ) -> Iterator[Batch]:
        """One pass over a split's first share; a seed shuffles, None keeps the order."""
        items = self._task.splits[split]
        order = np.arange(math.ceil(share * len(items)))
        if seed is not None:
            order = np.random.default_rng(seed).permutation(order)
        for start in range(0, len(order), batch):
            yield _batch(items, order[start : start + batch])

    def training_turn(self) -> None:
        """Lets a waiting measurement have the host; that time is nobody's training time."""
        self._waited += self._turn()

    def progress(self, done: int, total: int) -> None:
        """Says how far the current step is."""
        self._report(self._step, done, total)

    def _kept(self, node: Node) -> tuple[Path, Candidate | None]:
        """A stored candidate's folder; the candidate too where it was made just now."""
        fresh: list[Candidate] = []

        def write(folder: Path) -> StageCostFacts:
            candidate, facts = self._apply(node)
            save_candidate(candidate, folder)
            fresh.append(candidate)
            return facts

        folder = self._stored(node, write)
        return folder, fresh[0] if fresh else None

    def _stored(self, node: Node, write: Callable[[Path], StageCostFacts]) -> Path:
        folder, note, found = self._store.make(node.key, node.step.name, write, self.training_turn)
        if not found:
            self._made[node.key] = note
        return folder

    def _apply(self, node: Node) -> tuple[Candidate, StageCostFacts]:
        given = self.candidate(node.inputs[0]) if node.inputs else None
        for teacher in map(self._graph.node, node.inputs[1:]):
            if teacher.kept:
                self._kept(teacher)  # made before the clock starts
        with self._doing(node) as seconds:
            made = self._run(node, given)
            facts = StageCostFacts(seconds(), node.trains, node.training)
        return made, facts

    def _run(self, node: Node, given: Candidate | None) -> Candidate:
        if isinstance(node.step, Train):
            assert given is not None
            assert node.until_step is not None
            given.paper = node.before
            made = node.step.run(given, node.until_step, self, self._seed)
            if node.until_step >= node.before.recipe.total_steps:
                made.train_state = None  # nothing goes on from here: two thirds of the bytes
        else:
            assert isinstance(node.step, Change)
            if given is not None:
                given.paper = node.before
            made = node.step.apply(given, self, self._seed)
        if given is None and made.paper.profile == node.after.profile:
            made.paper = node.after  # a load knows the model, not the study's recipe
        if made.paper != node.after:
            raise StepFailed("crashed", f"{node.step.name} made something else than it said")
        return made

    @contextmanager
    def _doing(self, node: Node) -> Iterator[Callable[[], float]]:
        """One step's name and clock; a step made inside another is not the other's time."""
        step, waited, started = self._step, self._waited, time.perf_counter()
        self._step, self._waited = node.step.name, 0.0
        self._report(self._step, 0, 0)
        try:
            yield lambda: time.perf_counter() - started - self._waited
        finally:
            self._step, self._waited = step, waited + time.perf_counter() - started


def stage_costs(
    graph: Graph, cost: Callable[[Key], StageNote | None], made_here: Callable[[Key], bool]
) -> tuple[StageCost, ...]:
    """What the nodes of a graph cost; those that nobody made or needed are left out.

    Args:
        graph: of one configuration at one rung. cost: what is known of a key.
        made_here: the trial in question made it, and did not find it made.
    """
    known = [(node, cost(node.key)) for node in graph]
    return tuple(
        StageCost(
            node.key, note.step, note.seconds, node.trains, not made_here(node.key), node.training
        )
        for node, note in known
        if note is not None
    )


def _batch(items: Items, rows: np.ndarray) -> Batch:
    return Batch(items.input_ids[rows], items.attention_mask[rows], items.labels[rows], rows)
