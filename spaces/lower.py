"""From a configuration to a graph of steps: the only interpreter of slots.

Each slot's technique contributes steps; they are sorted by phase, folded over the subject's paper,
and named by keys. The graph feeds legality, quotes, features, cost and execution alike.

    key = H(step, version, settings, input keys, what it reads, seed if it draws, environment)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from ..errors import StepFailed
from .configuration import SLOTS, Choice, Configuration, Settings, digest
from .paper import Paper
from .profile import Profile
from .recipe import BASELINE, SELF, Recipe
from .slots import Slot, slots
from .steps import Change, Key, Phase, Step, kind_of
from .technique import Canonical, Targets, Technique


@dataclass(frozen=True)
class Subject:
    """What a study is about: everything that a configuration is lowered against.

    Args:
        load: the step that loads the given model.
        profile: the given model on paper, head included.
        recipe: the study's default recipe, `train_items` filled in.
        digests: what steps may read from outside, by name: `model`, `train`, `calibration`.
        targets: what the result must fit.
        baseline: the configuration that `distil` learns from.
        rungs: shares of the recipe's steps, never falling, the last 1.
        environment: library versions, threads and device class, as sorted pairs.
        seed: enters every step that draws.
        teacher_seed: the seed of the baseline that teaches; None: `seed`. A repeat under another
            seed learns from the baseline that there is.
    """

    load: Change
    profile: Profile
    recipe: Recipe
    digests: Mapping[str, str]
    targets: Targets = field(default_factory=Targets)
    baseline: Configuration = field(default_factory=Configuration)
    rungs: tuple[float, ...] = (1.0,)
    environment: tuple[tuple[str, str], ...] = ()
    seed: int = 0
    teacher_seed: int | None = None

    @property
    def paper(self) -> Paper:
        """The given model, untouched."""
        return Paper(profile=self.profile, recipe=self.recipe)

    @cached_property
    def teacher(self) -> tuple[Node, ...]:
        """The nodes that make the baseline's last training, or load the model if it has none."""
        seed = self.seed if self.teacher_seed is None else self.teacher_seed
        nodes = lower(self.baseline, replace(self, seed=seed, teacher_seed=None)).nodes
        trains = [i for i, node in enumerate(nodes) if node.trains]
        return nodes[: trains[-1] + 1] if trains else nodes[:1]


@dataclass(frozen=True)
class Move:
    """One step in its place on a walk: the paper before and after it, and whose it is."""

    slot: str
    step: Step
    before: Paper
    after: Paper


@dataclass(frozen=True)
class Walk:
    """A configuration folded over a subject's paper.

    Args:
        moves: every step in order; ends early where something is illegal.
        objections: why the configuration is illegal; empty: legal.
    """

    moves: tuple[Move, ...]
    objections: tuple[str, ...]

    @property
    def paper(self) -> Paper:
        """The candidate on paper, at the end."""
        return self.moves[-1].after


@dataclass(frozen=True)
class Node:
    """A step with a name for its result.

    Args:
        key: the name.
        step: what makes it. slot: whose it is.
        inputs: the candidate it starts from, if any, then a teacher, if any.
        before, after: the paper around it.
        until_step: for a Train, where to stop.
        training: for a long training, a name that all its rungs share.
    """

    key: Key
    step: Step
    slot: str
    inputs: tuple[Key, ...]
    before: Paper
    after: Paper
    until_step: int | None = None
    training: str | None = None

    @property
    def trains(self) -> bool:
        """Gradients flow in it."""
        return kind_of(type(self.step)) == "train"


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can be made; the last one is the deployed artifact."""

    nodes: tuple[Node, ...]

    @property
    def last(self) -> Node:
        """The artifact."""
        return self.nodes[-1]

    @property
    def paper(self) -> Paper:
        """The candidate on paper."""
        return self.last.after

    @property
    def trainings(self) -> tuple[str, ...]:
        """Names of the long trainings that this graph needs."""
        return tuple(dict.fromkeys(n.training for n in self.nodes if n.training))

    @property
    def keys(self) -> frozenset[Key]:
        """Of all nodes."""
        return frozenset(node.key for node in self.nodes)

    @property
    def trained(self) -> tuple[Node, ...]:
        """The last node of each training of the candidate itself; a teacher's are not among them.

        A chain over the rungs is one training, so its last node stands for it.
        """
        line = [self.last]
        while line[-1].inputs:
            line.append(self.node(line[-1].inputs[0]))
        ends = [n for after, n in pairwise(line) if n.trains and not _same(n, after)]
        return tuple(reversed(ends))

    @property
    def taught(self) -> tuple[Node, ...]:
        """The last node of each training of a teacher, which the candidate's own rest on."""
        own = {node.training for node in self.trained} - {None}
        last = {n.training: n for n in self.nodes if n.training and n.training not in own}
        return tuple(last.values())

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def node(self, key: Key) -> Node:
        """The node of that key."""
        return next(node for node in self.nodes if node.key == key)


