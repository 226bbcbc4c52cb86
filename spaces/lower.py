"""From a configuration to a graph of steps: the only interpreter of slots.

Each slot's technique contributes steps; they are sorted by phase, folded over the subject's paper,
and named by keys. The graph feeds legality, quotes, features, cost and execution alike.
Configurations that begin alike share their first moves, papers and keys.

    key = H(step, version, settings, input keys, what it reads, seed if it draws, environment)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from itertools import pairwise
from typing import Any, Final, NamedTuple

from ..errors import StepFailed
from .configuration import (
    SLOTS,
    Choice,
    Configuration,
    Settings,
    canonical,
    digest_of,
    joined,
)
from .paper import Paper
from .profile import Profile
from .recent import Recent
from .recipe import BASELINE, SELF, Recipe
from .slots import Slot, slots
from .steps import Change, Key, Phase, Step, kind_of
from .technique import Targets, Technique, is_canonical

MOVES: Final = 8192
"""Moves, and as many keys, that a subject remembers: a few tens of megabytes."""

_PLACE: Final = {slot: place for place, slot in enumerate(SLOTS)}


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

    @cached_property
    def paper(self) -> Paper:
        """The given model, untouched."""
        return Paper(profile=self.profile, recipe=self.recipe)

    @cached_property
    def surroundings(self) -> str:
        """The environment in canonical form."""
        return canonical(self.environment)

    @cached_property
    def start(self) -> Move:
        """The first move of every walk."""
        return Move("model", self.load, self.paper, self.load.on_paper(self.paper), None)

    @cached_property
    def moves(self) -> Recent[Move | Objections]:
        """What came after a move, by the move, the choice and the place of the step in it."""
        return Recent(MOVES)

    @cached_property
    def stretches(self) -> Recent[Stretch]:
        """What moves were named, by move and rung."""
        return Recent(MOVES)

    @cached_property
    def teacher(self) -> tuple[Node, ...]:
        """The nodes that make the baseline's last training, or load the model if it has none."""
        seed = self.seed if self.teacher_seed is None else self.teacher_seed
        nodes = lower(self.baseline, replace(self, seed=seed, teacher_seed=None)).nodes
        trains = [i for i, node in enumerate(nodes) if node.trains]
        return nodes[: trains[-1] + 1] if trains else nodes[:1]


Objections = tuple[str, ...]
"""Why something is illegal, each with what to do; empty: it is legal."""


@dataclass(frozen=True, eq=False)
class Move:
    """One step in its place on a walk: the paper before and after it, and whose it is.

    Walks that begin alike share their moves, each of which equals itself alone.

    Args:
        previous: the move before it, None for the first.
    """

    slot: str
    step: Step
    before: Paper
    after: Paper
    previous: Move | None

    @property
    def line(self) -> tuple[Move, ...]:
        """All moves up to this one."""
        line = [self]
        while line[-1].previous is not None:
            line.append(line[-1].previous)
        return tuple(reversed(line))

    @property
    def trains(self) -> bool:
        """Gradients flow in it."""
        return kind_of(type(self.step)) == "train"

    @property
    def is_long(self) -> bool:
        """It is a training that a budget counts: short recoveries are not, which cost little."""
        return self.trains and self.step.phase < Phase.RECOVERY_TRAIN

    @cached_property
    def told(self) -> str:
        """What the step was told, in canonical form."""
        return canonical(dict(self.step.settings))


@dataclass(frozen=True)
class Walk:
    """A configuration folded over a subject's paper.

    Args:
        moves: every step in order; ends early where something is illegal.
        objections: why the configuration is illegal; empty: legal.
    """

    moves: tuple[Move, ...]
    objections: Objections

    @property
    def paper(self) -> Paper:
        """The candidate on paper, at the end."""
        return self.moves[-1].after


class Turn(NamedTuple):
    """A step that a walk is to take.

    Args:
        slot: whose it is. choice: what the slot holds, in canonical form.
        place: of the step among the technique's. first: it is the slot's first one on the walk.
    """

    slot: str
    choice: str
    place: int
    first: bool
    technique: Technique
    settings: Settings
    step: Step


