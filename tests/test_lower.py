"""From a configuration to keys: what siblings share, what a key depends on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from paretune.errors import StepFailed
from paretune.spaces.configuration import Choice, Configuration
from paretune.spaces.load import Load
from paretune.spaces.lower import Graph, Subject, lower, plain, trainings, walk
from paretune.spaces.models import inspect_model, profile_of
from paretune.spaces.recipe import Recipe
from paretune.spaces.slots import slots
from paretune.spaces.space import Space

FULL = Choice.of("full", learning_rate=1e-4)


@pytest.fixture(scope="module")
def subject(tiny_models: dict[str, Path]) -> Subject:
    source = inspect_model(str(tiny_models["bert"]))
    profile = profile_of(source, "classification", 3)
    return Subject(
        load=Load(source, profile),
        profile=profile,
        recipe=Recipe(train_items=64, epochs=2.0, batch=16),
        digests={"model": source.digest, "train": "t", "calibration": "c"},
        baseline=Configuration.of(finetuning=FULL),
        rungs=(0.25, 1.0),
        environment=(("torch", "1"),),
    )


def chosen(subject: Subject, slot: str, method: str, **given) -> Choice:
    """A choice with the method's defaults, and some settings given."""
    technique = slots()[slot].technique(method)
    defaults = {h.name: h.default for h in technique.hyperparameters(subject.paper)}
    return Choice.of(method, **{**defaults, **given})


def example(subject: Subject, **changed: Choice | None) -> Configuration:
    """LoRA r8 merged, heads pruned after, distilled from the baseline, int8, ONNX Runtime."""
    base = Configuration.of(
        finetuning=chosen(subject, "finetuning", "lora", rank=8),
        structure=chosen(subject, "structure", "heads", keep=0.5, when="after"),
        recovery=chosen(subject, "recovery", "distil"),
        precision=chosen(subject, "precision", "int8"),
        runtime=chosen(subject, "runtime", "onnxruntime"),
    )
    return base.replace(**changed)


def names(graph: Graph) -> list[str]:
    return [node.step.name for node in graph]


def shared(one: Graph, other: Graph) -> list[str]:
    """Names of the steps whose results both graphs can use."""
    keys = {node.key for node in other}
    return [node.step.name for node in one if node.key in keys]


def test_the_example_of_the_design_becomes_its_graph(subject: Subject):
    graph = lower(example(subject), subject)
    assert names(graph) == [
        "load",  # shared with the teacher's graph
        "train.finetune",  # the baseline to a quarter ...
        "train.finetune",  # ... and to the end: the teacher
        "adapter.attach",
        "train.finetune",
        "train.finetune",
        "adapter.merge",
        "heads.prune_quiet",
        "train.recover",
        "onnxruntime.deploy",
    ]
    recovery = next(node for node in graph if node.step.name == "train.recover")
    teacher = [node for node in graph if node.step.name == "train.finetune"][1]
    assert recovery.inputs[1] == teacher.key == recovery.before.recipe.teacher
    assert not graph.paper.profile.adapters
    assert graph.paper.profile.format_of("ffn").name == "int8"
    assert graph.paper.runtime == "onnxruntime"


def test_siblings_that_differ_in_precision_share_all_but_the_deployed_artifact(subject: Subject):
    one = lower(example(subject), subject)
    other = lower(example(subject, precision=None), subject)
    assert shared(one, other) == names(one)[:-1]


def test_siblings_that_differ_in_structure_share_the_fine_tuning(subject: Subject):
    one = lower(example(subject), subject)
    other = lower(
        example(subject, structure=chosen(subject, "structure", "ffn", keep=0.5, when="after")),
        subject,
    )
    assert shared(one, other) == names(one)[:7]


def test_pruning_before_fine_tuning_shares_only_the_given_model_and_the_teacher(subject: Subject):
    one = lower(example(subject), subject)
    early = chosen(subject, "structure", "heads", keep=0.5, when="before")
    assert shared(one, lower(example(subject, structure=early), subject)) == names(one)[:3]


def test_a_rung_goes_on_where_the_one_below_stopped(subject: Subject):
    configuration = Configuration.of(finetuning=FULL)
    low, high = lower(configuration, subject, 0), lower(configuration, subject, 1)
    assert [node.until_step for node in low if node.until_step] == [2]
    assert [node.until_step for node in high if node.until_step] == [2, 8]
    assert shared(low, high) == ["load", "train.finetune"]
    assert low.trainings == high.trainings
    assert len(high.trainings) == 1


def test_rungs_of_as_many_steps_are_one_stage(subject: Subject):
    close = replace(subject, rungs=(0.9, 0.95, 1.0))
    high = lower(Configuration.of(finetuning=FULL), close)
    assert [node.until_step for node in high if node.until_step] == [8]
    assert lower(Configuration.of(finetuning=FULL), close, 0).last.key == high.last.key


@pytest.mark.parametrize("rung", [0, 1])
def test_a_training_is_counted_once_at_every_rung_and_a_teacher_is_not(subject: Subject, rung: int):
    graph = lower(example(subject), subject, rung)
    assert [node.step.name for node in graph.trained] == ["train.finetune", "train.recover"]
    fine = graph.trained[0]
    assert fine.before.profile.adapters
    assert fine.until_step == [2, 8][rung]
    (taught,) = graph.taught
    assert taught.training == lower(subject.baseline, subject).trainings[0]
    assert lower(example(subject, recovery=None), subject).taught == ()