def walk(configuration: Configuration, subject: Subject) -> Walk:
    """Folds a configuration over the subject's paper, on paper only.

    Each technique is asked for objections with the paper as it stands just before its first step.
    """
    plan: list[tuple[str, Technique, Settings, Step]] = []
    objections: list[str] = []
    for slot, technique, settings in _techniques(configuration, subject.paper):
        steps = technique.steps(subject.paper, settings)
        plan += [(slot, technique, settings, step) for step in steps]
        if not steps:
            objections += _object(slot, technique, settings, subject.paper, subject.targets)
    plan.sort(key=lambda row: (row[3].phase, SLOTS.index(row[0])))
    paper, asked = subject.load.on_paper(subject.paper), set[str]()
    moves = [Move("model", subject.load, subject.paper, paper)]
    for slot, technique, settings, step in plan:
        if slot not in asked:
            asked.add(slot)
            objections += _object(slot, technique, settings, paper, subject.targets)
        if objections:
            break
        after = step.on_paper(paper)
        moves.append(Move(slot, step, paper, after))
        paper = after
    objections += [] if objections else _taught_by_themselves(moves)
    return Walk(tuple(moves), tuple(objections))


def lower(configuration: Configuration, subject: Subject, rung: int | None = None) -> Graph:
    """The graph of a configuration at a rung.

    The first Train of a graph is a chain over the rungs, each going on where the one below it
    stopped; a later Train starts from what that rung made, so it is one node. The baseline teaches
    at full fidelity; a candidate that teaches itself does so as it is at the rung.

    Args:
        configuration: what to make.
        subject: what it is made from.
        rung: index into `subject.rungs`; None: the last.

    Raises:
        StepFailed: kind `illegal`, with every objection.
    """
    path = walk(configuration, subject)
    if path.objections:
        raise StepFailed("illegal", "; ".join(path.objections))
    return Graph(tuple(_nodes(path, subject, _top(subject) if rung is None else rung)))


def trainings(path: Walk, subject: Subject) -> tuple[str, ...]:
    """Names of the long trainings that a legal configuration rests on, as its graph has them.

    Nothing behind the last of them is named: a search asks this of every candidate it looks at.
    """
    long = [i for i, move in enumerate(path.moves) if _is_long(move)]
    nodes = _nodes(Walk(path.moves[: long[-1] + 1 if long else 0], ()), subject, _top(subject))
    learns = [move.before.recipe.teacher for move in path.moves if _trains(move)]
    taught = BASELINE in learns
    needed = [*nodes, *(subject.teacher if taught else ())]
    return tuple(dict.fromkeys(node.training for node in needed if node.training))


def _taught_by_themselves(moves: Sequence[Move]) -> list[str]:
    """The objection where a candidate is its own teacher and has lost nothing meanwhile."""
    whole = moves[0].after.profile
    for move in moves:
        if _is_long(move):
            whole = move.after.profile
        elif (
            _trains(move)
            and move.before.recipe.teacher == SELF
            # Adapters that were merged since change nothing that could be taught.
            and replace(move.before.profile, adapters=()) == replace(whole, adapters=())
        ):
            return [
                f"{move.slot}: nothing was cut since the last training, so that the candidate "
                f"would teach itself what it knows; choose teacher: {BASELINE}, or a structure "
                "with when: after"
            ]
    return []


def _trains(move: Move) -> bool:
    return kind_of(type(move.step)) == "train"


def _is_long(move: Move) -> bool:
    # Short recoveries are not counted as trainings: the budget bounds what costs minutes.
    return _trains(move) and move.step.phase < Phase.RECOVERY_TRAIN


def _top(subject: Subject) -> int:
    return len(subject.rungs) - 1