class Stretch(NamedTuple):
    """What a move is named, and all that later names depend on.

    Args:
        nodes: of this move.
        inputs: the candidate behind it. line: the same if trainings had one rung.
        own: the candidate as its last long training left it.
        trained: a training came before.
    """

    nodes: tuple[Node, ...] = ()
    inputs: tuple[Key, ...] = ()
    line: tuple[Key, ...] = ()
    own: tuple[Key, ...] = ()
    trained: bool = False


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

    @property
    def kept(self) -> bool:
        """Its candidate is stored: other changes take less time to make again than to read back."""
        return _is_kept(self.step)


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
        ends = [n for after, n in pairwise(line) if n.trains and not is_same_training(n, after)]
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
    turns, objections = _turns(configuration, subject)
    last = subject.start
    for turn in turns:
        key = (last, turn.slot, turn.choice, turn.place)
        found = subject.moves.get(key, partial(_next, last, turn, subject))
        if not isinstance(found, Move):
            objections += found
        if objections or not isinstance(found, Move):
            break
        last = found
    moves = last.line
    return Walk(moves, tuple(objections or _taught_by_themselves(moves)))


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
    return Graph(tuple(_nodes(path.moves, subject, _top(subject) if rung is None else rung)))


def trainings(path: Walk, subject: Subject) -> tuple[str, ...]:
    """Names of the long trainings that a legal configuration rests on, as its graph has them.

    Nothing behind the last of them is named: a search asks this of every candidate it looks at.
    """
    long = [place for place, move in enumerate(path.moves) if move.is_long]
    nodes = _nodes(path.moves[: long[-1] + 1 if long else 0], subject, _top(subject))
    needed = [*nodes, *(subject.teacher if _are_taught(path.moves) else ())]
    return tuple(dict.fromkeys(node.training for node in needed if node.training))


def shared(path: Walk, subject: Subject, rung: int) -> list[Node]:
    """Nodes of a legal configuration's graph whose candidates are stored, a teacher's among them.

    Nothing behind the last of them is named, as in `trainings`.
    """
    ends = [place + 1 for place, move in enumerate(path.moves) if _is_kept(move.step)]
    return [n for n in _nodes(path.moves[: ends[-1] if ends else 0], subject, rung) if n.kept]


def _is_kept(step: Step) -> bool:
    kind = kind_of(type(step))
    return kind == "train" or (kind == "change" and bool(step.reads & {"train", "calibration"}))


def _turns(configuration: Configuration, subject: Subject) -> tuple[list[Turn], list[str]]:
    """The steps in the order of a walk, and what techniques without any object to."""
    paper, turns, objections = subject.paper, list[Turn](), list[str]()
    for slot, choice, technique, settings in _techniques(configuration, paper):
        steps = technique.steps(paper, settings)
        if not steps:
            objections += _object(slot, technique, settings, paper, subject.targets)
        order = sorted(range(len(steps)), key=lambda place: steps[place].phase)
        for place in order:
            first = place == order[0]
            turns.append(Turn(slot, choice, place, first, technique, settings, steps[place]))
    turns.sort(key=lambda turn: (turn.step.phase, _PLACE[turn.slot]))
    return turns, objections


def _next(last: Move, turn: Turn, subject: Subject) -> Move | Objections:
    """What follows a move: another, or objections where a slot's first step may not be taken."""
    paper, slot = last.after, turn.slot
    if turn.first:
        objections = _object(slot, turn.technique, turn.settings, paper, subject.targets)
        if objections:
            return tuple(objections)
    return Move(slot, turn.step, paper, turn.step.on_paper(paper), last)