def test_trainings_are_named_without_lowering_as_the_graph_names_them(subject: Subject):
    drawn = Space.of({slot: {} for slot in slots()}, subject.paper).sample(300, 0)
    legal = [(c, path) for c in drawn if not (path := walk(c, subject)).objections]
    assert len(legal) > 50
    for configuration, path in legal:
        named = trainings(path, subject)
        assert set(named) == set(lower(configuration, subject).trainings)
    assert any(c.get("recovery") and c.get("finetuning") for c, _ in legal)


def test_a_later_training_is_one_node_at_every_rung(subject: Subject):
    configuration = Configuration.of(
        finetuning=FULL,
        structure=chosen(subject, "structure", "ffn", keep=0.5, when="after"),
        recovery=chosen(subject, "recovery", "finetune", share=1.0),
    )
    low, high = lower(configuration, subject, 0), lower(configuration, subject, 1)
    assert names(low).count("train.recover") == names(high).count("train.recover") == 1
    assert [n.until_step for n in low if n.step.name == "train.recover"] == [2]
    assert [n.until_step for n in high if n.step.name == "train.recover"] == [8]


def test_a_teacher_is_at_full_fidelity_at_the_lowest_rung(subject: Subject):
    graph = lower(example(subject), subject, 0)
    teacher = graph.node(next(n for n in graph if n.step.name == "train.recover").inputs[1])
    assert teacher.until_step == teacher.before.recipe.total_steps


@pytest.mark.parametrize("what", ["seed", "train", "environment"])
def test_what_a_step_reads_enters_its_key(subject: Subject, what: str):
    configuration = Configuration.of(finetuning=FULL)
    other = {
        "seed": replace(subject, seed=1),
        "train": replace(subject, digests={**subject.digests, "train": "other"}),
        "environment": replace(subject, environment=(("torch", "2"),)),
    }[what]
    one, two = lower(configuration, subject), lower(configuration, other)
    assert one.last.key != two.last.key
    if what == "train":
        assert shared(one, two) == ["load"]


def test_calibration_data_moves_only_the_keys_of_steps_that_read_it(subject: Subject):
    other = replace(subject, digests={**subject.digests, "calibration": "other"})
    by_weights = chosen(subject, "structure", "ffn", keep=0.5, importance="weights")
    by_data = chosen(subject, "structure", "ffn", keep=0.5, importance="activations")
    for structure, moves in ((by_weights, False), (by_data, True)):
        configuration = Configuration.of(finetuning=FULL, structure=structure)
        one, two = lower(configuration, subject), lower(configuration, other)
        assert (one.last.key != two.last.key) is moves


def test_an_illegal_configuration_says_which_slot_objects(subject: Subject):
    large = example(subject, finetuning=chosen(subject, "finetuning", "lora", rank=64))
    assert walk(large, subject).objections
    with pytest.raises(StepFailed, match=r"finetuning\.lora: rank 64"):
        lower(large, subject)


def test_a_slot_left_as_it_is_and_one_chosen_off_mean_the_same():
    off = Configuration.of(structure=Choice.of("none"), runtime=Choice.of("eager"))
    assert plain(off) == Configuration()


def test_a_repeat_under_another_seed_learns_from_the_baseline_that_there_is(subject: Subject):
    one = lower(example(subject), subject)
    repeat = lower(example(subject), replace(subject, seed=1, teacher_seed=0))
    teacher = next(n for n in one if n.step.name == "train.recover").inputs[1]
    assert next(n for n in repeat if n.step.name == "train.recover").inputs[1] == teacher
    assert repeat.last.key != one.last.key


@pytest.mark.parametrize(
    ("before", "when", "legal"),
    [
        ({}, "after", False),
        ({"recovery": ("finetune", {})}, "after", False),
        ({"finetuning": ("full", {})}, "before", False),
        ({"finetuning": ("full", {})}, "after", True),
        ({"finetuning": ("lora", {})}, "after", True),
        ({"architecture": ("subnet", {})}, "before", True),
        ({"architecture": ("subnet", {}), "finetuning": ("head", {})}, "before", True),
    ],
)
def test_gradients_judge_once_something_trained_the_classifier(subject, before, when, legal):
    made = {slot: chosen(subject, slot, name, **told) for slot, (name, told) in before.items()}
    told = {"importance": "gradients", "when": when}
    for method in ("heads", "ffn", "layers"):
        cut = chosen(subject, "structure", method, **told)
        path = walk(Configuration.of(**made, structure=cut), subject)
        assert (not path.objections) == legal, path.objections
        assert legal or "nothing has trained the classifier yet" in path.objections[0]


def test_a_training_says_on_paper_what_learnt(subject: Subject):
    moves = walk(example(subject), subject).moves
    learnt = {move.step.name: move.after.learnt for move in moves}
    assert learnt["load"] == learnt["adapter.attach"] == ()
    lora = ("*.lora_A.default.weight", "*.lora_B.default.weight")
    assert learnt["train.finetune"][:2] == lora
    assert "classifier.weight" in learnt["train.finetune"]
    assert learnt["onnxruntime.deploy"][-1] == "*"
