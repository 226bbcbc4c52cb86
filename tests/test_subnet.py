"""Super-networks: every sub-network is a part of the whole, and all of them share one training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from optuna.trial import FixedTrial
from paretune.errors import StudyError
from paretune.evaluators.catalogue import metric
from paretune.evaluators.compute.backward import training_step_flops
from paretune.evaluators.compute.step import step_flops
from paretune.evaluators.metric import Evidence
from paretune.spaces.answers import asking
from paretune.spaces.architecture import OFF, TABLE
from paretune.spaces.architecture.elastic import Extract, OrderUnits
from paretune.spaces.architecture.live import ORDER, Supernet
from paretune.spaces.architecture.shapes import (
    Block,
    Blocks,
    _drawn,
    bounds,
    depths,
    groups,
    neurons,
    sandwich,
    shrunk,
    tapered,
    whole_block,
)
from paretune.spaces.batching import inputs_of
from paretune.spaces.build import build
from paretune.spaces.candidate import Candidate
from paretune.spaces.configuration import Choice, Configuration
from paretune.spaces.families import family_of
from paretune.spaces.hyperparameter import narrow
from paretune.spaces.load import Load
from paretune.spaces.losses import task_loss
from paretune.spaces.lower import Subject, lower, plain, walk
from paretune.spaces.models import inspect_model, profile_of
from paretune.spaces.paper import Paper, Workload
from paretune.spaces.profile import Attention, FeedForward, Head, Layer, Profile, parameters
from paretune.spaces.recipe import Loss, Recipe
from paretune.spaces.runtimes.refusals import hf_refusals
from paretune.spaces.slots import slots
from paretune.spaces.space import Space
from paretune.spaces.structure.counts import kept_of
from paretune.spaces.technique import Targets
from paretune.spaces.testing import MemoryBench, random_items
from paretune.spaces.training import SupernetStep
from torch import Tensor, nn

FAMILIES = ("bert", "roberta", "distilbert", "gpt2", "llama", "qwen2")
GROUPED = {"llama", "qwen2"}
UNEVEN: Blocks = (Block(1, 24), Block(2, 64), Block(1, 40))
SHALLOW: Blocks = (Block(2, 16), Block(1, 64))


def profile(family: str, layers: int = 3) -> Profile:
    described = family_of(family)
    heads, kv_heads = (8, 4) if family in GROUPED else (4, 4)
    layer = Layer(Attention(heads, kv_heads, 8), FeedForward(64, gated=family in GROUPED))
    extra = {"pad_token_id": 0, "max_position_embeddings": 64}
    if "positions" in described.tables:
        del extra["max_position_embeddings"]
    return Profile(
        family=family,
        width=32,
        vocabulary=43,
        positions=64 if "positions" in described.tables else 0,
        token_types=2 if described.sizes.token_types else 0,
        layers=(layer,) * layers,
        head=Head("classification", 3),
        extra=tuple(sorted(extra.items())),
    )


def ordered(family: str, layers: int = 3) -> Candidate:
    """A tiny super-network in which every bias and norm is drawn too: zeros would hide mistakes."""
    described = profile(family, layers)
    module = build(described, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    given = Candidate(module, Paper(described))
    return OrderUnits().apply(given, MemoryBench(given), 0)


def inputs(described: Profile) -> dict[str, Tensor]:
    return inputs_of(random_items(described, 4, 8, seed=5), torch.device("cpu"))


def logits(model: Candidate) -> Tensor:
    with torch.no_grad():
        return model.module(**inputs(model.paper.profile)).logits


def inside(model: Candidate, blocks: Blocks) -> Tensor:
    """What a sub-network answers inside the whole network."""
    described = model.paper.profile
    net = Supernet(model.module, described, model.notes or {})
    with asking(model.module, described, [Loss("task")]) as ask, net.narrowed(blocks) as tensors:
        return ask(inputs(described), tensors).logits


def whole(described: Profile) -> Blocks:
    return (whole_block(described),) * len(described.layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_largest_sub_network_is_the_given_model_to_the_bit(family):
    model = ordered(family)
    blocks = whole(model.paper.profile)
    assert torch.equal(inside(model, blocks), logits(model))
    alone = Extract(blocks, 1.0).apply(model, MemoryBench(model), 0)
    assert torch.equal(logits(alone), logits(model))
    assert alone.paper.profile == model.paper.profile


@pytest.mark.parametrize("blocks", [UNEVEN, SHALLOW], ids=["uneven", "shallow"])
@pytest.mark.parametrize("family", FAMILIES)
def test_inside_the_whole_a_sub_network_answers_as_it_does_alone(family, blocks):
    model = ordered(family)
    before = logits(model)
    alone = Extract(blocks, 1.0).apply(model, MemoryBench(model), 0)
    assert alone.paper.profile == shrunk(model.paper.profile, blocks)
    assert parameters(alone.paper.profile) == sum(p.numel() for p in alone.module.parameters())
    torch.testing.assert_close(inside(model, blocks), logits(alone), atol=1e-6, rtol=1e-6)
    assert not torch.allclose(before, logits(alone), atol=1e-3)
    # The whole network is as it was, whatever ran inside it.
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("blocks", [UNEVEN, SHALLOW], ids=["uneven", "shallow"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_sub_network_is_the_whole_with_the_rest_masked(family, blocks):
    model = ordered(family)
    alone = Extract(blocks, 1.0).apply(model, MemoryBench(model), 0)
    stayed = (alone.notes or {})["architecture"]
    described, known = model.paper.profile, family_of(family)
    width = 8 * (2 if family in GROUPED else 1)
    for place in range(len(described.layers)):
        if place not in stayed["layers"]:
            skip(model.module.get_submodule(f"{known.layer}.{place}"))
        for units, role, size in (("heads", "attention.output", width), ("ffn", "ffn.down", 1)):
            if str(place) in stayed[units]:
                path = known.path(role, place)  # type: ignore[arg-type]
                silence(model.module.get_submodule(path), stayed[units][str(place)], size)
    torch.testing.assert_close(logits(model), logits(alone), atol=1e-5, rtol=1e-5)


def silence(module: nn.Module, kept: list[int], width: int) -> None:
    def mask(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        channels = torch.zeros(args[0].shape[-1])
        for unit in kept:
            channels[unit * width : (unit + 1) * width] = 1
        return (args[0] * channels, *args[1:])

    module.register_forward_pre_hook(mask)


def skip(block: nn.Module) -> None:
    def back(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any], out: Any) -> Any:
        return args[0] if args else named["hidden_states"]

    block.register_forward_hook(back, with_kwargs=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_a_sub_network_reach_its_own_part_of_the_whole_alone(family):
    model = ordered(family)
    inside(model, SHALLOW).square().sum().backward()
    net = Supernet(model.module, model.paper.profile, model.notes or {})
    parts = net.tensors(SHALLOW)
    for weight in model.paper.profile.weights():
        grad = model.module.get_parameter(weight.name).grad
        if weight.layer is not None and weight.layer not in net.stays(SHALLOW):
            assert grad is None, weight.name
        elif weight.name in parts and weight.role == "matrix":
            assert grad is not None
            assert (grad != 0).sum() <= parts[weight.name].numel(), weight.name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_smaller_of_two_is_part_of_the_larger(family):
    model = ordered(family)
    net = Supernet(model.module, model.paper.profile, model.notes or {})
    small, large = (Block(1, 16),) * 2, (Block(3, 40),) * 3
    assert set(net.stays(small)) < set(net.stays(large))
    for units in ("heads", "ffn"):
        larger = {place: kept for place, kept, _ in net.cuts(large, units)}
        for place, kept, _ in net.cuts(small, units):
            assert set(kept) < set(larger[place])


def test_the_order_is_that_of_importance_and_changes_nothing():
    model = ordered("bert")
    with torch.no_grad():
        model.module.bert.encoder.layer[1].output.dense.weight[:, 10:] = 0
    again = OrderUnits().apply(model, MemoryBench(model), 0)
    assert set((again.notes or {})[ORDER]["ffn"][1][:10]) == set(range(10))
    assert torch.equal(logits(again), logits(model))
    small = Extract((Block(4, 8),) * 3, 1.0).apply(again, MemoryBench(model), 0)
    assert set((small.notes or {})["architecture"]["ffn"]["1"]) < set(range(10))
    assert ORDER not in (small.notes or {})


def recipe(described: Profile, **changed: Any) -> Recipe:
    elastic = bounds(described, 0.25, 2)
    start = Recipe(trainable=("*",), train_items=8, epochs=2, batch=4, learning_rate=1e-3)
    return replace(start, elastic=elastic, **changed)


def test_random_sub_networks_depend_on_seed_and_step_alone():
    described = profile("bert")
    elastic = recipe(described).elastic
    assert elastic is not None
    drawn = [sandwich(described, elastic, seed, step) for seed in (0, 1) for step in range(20)]
    assert drawn == [sandwich(described, elastic, s, k) for s in (0, 1) for k in range(20)]
    assert len({blocks for step in drawn for blocks in step}) > 20
    least = (Block(elastic.groups, elastic.neurons),) * elastic.depth
    assert all(step[0] == least and len(step) == 3 for step in drawn)
    for blocks in (blocks for step in drawn for blocks in step):
        assert len(blocks) in depths(described)
        assert all(block.groups in groups(described) for block in blocks)
        assert all(block.neurons in neurons(described) for block in blocks)


def trained(model: Candidate, seed: int = 0, until: int = 4, **changed: Any) -> Candidate:
    paper = replace(model.paper, recipe=recipe(model.paper.profile, **changed))
    ready = replace(model, paper=paper)
    return SupernetStep().run(ready, until, MemoryBench(model), seed)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_paused_training_of_a_super_network_ends_as_one_that_never_stopped(family):
    model = ordered(family)
    straight = trained(model)
    half = trained(model, until=2)
    paused = SupernetStep().run(half, 4, MemoryBench(model), 0)
    other = trained(model, seed=1)
    for name, weight in straight.module.named_parameters():
        assert torch.equal(weight, paused.module.get_parameter(name)), name
    assert any(
        not torch.equal(weight, other.module.get_parameter(name))
        for name, weight in straight.module.named_parameters()
    )


def test_training_a_super_network_teaches_its_sub_networks_too():
    model = ordered("bert")

    def loss(blocks: Blocks, of: Candidate) -> float:
        items = random_items(of.paper.profile, 8, 8, seed=len("train"))
        net = Supernet(of.module, of.paper.profile, of.notes or {})
        given = inputs_of(items, torch.device("cpu"))
        described = of.paper.profile
        with asking(of.module, described, [Loss("task")]) as ask, net.narrowed(blocks) as parts:
            return task_loss(ask(given, parts).logits, torch.from_numpy(items.labels)).item()

    after = trained(model, until=60, epochs=30)
    elastic = after.paper.recipe.elastic
    assert elastic is not None
    least = (Block(elastic.groups, elastic.neurons),) * elastic.depth
    for blocks in (whole(model.paper.profile), least, UNEVEN):
        assert loss(blocks, after) < 0.7 * loss(blocks, model)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_step_costs_its_sub_networks_together(family):
    described = profile(family)
    paper = Paper(described, recipe(described))
    elastic = paper.recipe.elastic
    assert elastic is not None

    def once(model: Profile) -> int:
        return sum(training_step_flops(model, ("*",), 2, 8))

    rng = Random(0)
    drawn = [once(shrunk(described, _drawn(described, elastic, rng))) for _ in range(2000)]
    least = once(shrunk(described, (Block(elastic.groups, elastic.neurons),) * elastic.depth))
    found = step_flops(paper, 2, 8)
    assert found == pytest.approx(once(described) + least + 2 * sum(drawn) / 2000, rel=0.01)
    fixed = replace(elastic, depth=3, groups=4, neurons=64)
    full = replace(paper, recipe=replace(paper.recipe, elastic=fixed))
    assert step_flops(full, 2, 8) == pytest.approx(4 * once(described))
    plainly = replace(paper, recipe=replace(paper.recipe, elastic=None))
    assert step_flops(plainly, 2, 8) == once(described)


def test_the_bill_of_a_super_network_says_that_draws_count_as_expected():
    described = profile("bert")
    evidence = Evidence(Paper(described, recipe(described)), Workload(prompt_tokens=8))
    figure = metric("training_flops").evaluate(evidence)
    assert figure.source == "modelled"
    assert dict(figure.conditions)["random_sub_networks"] == "as expected"
    assert figure.value == pytest.approx(step_flops(evidence.paper, 1, 8) * 16)


def test_sizes_taper_evenly_on_the_grid():
    grid = (3, 5, 6, 8, 9, 11, 12)
    assert tapered(12, 12, 4, grid) == (12,) * 4
    assert tapered(3, 12, 4, grid) == (3, 6, 9, 12)
    assert tapered(12, 3, 2, grid) == (12, 3)
    assert groups(profile("bert")) == (1, 2, 3, 4)
    assert neurons(profile("bert")) == (16, 24, 32, 40, 48, 56, 64)
    assert depths(profile("bert", 12)) == (6, 8, 9, 11, 12)
    assert depths(profile("bert", 1)) == (1,)


def settings(name: str, described: Profile, **changed: Any) -> dict[str, Any]:
    knobs = TABLE[name].hyperparameters(Paper(described))
    return {knob.name: knob.default for knob in knobs} | changed


def told(name: str, described: Profile, targets: Targets | None = None, **changed: Any) -> str:
    paper = Paper(described, Recipe(train_items=8, epochs=1))
    found = TABLE[name].objections(
        paper, settings(name, described, **changed), targets or Targets()
    )
    return "; ".join(found)


def test_the_given_model_is_the_default_and_two_ways_choose_another():
    assert OFF == "given"
    assert set(TABLE) == {"subnet", "subnet_free"}


@pytest.mark.parametrize("name", list(TABLE))
@pytest.mark.parametrize("family", FAMILIES)
def test_the_defaults_are_the_whole_network_and_legal(name, family):
    described = profile(family)
    assert not told(name, described)
    extract = TABLE[name].steps(Paper(described), settings(name, described))[-1]
    assert isinstance(extract, Extract)
    assert extract.blocks == whole(described)


def test_a_block_below_the_smallest_is_refused_with_the_number_that_is_allowed():
    low = told("subnet", profile("bert"), ffn_last=0.25, smallest=0.5)
    assert "16 neurons" in low
    assert "at least 32" in low
    few = told("subnet_free", profile("bert"), heads_2=0.25, smallest=0.75)
    assert "1 groups of heads" in few
    assert "at least 3" in few
    # What is beyond the depth is not there.
    assert not told("subnet_free", profile("bert"), depth=0.625, heads_3=0.25, smallest=0.75)


def test_a_model_without_a_super_network_says_why():
    described = profile("bert")
    first, *rest = described.layers
    uneven = replace(first, feed_forward=FeedForward(40))
    assert "blocks of one size" in told("subnet", replace(described, layers=(*rest, uneven)))
    blind = Layer(None, first.feed_forward)
    assert "lack attention" in told("subnet", replace(described, layers=(blind, blind)))
    assert "mamba has no super-network" in told("subnet", replace(described, family="mamba"))
    idle = Paper(described, Recipe())
    (reason,) = TABLE["subnet"].objections(idle, settings("subnet", described), Targets())
    assert "no training items" in reason


def test_plain_classes_hold_even_sub_networks_of_all_heads():
    described = profile("bert")

    def refused(**told: float) -> str:
        paper = Paper(described, Recipe(train_items=8, epochs=1))
        for step in TABLE["subnet"].steps(paper, settings("subnet", described, **told)):
            paper = step.on_paper(paper)
        return "; ".join(hf_refusals(paper))

    assert not refused(depth=0.625, ffn_first=0.5, ffn_last=0.5)
    assert "layers differ" in refused(ffn_first=0.5)
    assert "do not add up to the width" in refused(heads_first=0.5, heads_last=0.5)


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


def chosen(subject: Subject, slot: str, method: str, **given: Any) -> Choice:
    knobs = slots()[slot].technique(method).hyperparameters(subject.paper)
    return Choice.of(method, **{**{k.name: k.default for k in knobs}, **given})


def test_all_sub_networks_of_a_space_share_one_training(subject):
    space = Space.of({"architecture": {"methods": ["subnet", "subnet_free"]}}, subject.paper)
    drawn = {c.digest: c for c in space.sample(60, seed=0)}
    graphs = [lower(configuration, subject) for configuration in drawn.values()]
    assert len({graph.last.key for graph in graphs}) == len(graphs) > 40
    assert len({name for graph in graphs for name in graph.trainings}) == 1
    trains = [[n.key for n in graph if n.trains] for graph in graphs]
    assert all(keys == trains[0] for keys in trains)
    assert len(trains[0]) == 2  # two rungs


@pytest.mark.parametrize("knob", ["smallest", "random", "length", "learning_rate"])
def test_what_the_training_is_told_makes_it_another_one(subject, knob):
    other = {"smallest": 0.5, "random": 3, "length": 2.0, "learning_rate": 1e-3}[knob]
    one = lower(Configuration.of(architecture=chosen(subject, "architecture", "subnet")), subject)
    two = Configuration.of(architecture=chosen(subject, "architecture", "subnet", **{knob: other}))
    assert one.trainings != lower(two, subject).trainings


def test_knobs_of_the_training_stay_still_unless_a_study_names_them(subject):
    def names(wanted: dict[str, Any]) -> set[str]:
        space = Space.of({"architecture": {"methods": ["subnet"], "subnet": wanted}}, subject.paper)
        (part,) = space.slots
        return {
            knob.name for knob in part.methods["subnet"] if len(getattr(knob, "values", (0, 1))) > 1
        }

    sizes = {"depth", "heads_first", "heads_last", "ffn_first", "ffn_last"}
    assert names({}) == sizes
    assert names({"random": [1, 3]}) == sizes | {"random"}
    assert names({"learning_rate": [1e-4, 1e-3]}) == sizes | {"learning_rate"}
    assert names({"smallest": 0.5}) == sizes


def test_places_beyond_the_depth_are_written_one_way(subject):
    alike = {"depth": 0.625, "ffn_2": 0.5}
    deep = chosen(subject, "architecture", "subnet_free", **alike)
    other = chosen(subject, "architecture", "subnet_free", **alike, ffn_3=0.25, heads_3=0.25)
    one, two = (plain(Configuration.of(architecture=choice)) for choice in (deep, other))
    assert one == two
    assert plain(one) == one
    assert dict(one.get("architecture").settings)["ffn_3"] == 0.5  # type: ignore[union-attr]
    space = Space.of({"architecture": {"methods": ["subnet_free"]}}, subject.paper)
    for configuration in space.sample(30, seed=0):
        assert plain(configuration) == configuration
        given = space.parameters(configuration)
        assert space.suggest(FixedTrial(given)) == configuration


def test_a_sub_network_goes_on_as_any_given_model(subject):
    configuration = Configuration.of(
        architecture=chosen(
            subject, "architecture", "subnet", depth=0.625, ffn_first=0.5, length=2.0
        ),
        recipe=chosen(subject, "recipe", "plain", epochs=1.0),
        finetuning=chosen(subject, "finetuning", "lora", rank=2),
        structure=chosen(subject, "structure", "heads", keep=0.5, when="after"),
        recovery=chosen(subject, "recovery", "distil_layers", share=1.0),
    )
    path = walk(configuration, subject)
    assert not path.objections
    recipes = {m.step.name: m.before.recipe for m in path.moves if m.step.name.startswith("train.")}
    net, fine, short = (recipes[f"train.{name}"] for name in ("supernet", "finetune", "recover"))
    assert (net.epochs, net.trainable, net.elastic is None) == (2.0, ("*",), False)
    assert (fine.epochs, fine.elastic) == (1.0, None)
    assert fine.trainable != ("*",)
    assert (short.epochs, short.elastic, short.trainable) == (1.0, None, ("*",))
    graph = lower(configuration, subject)
    order = ["supernet.order", "supernet.extract", "adapter.attach", "heads.prune_quiet"]
    assert [node.step.name for node in graph if node.step.name in order] == order
    assert len(graph.trainings) == 3  # the super-network's, its own, the baseline's
    assert [n.step.name for n in graph.trained] == [
        "train.supernet",
        "train.finetune",
        "train.recover",
    ]


def test_the_whole_network_may_teach_what_was_cut_out_of_it(subject):
    small = chosen(subject, "architecture", "subnet", depth=0.625)
    taught = chosen(subject, "recovery", "distil_relations", teacher="self")
    graph = lower(Configuration.of(architecture=small, recovery=taught), subject)
    recovery = next(node for node in graph if node.step.name == "train.recover")
    assert graph.node(recovery.inputs[1]).step.name == "train.supernet"
    assert len(graph.trainings) == 1
    all_of_it = Configuration.of(
        architecture=chosen(subject, "architecture", "subnet"), recovery=taught
    )
    assert "nothing was cut" in walk(all_of_it, subject).objections[0]


def test_a_fine_tuning_behind_a_super_network_has_one_name_at_every_rung():
    from paretune.benchmarks.paper import Given, profile_named
    from paretune.spaces.lower import Subject, lower, trainings, walk
    from paretune.spaces.slots import slots

    recipe = Recipe(trainable=("*",), train_items=120, epochs=2)
    digests = dict.fromkeys(("model", "train", "calibration"), "0")
    subject = Subject(Given(), profile_named("minilm"), recipe, digests, rungs=(0.25, 1.0))
    chosen = {
        slot: Choice.of(
            method,
            **{k.name: k.default for k in slots()[slot].technique(method).hyperparameters(paper)},
        )
        for paper in [subject.paper]
        for slot, method in (("architecture", "subnet"), ("finetuning", "full"))
    }
    configuration = Configuration.of(**chosen)
    names = [lower(configuration, subject, rung).trainings for rung in (0, 1)]
    assert len(names[0]) == 2
    assert names[0] == names[1] == trainings(walk(configuration, subject), subject)


def test_a_share_of_six_blocks_stands_for_the_one_that_is_offered():
    knobs = {knob.name: knob for knob in TABLE["subnet"].hyperparameters(Paper(profile("bert", 6)))}
    assert knobs["depth"].values == (0.5, 0.625, 0.875, 1.0)
    assert narrow(knobs["depth"], 0.75).values == (0.875,)
    assert kept_of(6, 0.75) == kept_of(6, 0.875)


def test_a_shallow_sub_network_lies_in_a_narrowed_space():
    paper = Paper(profile("bert"), Recipe(train_items=8, epochs=1))
    told = {"depth": [0.625, 1.0], "heads_3": [0.75, 1.0], "heads_2": [0.25, 0.5]}
    wanted = {"methods": ["subnet_free"], "subnet_free": told}
    space = Space.of({"architecture": wanted}, paper)
    for drawn in space.sample(40, seed=0):
        values = space.parameters(drawn)
        assert set(values) == set(space.parameters(space.suggest(FixedTrial(values))))
        assert space.suggest(FixedTrial(values)) == drawn
    shallow = settings("subnet_free", paper.profile, depth=0.625, heads_2=0.75)
    with pytest.raises(StudyError, match=r"heads_2 is 0.75; allowed: one of 0.25, 0.5"):
        space.parameters(plain(Configuration.of(architecture=Choice.of("subnet_free", **shallow))))