def _taught_by_themselves(moves: Sequence[Move]) -> list[str]:
    """The objection where a candidate is its own teacher and has lost nothing meanwhile."""
    whole = moves[0].after.profile
    for move in moves:
        if move.is_long:
            whole = move.after.profile
        elif (
            move.trains
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


def _are_taught(moves: Sequence[Move]) -> bool:
    """The baseline teaches somewhere."""
    return any(move.before.recipe.teacher == BASELINE for move in moves if move.trains)


def _top(subject: Subject) -> int:
    return len(subject.rungs) - 1


def _nodes(moves: Sequence[Move], subject: Subject, rung: int) -> list[Node]:
    nodes = [n for move in moves for n in _named(move, subject, rung).nodes]
    if not _are_taught(moves):
        return nodes
    return list({node.key: node for node in [*subject.teacher, *nodes]}.values())


def _named(move: Move, subject: Subject, rung: int) -> Stretch:
    return subject.stretches.get((move, rung), partial(_name, move, subject, rung))


def _name(move: Move, subject: Subject, rung: int) -> Stretch:
    before = Stretch() if move.previous is None else _named(move.previous, subject, rung)
    kind = kind_of(type(move.step))
    if kind == "train":
        return _training(move, before, subject, rung)
    if kind not in ("change", "deploy"):
        return before._replace(nodes=())
    node = _node(move, before.inputs, subject)
    inputs = (node.key,)
    line = (_key(move, before.line, subject),) if before.trained else inputs
    return Stretch((node,), inputs, line, before.own or inputs, before.trained)


def _training(move: Move, before: Stretch, subject: Subject, rung: int) -> Stretch:
    teacher, extra = move.before.recipe.teacher, tuple[Key, ...]()
    if teacher in (SELF, BASELINE):
        extra = before.own if teacher == SELF else (subject.teacher[-1].key,)
        move = _with_teacher(move, extra[0])
    name = _key(move, (*before.line, *extra), subject) if move.is_long else None
    shares = subject.rungs[rung if before.trained else 0 : rung + 1]
    steps = (math.ceil(share * move.before.recipe.total_steps) for share in shares)
    nodes, inputs = list[Node](), before.inputs
    for until in dict.fromkeys(steps):  # two rungs of as many steps are one stage
        node = _node(move, (*inputs, *extra), subject, until)
        nodes.append(replace(node, training=name))
        inputs = (node.key,)
    line = (name,) if name else before.line
    return Stretch(tuple(nodes), inputs, line, inputs if move.is_long else before.own, True)


def is_same_training(one: Node, other: Node) -> bool:
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
    texts = {
        "step": _scalar(step.name),
        "version": _scalar(step.version),
        "settings": move.told,
        "inputs": canonical(inputs),
        "reads": joined({name: _read(name, move.before, subject) for name in step.reads}),
        "seed": _scalar(subject.seed if step.draws else None),
        "until": _scalar(until_step),
        "environment": subject.surroundings,
    }
    return digest_of(joined(texts))


@lru_cache(maxsize=1024, typed=True)
def _scalar(value: str | int | None) -> str:
    return canonical(value)


def _read(name: str, paper: Paper, subject: Subject) -> str:
    if name == "recipe":
        return paper.recipe.text
    if name == "formats":
        formats, layers = paper.profile.formats, paper.profile.by_layer
        read: list[Any] = [[group, vars(fmt)] for group, fmt in formats]
        # left out where there is none: what was made before keeps its key
        read += [[group, [vars(fmt) for fmt in forms]] for group, forms in layers]
        return canonical(read)
    return _scalar(subject.digests[name])


def _techniques(
    configuration: Configuration, paper: Paper
) -> Iterator[tuple[str, str, Technique, Settings]]:
    """Slot, choice in canonical form, technique and settings of all that does something."""
    table = slots()
    for name in SLOTS:
        slot, choice = table[name], configuration.get(name)
        if choice is not None:
            yield name, choice.text, slot.technique(choice.method), dict(choice.settings)
        elif slot.off in slot.techniques:
            # "As it is" that still does something: every candidate is deployed to some runtime.
            yield name, "", slot.techniques[slot.off], _defaults(slot, paper)


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
    if not is_canonical(technique):
        return choice
    return Choice.of(choice.method, **technique.canonical(dict(choice.settings)))


def _after(choice: Choice) -> Choice:
    settings = dict(choice.settings)
    if settings.get("when", "after") == "after":
        return choice
    return Choice.of(choice.method, **{**settings, "when": "after"})
