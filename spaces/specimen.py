"""A technique tried on a model: its steps done one after the other, in memory, on random tokens.

What was seen meanwhile is kept in nodes, for `testing.py` to judge.
"""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor, nn

from .build import kept_tensors
from .candidate import Candidate
from .configuration import Settings
from .device import CPU
from .masks import places_in
from .paper import Paper
from .profile import Profile
from .recipe import Recipe
from .runtimes.runtime import Runtime
from .slots import slots
from .steps import Amend, Change, Deploy, Key, Phase, Split, Step, Train, Wrap
from .task import Batch
from .technique import Targets, Technique

SHORT: Final = Recipe(train_items=8, epochs=1, batch=4, learning_rate=1e-2)
"""Two optimiser steps, large enough to move every output."""

FLOPS_BATCH, FLOPS_TOKENS = 2, 8
_TOKENS = 8


class ContractBroken(AssertionError):
    """A technique says one thing and does another; the message names both."""


@dataclass(frozen=True, eq=False)
class Specimen:
    """A model that techniques are tried on.

    Args:
        candidate: the given model, loaded, with the recipe that a Train should follow.
        targets: what the result must fit.
    """

    candidate: Candidate
    targets: Targets = field(default_factory=Targets)

    @staticmethod
    def of(candidate: Candidate) -> Specimen:
        """A specimen with a training of two steps."""
        paper = replace(candidate.paper, recipe=SHORT)
        return Specimen(replace(candidate, paper=paper), Targets(task_kind=paper.profile.head.kind))

    @property
    def paper(self) -> Paper:
        """The given model on paper."""
        return self.candidate.paper

    @cached_property
    def answers(self) -> tuple[Answer, ...]:
        """What the given model answers in every runtime, the plainest first."""
        return tuple(deployed(self.candidate))


@dataclass
class MemoryBench:
    """A Bench of random tokens that remembers what it was asked for.

    Args:
        teacher: the candidate that every key names.
        asked: the splits that were read so far.
        device: where steps compute.
    """

    teacher: Candidate
    asked: list[Split] = field(default_factory=list)
    device: str = CPU

    def candidate(self, key: Key) -> Candidate:
        """The teacher, whatever the key."""
        return self.teacher

    def batches(
        self, split: Split, *, batch: int, share: float = 1.0, seed: int | None = None
    ) -> Iterator[Batch]:
        """One pass over eight random items; the last three tokens of the odd ones are padding."""
        self.asked.append(split)
        items = random_items(self.teacher.paper.profile, 8, _TOKENS, seed=len(split))
        order = np.arange(max(1, math.ceil(8 * share)))
        if seed is not None:
            np.random.default_rng(seed).shuffle(order)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            yield Batch(*(part[rows] for part in vars(items).values()))

    def progress(self, done: int, total: int) -> None:
        """Nobody looks."""

    def training_turn(self) -> None:
        """Nobody waits here."""