def _nodes(path: Walk, subject: Subject, rung: int) -> list[Node]:
    nodes: list[Node] = []
    inputs: tuple[Key, ...] = ()
    line: tuple[Key, ...] = ()  # what `inputs` would be if trainings had one rung
    own: tuple[Key, ...] = ()  # the candidate as its last long training left it
    trained = False
    for move in path.moves:
        teacher = move.before.recipe.teacher
        kind = kind_of(type(move.step))
        if kind == "train":
            extra: tuple[Key, ...] = ()
            if teacher == SELF:
                extra = own
                move = _with_teacher(move, own[0])
            elif teacher == BASELINE:
                made = subject.teacher
                nodes = list({node.key: node for node in [*made, *nodes]}.values())
                extra = (made[-1].key,)
                move = _with_teacher(move, made[-1].key)
            name = _key(move, (*line, *extra), subject) if _is_long(move) else None
            shares = subject.rungs[rung if trained else 0 : rung + 1]
            steps = (math.ceil(share * move.before.recipe.total_steps) for share in shares)
            for until in dict.fromkeys(steps):  # two rungs of as many steps are one stage
                node = _node(move, (*inputs, *extra), subject, until)
                nodes.append(replace(node, training=name))
                inputs = (node.key,)
            own = inputs if _is_long(move) else own
            line = (name,) if name else line
            trained = True
        elif kind in ("change", "deploy"):
            node = _node(move, inputs, subject)
            nodes.append(node)
            inputs = (node.key,)
            line = (_key(move, line, subject),) if trained else inputs
            own = own or inputs
    return nodes


def _same(one: Node, other: Node) -> bool:
    """Both are rungs of one training."""
    return (one.training, one.step, one.before) == (other.training, other.step, other.before)


def _with_teacher(move: Move, key: Key) -> Move:
    def filled(paper: Paper) -> Paper:
        return replace(paper, recipe=replace(paper.recipe, teacher=key))

    return replace(move, before=filled(move.before), after=filled(move.after))


def _node(
    move: Move, inputs: tuple[Key, ...], subject: Subject, until_step: int | None = None
) -> Node:
    key = _key(move, inputs, subject, until_step)
    return Node(key, move.step, move.slot, inputs, move.before, move.after, until_step)


def _key(
    move: Move, inputs: tuple[Key, ...], subject: Subject, until_step: int | None = None
) -> Key:
    step = move.step
    return digest(
        {
            "step": step.name,
            "version": step.version,
            "settings": dict(step.settings),
            "inputs": inputs,
            "reads": {name: _read(name, move.before, subject) for name in sorted(step.reads)},
            "seed": subject.seed if step.draws else None,
            "until": until_step,
            "environment": subject.environment,
        }
    )


def _read(name: str, paper: Paper, subject: Subject) -> Any:
    if name == "recipe":
        return paper.recipe.to_json()
    if name == "formats":
        formats, layers = paper.profile.formats, paper.profile.by_layer
        read: list[Any] = [[group, vars(fmt)] for group, fmt in formats]
        # left out where there is none: what was made before keeps its key
        return read + [[group, [vars(fmt) for fmt in forms]] for group, forms in layers]
    return subject.digests[name]


def _techniques(
    configuration: Configuration, paper: Paper
) -> Iterator[tuple[str, Technique, Settings]]:
    table = slots()
    for name in SLOTS:
        slot, choice = table[name], configuration.get(name)
        if choice is not None:
            yield name, slot.technique(choice.method), dict(choice.settings)
        elif slot.off in slot.techniques:
            # "As it is" that still does something: every candidate is deployed to some runtime.
            yield name, slot.techniques[slot.off], _defaults(slot, paper)


def _defaults(slot: Slot, paper: Paper) -> Settings:
    return {h.name: h.default for h in slot.techniques[slot.off].hyperparameters(paper)}


def _object(
    slot: str, technique: Technique, settings: Settings, paper: Paper, targets: Targets
) -> Sequence[str]:
    reasons = technique.objections(paper, settings, targets)
    return [f"{slot}.{technique.name}: {reason}" for reason in reasons]


def plain(configuration: Configuration) -> Configuration:
    """The canonical form: choices that mean "as it is" are left out.

    Where nothing is fine-tuned there is no before and after: a `when` is then `after`.

    >>> plain(Configuration.of(structure=Choice.of("none"))).choices
    ()
    """
    table = slots()
    kept = {s: c for s, c in configuration if not (c.method == table[s].off and not c.settings)}
    if "finetuning" not in kept:
        kept = {slot: _after(choice) for slot, choice in kept.items()}
    return Configuration.of(**{s: _canonical(table[s], choice) for s, choice in kept.items()})


def _canonical(slot: Slot, choice: Choice) -> Choice:
    technique = slot.techniques.get(choice.method)
    if not isinstance(technique, Canonical):
        return choice
    return Choice.of(choice.method, **technique.canonical(dict(choice.settings)))


def _after(choice: Choice) -> Choice:
    settings = dict(choice.settings)
    if "when" in settings:
        settings["when"] = "after"
    return Choice.of(choice.method, **settings)
