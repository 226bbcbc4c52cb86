"""The contract suite for techniques: paper and practice agree, at every node. For plugin authors.

    from paretune.spaces.testing import Specimen, check_technique
    check_technique(MyTechnique(), Specimen.of(candidate))

Each check is a function of a `Case` (a technique with settings, tried on a model) that raises
`ContractBroken`; `CHECKS` lists them by name.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from .build import kept_tensors
from .candidate import Candidate, load_candidate, save_candidate
from .configuration import Scalar
from .families import family_of
from .hyperparameter import Hyperparameter, OneOf
from .paper import Paper
from .profile import forward_flops, parameters
from .runtimes.payload import map_parts
from .slots import Slot
from .specimen import (
    FLOPS_BATCH,
    FLOPS_TOKENS,
    Case,
    ContractBroken,
    MemoryBench,
    Node,
    Specimen,
    counted_flops,
    logits_of,
    random_items,
    same_tensors,
    tensors,
    trained_elements,
    walk,
)
from .steps import Amend, Change, Deploy, Phase, Reads, Step, Train, Wrap
from .technique import Technique

__all__ = [
    "CHECKS",
    "OBSERVABLES",
    "Case",
    "ContractBroken",
    "MemoryBench",
    "Node",
    "Specimen",
    "cases_of",
    "check_off",
    "check_row",
    "check_technique",
    "random_items",
]

OBSERVABLES: Final = ("parameters", "trainable", "flops", "bytes", "outputs", "recipe")
"""What a technique may declare in `moves`."""

READS: Final = frozenset(get_args(Reads))
"""What a step may declare to depend on."""

_KINDS: Final[tuple[type, ...]] = (Change, Amend, Train, Deploy, Wrap)
# An objection that says what to do has one of these words in it.
_ADVICE: Final = (
    "choose",
    "use ",
    "set ",
    "keep ",
    "leave",
    "merge",
    "remove",
    "add ",
    "give ",
    "lower",
    "raise",
    "deploy",
    "install",
    "train",
    "only ",
    "at least",
    "at most",
)


def check_technique(technique: Technique, specimen: Specimen) -> None:
    """Every check, for every setting worth trying.

    Args:
        technique: a row of a table, or one of a plugin.
        specimen: the model to try it on; repeat for each family that it claims.

    Raises:
        ContractBroken: the first promise that was not kept.
    """
    cases = cases_of(technique, specimen)
    for check in CHECKS:
        check_row(check, cases)
    refused = all(case.objections for case in cases)
    _need(not refused, f"{technique.name} refuses every setting here; try it on another model")


def check_row(check: str, cases: Sequence[Case]) -> None:
    """One check of `CHECKS`, for all cases of a technique.

    Raises:
        ContractBroken: with the settings at fault.
    """
    for case in cases:
        if case.objections and check not in _ABOUT_REFUSALS:
            continue
        try:
            CHECKS[check](case)
        except ContractBroken as broken:
            said = f"{case.technique.name} {dict(case.settings)}: {broken}"
            raise ContractBroken(said) from broken
    if check == "what_it_declares_moves":
        _everything_declared_moves([case for case in cases if not case.objections])


def check_off(slot: Slot, specimen: Specimen) -> None:
    """A slot that is left as it is changes nothing: the answers are equal bit for bit.

    Raises:
        ContractBroken: its off method contributes steps that change paper or answers.
    """
    row = slot.techniques.get(slot.off)
    if row is None:
        return
    case = cases_of(row, specimen)[0]
    for node in case.nodes:
        paper = replace(node.after, runtime=None)
        _agree(f"{slot.name}.{slot.off}: paper after {node.step.name}", specimen.paper, paper)
        if not same_tensors(tensors(specimen.candidate.module), tensors(node.candidate.module)):
            raise ContractBroken(f"{slot.name}.{slot.off}: {node.step.name} changes parameters")
    for answer in case.answers[:1]:
        if not np.array_equal(answer.logits, logits_of(specimen.candidate)):
            raise ContractBroken(f"{slot.name}.{slot.off} changes the answers in {answer.runtime}")


def cases_of(technique: Technique, specimen: Specimen) -> list[Case]:
    """The default settings, then each knob at each of its ends with the others as they are."""
    knobs = technique.hyperparameters(specimen.paper)
    default = {knob.name: knob.default for knob in knobs}
    tried = [default]
    for knob in knobs:
        values = [value for value in _ends(knob) if value != default[knob.name]]
        tried += [{**default, knob.name: value} for value in values]
    return [Case(technique, settings, specimen) for settings in tried]


def _ends(knob: Hyperparameter) -> list[Scalar]:
    """Both bounds of a number; of ordered values the first and last, of others all."""
    if not isinstance(knob, OneOf):
        return [knob.low, knob.high]
    return [knob.values[0], knob.values[-1]] if knob.ordered else list(knob.values)


def is_a_technique(case: Case) -> None:
    """It has a name, a version, a source, and moves only observables that exist."""
    technique = case.technique
    if not isinstance(technique, Technique):
        raise ContractBroken(f"{technique!r} lacks something that the Technique protocol names")
    _need(isinstance(technique.version, int) and technique.version >= 1, "its version is no count")
    _need(bool(technique.source.strip()), "it names no source")
    unknown = sorted(set(technique.moves) - set(OBSERVABLES))
    _need(not unknown, f"it moves {unknown}; observables are {', '.join(OBSERVABLES)}")


def knobs_are_sound(case: Case) -> None:
    """Names differ, defaults lie inside, ranges are not upside down."""
    knobs = case.technique.hyperparameters(case.specimen.paper)
    names = [knob.name for knob in knobs]
    _need(len(set(names)) == len(names), f"two knobs share a name: {names}")
    for knob in knobs:
        if isinstance(knob, OneOf):
            sound = knob.default in knob.values and len(set(knob.values)) == len(knob.values)
        else:
            sound = knob.low <= knob.default <= knob.high and not (knob.log and knob.low <= 0)
        _need(sound, f"{knob} has a default outside its range, or a range that is none")


def refusals_say_what_to_do(case: Case) -> None:
    """Settings are legal, or every objection says what to do next."""
    for reason in case.objections:
        _need(isinstance(reason, str) and len(reason) > 15, f"{reason!r} explains nothing")
        advises = any(word in f"{reason.lower()} " for word in _ADVICE)
        _need(advises, f"{reason!r} does not say what to do")


def steps_are_well_formed(case: Case) -> None:
    """Each step is of one kind, named once, versioned, placed, with JSON scalars as settings."""
    names = [step.name for step in case.steps]
    _need(len(set(names)) == len(names), f"two steps share a name: {names}")
    for step in case.steps:
        _need(isinstance(step, Step), f"{step!r} lacks something that the Step protocol names")
        kinds = [kind.__name__ for kind in _KINDS if isinstance(step, kind)]
        _need(len(kinds) == 1, f"{step.name} must be of one kind of step, and is of {kinds}")
        _need("." in step.name or step.name.islower(), f"{step.name} is not named technique.verb")
        _need(isinstance(step.version, int) and step.version >= 1, f"{step.name} has no version")
        _need(isinstance(step.phase, Phase), f"{step.name} has no phase")
        unknown = sorted(set(step.reads) - READS)
        _need(not unknown, f"{step.name} reads {unknown}; known are {sorted(READS)}")
        scalars = all(isinstance(v, str | int | float | bool) for v in step.settings.values())
        _need(scalars, f"{step.name} has settings that are no JSON scalars: {step.settings}")
        json.dumps(dict(step.settings), allow_nan=False)


def paper_is_pure(case: Case) -> None:
    """`on_paper` gives the same paper twice, and leaves the one it was given as it was."""
    paper = case.specimen.paper
    for step in case.steps:
        before = json.dumps(paper.to_json())
        once, twice = step.on_paper(paper), step.on_paper(paper)
        _agree(f"{step.name}: the same paper, twice", once, twice)
        _need(json.dumps(paper.to_json()) == before, f"{step.name} edits the paper it was given")
        paper = once


def practice_carries_its_paper(case: Case) -> None:
    """Every step hands on the paper that it promised."""
    for node in case.nodes:
        _agree(f"{node.step.name}: the paper", node.after, node.candidate.paper)


def parameters_agree(case: Case) -> None:
    """The module's parameters are the paper's, by name and shape, at every node; so is a map."""
    for node in case.nodes:
        profile = node.after.profile
        promised = {weight.name: weight.shape for weight in profile.weights()}
        promised |= {family_of(profile.family).word_map: p.shape for p in map_parts(profile)}
        made = {name: tuple(t.shape) for name, t in kept_tensors(node.candidate.module).items()}
        for name in sorted({*promised, *made}):
            what = f"{node.step.name}: shape of {name}"
            _agree(what, promised.get(name, "absent"), made.get(name, "absent"))


def zeros_agree(case: Case) -> None:
    """Every row of a sparse matrix holds its zeros, at every node: nothing fills them again."""
    for node in case.nodes:
        profile, parameters_now = node.after.profile, tensors(node.candidate.module)
        for weight in profile.weights():
            if wanted := profile.zeros(weight):
                found = (parameters_now[weight.name] == 0).sum(dim=weight.input_axis).min()
                _need(
                    int(found) >= wanted,
                    f"{node.step.name}: a row of {weight.name} has {int(found)} zeros; the paper "
                    f"says {wanted}",
                )


def trainable_parameters_agree(case: Case) -> None:
    """As many parameters train as the paper counts, and training moves no other element."""
    for node in case.nodes:
        training = trained_elements(node.candidate)
        if training is None:
            continue
        made = sum(map(np.count_nonzero, training.values()))
        _agree(f"{node.step.name}: trainable parameters", node.after.trainable_parameters, made)
        if isinstance(node.step, Train):
            old, new = tensors(node.given.module), tensors(node.candidate.module)
            moved = {name: (old[name] != new[name]).numpy() for name in new}
            still = np.zeros((), dtype=np.bool_)  # a map of words is no parameter
            frozen = sorted(n for n in moved if (moved[n] & ~training.get(n, still)).any())
            _need(not frozen, f"{node.step.name} moves {frozen[:3]}, which the recipe freezes")
            _need(any(map(np.any, moved.values())), f"{node.step.name} moves no parameter")


def no_step_changes_what_it_was_given(case: Case) -> None:
    """The candidate that a step starts from can be started from again."""
    for node in case.nodes:
        _need(not node.spoiled, f"{node.step.name} changes the candidate that it was given")


def flops_agree(case: Case) -> None:
    """A forward pass costs what the paper says, at every node, to the last FLOP."""
    for node in case.nodes:
        promised = forward_flops(node.after.profile, FLOPS_BATCH, FLOPS_TOKENS)
        made = counted_flops(node.candidate.module, node.after.profile)
        _agree(f"{node.step.name}: forward FLOPs", promised, made)


def bytes_agree(case: Case) -> None:
    """The files hold as many bytes of tensors as the runtime says, in every runtime."""
    for answer in case.answers:
        _agree(f"{answer.runtime}: bytes of tensors", answer.promised, answer.written)


def saved_and_loaded_answers_are_equal(case: Case) -> None:
    """A candidate that is saved and loaded answers the same, bit for bit, at every node."""
    for node in case.nodes:
        loaded = _stored(node.candidate)
        _agree(f"{node.step.name}: the paper, loaded", node.candidate.paper, loaded.paper)
        _agree(f"{node.step.name}: the notes, loaded", node.candidate.notes, loaded.notes)
        masks = same_tensors(node.candidate.masks, loaded.masks)
        _need(masks, f"{node.step.name}: its masks are others once they are loaded")
        same = np.array_equal(logits_of(node.candidate), logits_of(loaded))
        same = same and same_tensors(node.candidate.grids, loaded.grids)
        _need(same, f"{node.step.name}: what was saved and loaded answers otherwise")


def a_paused_training_ends_the_same(case: Case) -> None:
    """A training that stops after a step, is stored and goes on, ends as if it never stopped."""
    for node in case.nodes:
        total = node.given.paper.recipe.total_steps
        if isinstance(node.step, Train) and total > 1:
            bench = MemoryBench(case.specimen.candidate)
            paused = _stored(node.step.run(node.given, 1, bench, 0))
            ended = replace(node, candidate=node.step.run(paused, total, bench, 0))
            _compare([node], [ended], "ends otherwise when it pauses after a step")


def the_same_seed_gives_the_same_result(case: Case) -> None:
    """Done again with the same seed, every step makes the same."""
    _compare(case.nodes, walk(case), "gives another result with the same seed")


def steps_that_declare_no_draw_ignore_the_seed(case: Case) -> None:
    """Without `draws`, another seed gives the same, and global generators stand still."""
    still = [node.step.draws for node in case.nodes]
    until = still.index(True) if True in still else len(still)
    other = walk(case, seed=1, steps=until)
    _compare(case.nodes[:until], other, "depends on the seed but does not declare that it draws")
    for node in case.nodes:
        _need(not node.touched or node.step.draws, f"{node.step.name} moves a global generator")


def only_declared_splits_are_read(case: Case) -> None:
    """A step asks the bench for the splits in its `reads`, never for validation or test."""
    for node in case.nodes:
        undeclared = sorted(set(node.asked) - set(node.step.reads))
        _need(not undeclared, f"{node.step.name} reads {undeclared} and does not declare it")


def only_a_declared_recipe_is_read(case: Case) -> None:
    """A Change without `recipe` in its `reads` makes the same whatever the recipe says."""
    for node in case.nodes:
        if isinstance(node.step, Change) and "recipe" not in node.step.reads:
            paper = node.given.paper
            other = replace(paper, recipe=replace(paper.recipe, learning_rate=0.5, batch=2))
            bench = MemoryBench(case.specimen.candidate)
            again = node.step.apply(replace(node.given, paper=other), bench, 0)
            same = same_tensors(tensors(again.module), tensors(node.candidate.module))
            _need(same, f"{node.step.name} reads the recipe and does not declare it")


def what_it_declares_moves(case: Case) -> None:
    """Each setting moves an observable that the technique declares, and none that it does not."""
    found, declared = moved(case), case.technique.moves
    said = f"it moves {sorted(found) or 'nothing'}, and declares {sorted(declared) or 'nothing'}"
    _need(found <= declared, said)
    _need(bool(found) or not declared, said)


def moved(case: Case) -> frozenset[str]:
    """The observables in which a case differs from the given model."""
    start = case.specimen.paper
    found = {name for paper in case.papers for name in _moved_on_paper(start, paper)}
    deploys = any(step.phase == Phase.DEPLOY for step in case.steps)
    plain = {answer.runtime: answer for answer in case.specimen.answers}
    for answer in case.answers:
        other = case.specimen.answers[0] if deploys else plain[answer.runtime]
        if answer.written != other.written:
            found.add("bytes")
        # Another runtime adds in another order; that alone moves nothing.
        close = np.allclose(answer.logits, other.logits, atol=1e-4, rtol=1e-4)
        if not (close if deploys else np.array_equal(answer.logits, other.logits)):
            found.add("outputs")
    return frozenset(found)


def _moved_on_paper(one: Paper, other: Paper) -> set[str]:
    figures: dict[str, Callable[[Paper], Any]] = {
        "parameters": lambda p: parameters(p.profile),
        "trainable": lambda p: p.trainable_parameters,
        "flops": lambda p: forward_flops(p.profile, FLOPS_BATCH, FLOPS_TOKENS),
        "recipe": lambda p: p.recipe,
    }
    return {name for name, figure in figures.items() if figure(one) != figure(other)}


def _everything_declared_moves(cases: Sequence[Case]) -> None:
    if cases:
        seen = frozenset[str]().union(*(moved(case) for case in cases))
        idle = sorted(cases[0].technique.moves - seen)
        _need(not idle, f"{cases[0].technique.name} declares to move {idle}, and no setting does")


CHECKS: Final[Mapping[str, Callable[[Case], None]]] = {
    check.__name__: check
    for check in (
        is_a_technique,
        knobs_are_sound,
        refusals_say_what_to_do,
        steps_are_well_formed,
        paper_is_pure,
        practice_carries_its_paper,
        parameters_agree,
        zeros_agree,
        trainable_parameters_agree,
        no_step_changes_what_it_was_given,
        flops_agree,
        bytes_agree,
        saved_and_loaded_answers_are_equal,
        a_paused_training_ends_the_same,
        the_same_seed_gives_the_same_result,
        steps_that_declare_no_draw_ignore_the_seed,
        only_declared_splits_are_read,
        only_a_declared_recipe_is_read,
        what_it_declares_moves,
    )
}
"""Every check by its name."""

_ABOUT_REFUSALS: Final = frozenset({"is_a_technique", "knobs_are_sound", "refusals_say_what_to_do"})


def _stored(candidate: Candidate) -> Candidate:
    """A candidate saved and loaded."""
    with tempfile.TemporaryDirectory() as folder:
        save_candidate(candidate, Path(folder))
        return load_candidate(Path(folder))


def _need(true: bool, otherwise: str) -> None:
    if not true:
        raise ContractBroken(otherwise)


def _agree(what: str, promised: object, made: object) -> None:
    if promised != made:
        raise ContractBroken(f"{what}: paper says {promised}, practice {made}")


def _compare(nodes: Sequence[Node], others: Sequence[Node], otherwise: str) -> None:
    for node, other in zip(nodes, others, strict=True):
        one, two = node.candidate, other.candidate
        same = same_tensors(tensors(one.module), tensors(two.module))
        states = [c.train_state.tensors if c.train_state else {} for c in (one, two)]
        same = same and same_tensors(*states) and one.notes == two.notes
        same = same and same_tensors(one.grids, two.grids)
        _need(same and one.paper == two.paper, f"{node.step.name} {otherwise}")
