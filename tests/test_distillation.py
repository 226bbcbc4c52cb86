"""What a student is compared with: each loss against its formula, its zero and its limits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from paretune.errors import StepFailed
from paretune.spaces.answers import asking, related_layer
from paretune.spaces.batching import inputs_of
from paretune.spaces.build import build
from paretune.spaces.candidate import Candidate
from paretune.spaces.configuration import Choice, Configuration
from paretune.spaces.families import family_of
from paretune.spaces.load import Load
from paretune.spaces.losses import logits_loss, objective, paired, relation_loss
from paretune.spaces.lower import Subject, lower, trainings, walk
from paretune.spaces.models import inspect_model, profile_of
from paretune.spaces.paper import Paper
from paretune.spaces.profile import Attention, FeedForward, Head, Layer, Profile
from paretune.spaces.recipe import Loss, Recipe
from paretune.spaces.recovery import TABLE
from paretune.spaces.slots import slots
from paretune.spaces.technique import Targets
from paretune.spaces.testing import MemoryBench, random_items
from paretune.spaces.training import RecoverStep
from torch import Tensor

FAMILIES = ("bert", "roberta", "distilbert", "gpt2", "llama", "qwen2")
GROUPED = {"llama", "qwen2"}
MATCHED = (
    Loss("logits", temperature=3.0),
    Loss("hidden"),
    Loss("hidden", pairs="top"),
    Loss("attention"),
    Loss("attention", pairs="last"),
    Loss("relations", heads=8),
    Loss("relations", heads=2, depth=0.75),
)


def profile(family: str, layers: int = 3, width: int = 32, heads: int = 4) -> Profile:
    described = family_of(family)
    kv_heads = heads // 2 if family in GROUPED else heads
    layer = Layer(Attention(heads, kv_heads, 8), FeedForward(32, gated=family in GROUPED))
    extra = {"pad_token_id": 0, "max_position_embeddings": 64}
    if "positions" in described.tables:
        del extra["max_position_embeddings"]
    return Profile(
        family=family,
        width=width,
        vocabulary=43,
        positions=64 if "positions" in described.tables else 0,
        token_types=2 if described.sizes.token_types else 0,
        layers=(layer,) * layers,
        head=Head("classification", 3),
        extra=tuple(sorted(extra.items())),
    )


def compared(student: Candidate, teacher: Candidate, loss: Loss) -> Tensor:
    """A loss as the trainer computes it, on random items."""
    items = random_items(student.paper.profile, 4, 8, seed=5)
    inputs = inputs_of(items, torch.device("cpu"))
    answers = []
    for side, teaches in ((student, False), (teacher, True)):
        with asking(side.module, side.paper.profile, [loss], teaches=teaches) as ask:
            answers.append(ask(inputs))
    labels = torch.from_numpy(items.labels)
    return objective([loss], *answers, labels, inputs["attention_mask"])


def candidate(described: Profile, seed: int = 0) -> Candidate:
    return Candidate(build(described, seed=seed), Paper(described))


def named(loss: Loss) -> str:
    return f"{loss.kind}-{loss.pairs}-{loss.depth}"


@pytest.mark.parametrize("loss", [loss for loss in MATCHED if loss.depth == 1.0], ids=named)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(family, loss):
    described = profile(family)
    found = compared(candidate(described), candidate(described), loss)
    assert found.item() == pytest.approx(0, abs=1e-6)
    other = compared(candidate(described), candidate(described, seed=1), loss)
    assert other.item() > 1e-5


@pytest.mark.parametrize("loss", MATCHED, ids=named)
def test_depth_width_and_heads_may_all_differ(loss):
    student = candidate(profile("bert", layers=2, width=24, heads=3))
    teacher = candidate(profile("bert", layers=4, width=48, heads=6))
    found = compared(student, teacher, loss)
    found.backward()
    assert 0 < found.item() < 100
    grown = [p.grad.abs().sum() for p in student.module.parameters() if p.grad is not None]
    assert all(torch.isfinite(size) for size in grown)
    assert sum(grown) > 0


def test_the_softer_the_answers_the_nearer_their_loss_is_to_a_squared_difference():
    torch.manual_seed(0)
    teacher = torch.randn(5, 4)
    teacher -= teacher.mean(1, keepdim=True)
    student = torch.randn(5, 4)
    student = (student - student.mean(1, keepdim=True)).requires_grad_()
    labels = torch.zeros(5, dtype=torch.long)
    squared = (student - teacher).square().sum() / (2 * 4 * 5)
    (wanted,) = torch.autograd.grad(squared, student)
    off = []
    for temperature in (1.0, 10.0, 100.0):
        loss = logits_loss(student, teacher, labels, temperature)
        (found,) = torch.autograd.grad(loss, student)
        off.append((found - wanted).abs().max().item())
    assert off[0] > off[1] > off[2]
    assert off[2] < 0.02 * wanted.abs().max().item()


def test_relations_are_what_a_slow_loop_finds():
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    student = [torch.randn(2, 5, width) for width in (12, 6, 6)]
    teacher = [torch.randn(2, 5, width) for width in (24, 24, 24)]
    heads, total = 3, 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        kind, tokens = 0.0, 0
        for text in range(2):
            length = int(mask[text].sum())
            tokens += length
            for head in range(heads):
                p, q = (relation(x[text, :length], head, heads) for x in (theirs, ours))
                kind += float((p * (p / q).log()).sum()) / heads
        total += kind / tokens / 3
    assert relation_loss(student, teacher, mask, heads).item() == pytest.approx(total, rel=1e-5)


def relation(projected: Tensor, head: int, heads: int) -> Tensor:
    size = projected.shape[1] // heads
    part = projected[:, head * size : (head + 1) * size]
    scores = torch.empty(len(part), len(part))
    for i, one in enumerate(part):
        for j, other in enumerate(part):
            scores[i, j] = (one * other).sum() / size**0.5
    return torch.softmax(scores, -1)


def test_padding_is_related_to_nothing():
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 0]])
    student, teacher = ([torch.randn(1, 4, 8) for _ in range(3)] for _ in range(2))
    before = relation_loss(student, teacher, mask, 2)
    for projected in (*student, *teacher):
        projected[0, 3] = 1e4
    assert relation_loss(student, teacher, mask, 2).item() == pytest.approx(before.item())


def test_relation_heads_that_divide_nothing_are_refused_by_number():
    six = [torch.randn(1, 2, 6)] * 3
    with pytest.raises(StepFailed, match="4 relation heads do not divide a projection of 6"):
        relation_loss(six, six, torch.ones(1, 2), 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_related_are_the_layers_own_projections(family):
    model = candidate(profile(family))
    items = random_items(model.paper.profile, 4, 8, seed=5)
    inputs = inputs_of(items, torch.device("cpu"))
    with asking(model.module, model.paper.profile, [Loss("relations")]) as ask:
        answer = ask(inputs)
    described = family_of(family)
    names = {w.name: w for w in model.paper.profile.weights() if w.layer == 2}
    entering: list[Tensor] = []
    query = model.module.get_submodule(described.path("attention.query", 2))
    query.register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    with torch.no_grad():
        model.module(**inputs)
    found = torch.cat(list(answer.projections), -1)
    parts = []
    for role in dict.fromkeys(
        described.path(role, 2) for role in ("attention.query", "attention.key", "attention.value")
    ):
        weight = model.module.get_parameter(f"{role}.weight")
        matrix = weight if names[f"{role}.weight"].input_axis == 0 else weight.mT
        bias = dict(model.module.named_parameters()).get(f"{role}.bias", torch.zeros(1))
        parts.append(entering[0] @ matrix + bias)
    torch.testing.assert_close(found, torch.cat(parts, -1))


def test_the_teachers_layer_stands_at_a_share_of_its_depth():
    described = profile("bert", layers=8)
    assert [related_layer(described, share) for share in (0.5, 0.75, 1.0)] == [3, 5, 7]
    blind = Layer(None, FeedForward(32))
    gaps = replace(described, layers=(*described.layers[:4], blind, blind))
    assert related_layer(gaps, 1.0) == 3
    with pytest.raises(StepFailed, match="without attention"):
        related_layer(replace(described, layers=(blind,)), 1.0)


def test_layers_pair_evenly_from_the_top_or_at_the_end_alone():
    assert paired(3, 6, "spread") == [(0, 0), (1, 2), (2, 4), (3, 6)]
    assert paired(3, 6, "top") == [(3, 6), (2, 5), (1, 4)]
    assert paired(6, 3, "top") == [(6, 3), (5, 2), (4, 1)]
    assert paired(3, 6, "last") == [(3, 6)]
    assert paired(0, 6, "top") == [(0, 6)]


def told(name: str, described: Profile, **changed: object) -> list[str]:
    paper = Paper(described, Recipe(train_items=8, epochs=1))
    technique = TABLE[name]
    settings = {k.name: k.default for k in technique.hyperparameters(paper)} | changed
    return technique.objections(paper, settings, Targets())


def test_relation_heads_must_fit_what_is_left_of_the_students_heads():
    cut = profile("bert", heads=3)
    assert not told("distil_relations", cut, relation_heads=8)
    (reason,) = told("distil_relations", cut, relation_heads=16)
    assert "16 relation heads do not divide" in reason
    assert "choose one of 1, 2, 4, 6, 8, 12, 24" in reason


def test_the_default_relation_heads_fit_whatever_heads_are_removed():
    whole = profile("bert", heads=12)
    knobs = {k.name: k for k in TABLE["distil_relations"].hyperparameters(Paper(whole))}
    for heads in range(1, 13):
        default = knobs["relation_heads"].default
        assert not told("distil_relations", profile("bert", heads=heads), relation_heads=default)


def test_blocks_without_attention_are_matched_by_their_states_alone():
    described = profile("bert")
    gap = replace(described, layers=(*described.layers[:2], Layer(None, FeedForward(32))))
    assert "match: hidden" in told("distil_layers", gap, match="attention")[0]
    assert not told("distil_layers", gap, match="hidden")
    assert not told("distil_relations", gap)
    none = replace(described, layers=(Layer(None, FeedForward(32)),))
    assert "no relations" in told("distil_relations", none)[0]


@pytest.mark.parametrize("name", ["distil_layers", "distil_relations"])
def test_learning_brings_a_student_nearer_to_its_teacher(name):
    teacher = candidate(profile("bert", layers=4), seed=7)
    student = candidate(profile("bert", layers=2), seed=0)
    with torch.no_grad():  # as they are drawn, tokens have next to nothing to do with each other
        for weight_name, weight in teacher.module.named_parameters():
            if "attention.self" in weight_name:
                weight.mul_(20)
    recipe = Recipe(train_items=8, epochs=40, batch=4)
    paper = Paper(student.paper.profile, recipe)
    knobs = TABLE[name].hyperparameters(paper)
    settings = {k.name: k.default for k in knobs} | {"alpha": 0.0, "share": 1.0, "weight": 10.0}
    amend, train = TABLE[name].steps(paper, {**settings, "learning_rate": 1e-3})
    paper = amend.on_paper(paper)
    matched = replace(paper.recipe.losses[-1], weight=1.0)
    assert isinstance(train, RecoverStep)
    after = train.run(replace(student, paper=paper), 80, MemoryBench(teacher), 0)
    before = compared(student, teacher, matched).item()
    assert compared(after, teacher, matched).item() < 0.7 * before


@pytest.fixture(scope="module")
def subject(tiny_models: dict[str, Path]) -> Subject:
    source = inspect_model(str(tiny_models["bert"]))
    described = profile_of(source, "classification", 3)
    return Subject(
        load=Load(source, described),
        profile=described,
        recipe=Recipe(train_items=64, epochs=2.0, batch=16),
        digests={"model": source.digest, "train": "t", "calibration": "c"},
        baseline=Configuration.of(finetuning=Choice.of("full", learning_rate=1e-4)),
        rungs=(0.25, 1.0),
    )


def chosen(subject: Subject, **methods: tuple[str, dict[str, object]]) -> Configuration:
    choices = {}
    for slot, (method, given) in methods.items():
        knobs = slots()[slot].technique(method).hyperparameters(subject.paper)
        choices[slot] = Choice.of(method, **{**{k.name: k.default for k in knobs}, **given})
    return Configuration.of(**choices)


@pytest.mark.parametrize("rung", [0, 1])
@pytest.mark.parametrize("finetuning", ["full", "lora"])
def test_a_candidate_may_be_taught_by_itself_before_it_was_cut(subject, finetuning, rung):
    configuration = chosen(
        subject,
        finetuning=(finetuning, {}),
        structure=("heads", {"keep": 0.5, "when": "after"}),
        recovery=("distil", {"teacher": "self"}),
    )
    graph = lower(configuration, subject, rung)
    recovery = next(node for node in graph if node.step.name == "train.recover")
    teacher = graph.node(recovery.inputs[1])
    assert teacher.step.name == "train.finetune"
    assert teacher.until_step == [2, 8][rung]
    assert teacher.after.profile.layers == subject.profile.layers
    assert recovery.before.recipe.teacher == teacher.key
    assert recovery.after.profile.layers != subject.profile.layers
    # No other training is paid for: neither the baseline's nor a second one of its own.
    assert graph.taught == ()
    assert len(graph.trainings) == 1
    assert set(trainings(walk(configuration, subject), subject)) == set(graph.trainings)


def test_without_a_fine_tuning_the_given_model_teaches(subject):
    configuration = chosen(
        subject,
        structure=("ffn", {"keep": 0.5, "when": "after"}),
        recovery=("distil_relations", {"teacher": "self"}),
    )
    graph = lower(configuration, subject)
    recovery = next(node for node in graph if node.step.name == "train.recover")
    assert graph.node(recovery.inputs[1]).step.name == "load"


@pytest.mark.parametrize("finetuning", ["full", "lora"])
@pytest.mark.parametrize("structure", [{}, {"structure": ("heads", {"when": "before"})}])
def test_a_candidate_that_lost_nothing_since_cannot_teach_itself(subject, structure, finetuning):
    configuration = chosen(
        subject, finetuning=(finetuning, {}), recovery=("distil", {"teacher": "self"}), **structure
    )
    (reason,) = walk(configuration, subject).objections
    assert "recovery: nothing was cut" in reason
    assert "choose teacher: baseline" in reason
    taught = configuration.replace(
        recovery=Choice.of(
            "distil", **{**dict(configuration.get("recovery").settings), "teacher": "baseline"}
        )
    )
    assert not walk(taught, subject).objections