def random_items(profile: Profile, count: int, tokens: int, *, seed: int) -> Batch:
    """Random items that fit a model; the last three tokens of the odd ones are padding."""
    rng = np.random.default_rng(seed)
    # The last words of the vocabulary: special tokens stand in front.
    ids = rng.integers(profile.vocabulary // 2, profile.vocabulary, (count, tokens))
    mask = np.ones((count, tokens), dtype=np.int64)
    mask[1::2, -3:] = 0
    ids[mask == 0] = dict(profile.extra).get("pad_token_id", 0)
    if profile.head.kind == "classification":
        labels = rng.integers(0, profile.head.outputs, count)
    else:
        labels = np.where(mask == 1, ids, -100)
    return Batch(ids.astype(np.int64), mask, labels.astype(np.int64), np.arange(count))


@dataclass(frozen=True)
class Node:
    """One step done, with what was seen meanwhile.

    Args:
        step: what was done.
        given, candidate: before and after it (Amend and Deploy leave the module alone).
        after: what `on_paper` promised.
        asked: splits that it read.
        touched: it moved a global random generator.
        spoiled: it changed the candidate that it was given.
    """

    step: Step
    given: Candidate
    candidate: Candidate
    after: Paper
    asked: tuple[Split, ...]
    touched: bool
    spoiled: bool


@dataclass(frozen=True)
class Answer:
    """What a deployed candidate is: its logits, the bytes on disk and the bytes on paper."""

    runtime: str
    logits: np.ndarray
    written: int
    promised: int


@dataclass(frozen=True, eq=False)
class Case:
    """A technique with settings, tried on a model; what was made is kept."""

    technique: Technique
    settings: Settings
    specimen: Specimen

    @cached_property
    def objections(self) -> list[str]:
        """Why the technique refuses these settings here."""
        specimen = self.specimen
        return self.technique.objections(specimen.paper, self.settings, specimen.targets)

    @cached_property
    def steps(self) -> list[Step]:
        """The technique's steps in the order of their phases."""
        steps = self.technique.steps(self.specimen.paper, self.settings)
        return sorted(steps, key=lambda step: step.phase)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Every step done, seed 0."""
        return walk(self)

    @cached_property
    def papers(self) -> tuple[Paper, ...]:
        """The paper after every step."""
        papers = [self.specimen.paper]
        for step in self.steps:
            papers.append(step.on_paper(papers[-1]))
        return tuple(papers[1:])

    @cached_property
    def answers(self) -> tuple[Answer, ...]:
        """What the end of the walk answers once deployed.

        Formats are judged in every runtime that holds them, the rest in the plainest.
        """
        last = self.nodes[-1].candidate if self.nodes else self.specimen.candidate
        if any(step.phase == Phase.DEPLOY for step in self.steps):
            return (_answer(last, cast("Runtime", self.technique), self.settings),)
        given = self.specimen.candidate
        if last.module is given.module and last.paper.profile == given.paper.profile:
            return self.specimen.answers[:1]
        everywhere = any(step.phase == Phase.PRECISION for step in self.steps)
        found = deployed(last)
        return tuple(found) if everywhere else tuple(islice(found, 1))


def walk(case: Case, seed: int = 0, steps: int | None = None) -> tuple[Node, ...]:
    """Does the steps of a case, from the loaded model on.

    Args:
        case: what to do. seed: enters every step.
        steps: how many of them, None: all.
    """
    candidate = case.specimen.candidate
    nodes = []
    for step in case.steps[:steps]:
        node = _done(step, candidate, case.specimen, seed)
        nodes.append(node)
        candidate = node.candidate
    return tuple(nodes)


def _done(step: Step, given: Candidate, specimen: Specimen, seed: int) -> Node:
    bench = MemoryBench(specimen.candidate)
    after = step.on_paper(given.paper)
    before, generators = tensors(given.module), _generators()
    if isinstance(step, Change):
        made = step.apply(given, bench, seed)
    elif isinstance(step, Train):
        made = step.run(given, given.paper.recipe.total_steps, bench, seed)
    elif isinstance(step, Amend | Wrap):
        made = replace(given, paper=after)
    elif isinstance(step, Deploy):
        with tempfile.TemporaryDirectory() as folder:
            step.deploy(given, Path(folder), bench)
        made = replace(given, paper=after)
    else:
        raise ContractBroken(f"step {step.name} is of no kind; give it apply, run or deploy")
    touched = generators != _generators()
    spoiled = not same_tensors(before, tensors(given.module))
    return Node(step, given, made, after, tuple(bench.asked), touched, spoiled)


def deployed(candidate: Candidate) -> Iterator[Answer]:
    """What a candidate answers in each runtime that holds it, the plainest first.

    A runtime that answers from another's files is not tried again: its bytes are the other's, and
    compiling a graph for every case takes minutes.
    """
    slot = slots()["runtime"]
    names = sorted(slot.techniques, key=lambda name: name != slot.off)
    for row in (slot.techniques[name] for name in names):
        if not isinstance(row, Runtime) or row.files != row.name:
            continue
        settings = {knob.name: knob.default for knob in row.hyperparameters(candidate.paper)}
        if not row.objections(candidate.paper, settings, Targets()):
            yield _answer(candidate, row, settings)


def _answer(candidate: Candidate, row: Runtime, settings: Settings) -> Answer:
    items = random_items(candidate.paper.profile, 4, _TOKENS, seed=7)
    (deploy,) = (s for s in row.steps(candidate.paper, settings) if isinstance(s, Deploy))
    with tempfile.TemporaryDirectory() as folder:
        deploy.deploy(candidate, Path(folder), MemoryBench(candidate))
        runner = row.open(Path(folder))
        try:
            logits = runner.logits(items)
            written = payload_bytes(runner.files())
        finally:
            runner.close()
    return Answer(row.name, logits, written, row.payload_bytes(candidate.paper.profile))


def payload_bytes(files: Sequence[Path]) -> int:
    """Bytes of the tensors in an artifact's files: headers, graphs and text files apart.

    Args:
        files: `.safetensors` and `.onnx` are read; text beside them holds no tensors.

    Raises:
        ContractBroken: a file of a kind that is not known here.
    """
    total = 0
    for path in files:
        if path.suffix == ".safetensors":
            with path.open("rb") as file:
                header = int.from_bytes(file.read(8), "little")
            total += path.stat().st_size - 8 - header
        elif path.suffix == ".onnx":
            total += _initializer_bytes(path)
        elif path.suffix not in {".json", ".txt", ".data"}:
            raise ContractBroken(f"{path.name}: which of its bytes are tensors is not known here")
    return total


def _initializer_bytes(path: Path) -> int:
    import onnx

    # External data is read in: its file is counted through the graph that names it.
    graph = onnx.load(path).graph
    return sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in graph.initializer)


def logits_of(candidate: Candidate) -> np.ndarray:
    """What a module itself answers to random items."""
    items = random_items(candidate.paper.profile, 4, _TOKENS, seed=7)
    ids, mask = torch.from_numpy(items.input_ids), torch.from_numpy(items.attention_mask)
    with torch.no_grad():
        answer: Tensor = candidate.module(input_ids=ids, attention_mask=mask).logits
    return answer.numpy()


def counted_flops(module: nn.Module, profile: Profile) -> int:
    """FLOPs of one forward pass as torch's counter sees them."""
    from torch.utils.flop_counter import FlopCounterMode

    ids = torch.from_numpy(random_items(profile, FLOPS_BATCH, FLOPS_TOKENS, seed=3).input_ids)
    config = cast(Any, module).config
    before = config._attn_implementation
    # The counter is blind to fused attention on CPU. Modules read this word at every call.
    config._attn_implementation = "eager"
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        config._attn_implementation = before
    return int(counter.get_total_flops())


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's parameters, and of its map of words."""
    return {name: value.detach().clone() for name, value in kept_tensors(module).items()}


def trained_elements(candidate: Candidate) -> dict[str, np.ndarray] | None:
    """Which elements of each parameter train, `(its shape)` of bool.

    None where the recipe has a mask that is gone: its training is over.
    """
    recipe, state = candidate.paper.recipe, candidate.train_state
    places = {} if state is None else places_in(state)
    if recipe.mask is not None and not places:
        return None
    found = {}
    for name, parameter in candidate.module.named_parameters():
        trains = np.full(parameter.numel(), recipe.trains(name))
        if recipe.mask is not None and recipe.mask.covers(name):
            trains[:] = False
            trains[places[name].numpy()] = True
        found[name] = trains.reshape(tuple(parameter.shape))
    return found


def same_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two sets of tensors are equal by name, shape and bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _generators() -> tuple[bytes, str, str]:
    """The states of the global random generators."""
    state = torch.get_rng_state().numpy().tobytes()
    return state, repr(np.random.get_state(legacy=False)), repr(random.getstate())
