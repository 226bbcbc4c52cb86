"""The FISH mask: which elements train, how many, and that nothing else moves."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from paretune.errors import DataError, StepFailed
from paretune.search.stages import StageStore
from paretune.search.workshop import Workshop
from paretune.spaces.candidate import Candidate, load_candidate, save_candidate
from paretune.spaces.configuration import Choice, Configuration
from paretune.spaces.finetuning import TABLE
from paretune.spaces.finetuning.fish import ChooseElements
from paretune.spaces.finetuning.fisher import fisher_information, most_informed
from paretune.spaces.load import Load
from paretune.spaces.losses import task_loss
from paretune.spaces.lower import Subject, lower
from paretune.spaces.masks import places_in
from paretune.spaces.models import inspect_model, profile_of
from paretune.spaces.paper import Paper
from paretune.spaces.profile import parameters, trainable_parameters
from paretune.spaces.recipe import Mask, Recipe
from paretune.spaces.recovery.amend import Shorten
from paretune.spaces.steps import Phase, Train
from paretune.spaces.structure.sparsity import ZeroSmallest
from paretune.spaces.task import Items, Task, trimmed
from paretune.spaces.testing import MemoryBench, random_items
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from finetuning_cases import FAMILIES, defaults, done, given, objections, steps

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")

FISH = TABLE["fish"]


def places(candidate: Candidate) -> dict[str, Tensor]:
    assert candidate.train_state is not None
    return places_in(candidate.train_state)


def flat(candidate: Candidate) -> dict[str, Tensor]:
    return {n: p.detach().flatten().clone() for n, p in candidate.module.named_parameters()}


@pytest.mark.parametrize("kind", ["classification", "language-modelling"])
@pytest.mark.parametrize("family", FAMILIES)
def test_as_many_elements_train_as_the_density_says_and_no_other_moves(tiny_models, family, kind):
    if kind == "language-modelling" and family in ("bert", "roberta", "distilbert"):
        return  # encoders do not model language here
    start = given(tiny_models[family], kind)
    decaying = replace(start.paper.recipe, weight_decay=0.5)
    start = replace(start, paper=replace(start.paper, recipe=decaying))
    _, selected, trained = done(start, steps(FISH, start.paper, density=0.02))
    profile = start.paper.profile
    heads = [w for w in profile.weights() if w.group == "head" and kind == "classification"]
    head = sum(weight.count for weight in heads)
    wanted = round(0.02 * (parameters(profile) - head))
    assert sum(map(len, places(selected).values())) == wanted
    assert selected.paper.trainable_parameters == wanted + head
    before, after = flat(start), flat(trained)
    moved = 0
    for name, old in before.items():
        differs = old != after[name]
        moved += int(differs.sum())
        if name not in {weight.name for weight in heads}:
            differs[places(trained)[name]] = False
            assert not differs.any(), name
    # Elements that have information have a gradient, and so they move.
    assert moved >= 0.9 * wanted


def test_the_elements_are_those_with_the_largest_squared_gradients(tiny_models):
    start = given(tiny_models["bert"])
    choose = ChooseElements(0.01, 5)
    chosen = choose.apply(start, MemoryBench(start), 3)
    mask, profile = Mask(0.01, ("classifier*", "bert.pooler*")), start.paper.profile
    scores = fisher_information(start.module, profile, mask, MemoryBench(start), 5, 3)
    every = np.sort(np.concatenate([score.flatten().numpy() for score in scores.values()]))[::-1]
    count = sum(map(len, places(chosen).values()))
    for name, found in places(chosen).items():
        assert torch.all(scores[name].flatten()[found] >= every[count - 1])


def test_the_information_is_the_sum_of_each_items_squared_gradient(tiny_models):
    start = given(tiny_models["bert"])
    mask = Mask(0.5, ("bert.*",))  # the classifier alone is under it
    found = fisher_information(start.module, start.paper.profile, mask, MemoryBench(start), 100, 0)
    assert set(found) == {"classifier.weight", "classifier.bias"}
    expected = torch.zeros_like(found["classifier.weight"])
    module = start.module.requires_grad_(True)
    for full in MemoryBench(start).batches("train", batch=1):
        item = trimmed(full)
        ids, seen = torch.tensor(item.input_ids), torch.tensor(item.attention_mask)
        loss = task_loss(
            module(input_ids=ids, attention_mask=seen).logits, torch.tensor(item.labels)
        )
        expected += torch.autograd.grad(loss, module.classifier.weight)[0].square()
    assert torch.allclose(found["classifier.weight"], expected, rtol=1e-4, atol=1e-9)


def test_so_many_items_are_read_as_the_setting_says(tiny_models):
    start = given(tiny_models["bert"])
    read = []

    class Counted(MemoryBench):
        def training_turn(self) -> None:
            read.append(1)

    ChooseElements(0.01, 3).apply(start, Counted(start), 0)
    assert len(read) == 3
    first = places(ChooseElements(0.01, 3).apply(start, MemoryBench(start), 0))
    other = places(ChooseElements(0.01, 3).apply(start, MemoryBench(start), 1))
    assert any(not torch.equal(first[n], other[n]) for n in first)  # other items, other elements


def test_of_equal_scores_the_first_are_chosen():
    scores = {"a": torch.tensor([[1.0, 0.0], [2.0, 1.0]]), "b": torch.tensor([1.0, 3.0])}
    found = most_informed(scores, 4)
    assert {name: found[name].tolist() for name in found} == {"a": [0, 2, 3], "b": [1]}
    assert most_informed(scores, 1)["a"].tolist() == []
    assert sum(map(len, most_informed(scores, 6).values())) == 6


def test_a_masked_training_resumes_from_disk_to_the_bit(tiny_models, tmp_path):
    start = given(tiny_models["llama"])
    *_, ready = done(start, steps(FISH, start.paper, density=0.05)[:2])
    train = next(s for s in steps(FISH, start.paper) if isinstance(s, Train))
    bench = MemoryBench(start)
    straight = train.run(ready, 4, bench, 0)
    for name, candidate in (("ready", ready), ("half", train.run(ready, 2, bench, 0))):
        folder = tmp_path / name
        folder.mkdir()
        save_candidate(candidate, folder)
        ended = train.run(load_candidate(folder), 4, bench, 0)
        for key, value in flat(straight).items():
            assert torch.equal(value, flat(ended)[key]), (name, key)
        one, two = straight.train_state.tensors, ended.train_state.tensors
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_optimisers_state_is_as_small_as_what_trains(tiny_models):
    start = given(tiny_models["bert"])
    trained = done(start, steps(FISH, start.paper, density=0.01))[-1]
    state = trained.train_state.tensors
    moments = sum(t.numel() for key, t in state.items() if key.endswith("exp_avg"))
    assert moments == trained.paper.trainable_parameters


def test_recovery_after_a_mask_trains_everything(tiny_models):
    start = given(tiny_models["bert"])
    trained = done(start, steps(FISH, start.paper))[-1]
    shortened = Shorten(0.5, 1e-3, start.paper.recipe.losses, None).on_paper(trained.paper)
    assert shortened.recipe.mask is None
    assert shortened.trainable_parameters == parameters(start.paper.profile)


def test_another_method_after_a_mask_has_none(tiny_models):
    paper = given(tiny_models["bert"]).paper
    for step in [*steps(FISH, paper), *steps(TABLE["full"], paper)]:
        paper = step.on_paper(paper)
    assert paper.recipe.mask is None


def test_a_mask_that_was_never_chosen_is_an_error_with_advice(tiny_models):
    start = given(tiny_models["bert"])
    select, train = (s for s in steps(FISH, start.paper) if s.phase >= Phase.AMEND)
    with pytest.raises(StepFailed, match=r"a mask was chosen for 0; choose the mask on the model"):
        done(start, [select, train])


def test_gradients_that_are_not_finite_are_said(tiny_models):
    start = given(tiny_models["bert"])
    with torch.no_grad():
        start.module.classifier.weight.fill_(float("nan"))
    with pytest.raises(StepFailed, match="not finite; check its weights"):
        ChooseElements(0.01, 2).apply(start, MemoryBench(start), 0)


def test_an_empty_train_split_is_said(tiny_models):
    start = given(tiny_models["bert"])

    class Empty(MemoryBench):
        def batches(self, *_, **__):
            return iter(())

    with pytest.raises(DataError, match="train split is empty"):
        ChooseElements(0.01, 2).apply(start, Empty(start), 0)


def test_a_density_of_no_element_and_a_task_without_items_are_refused(tiny_models):
    paper = given(tiny_models["bert"]).paper
    assert not objections(FISH, paper)
    (reason,) = objections(FISH, paper, density=1e-6)
    assert "is none; choose a higher density" in reason
    (reason,) = objections(FISH, Paper(paper.profile, Recipe()))
    assert "give it a train split" in reason


def test_a_masked_recipe_survives_json_and_counts():
    recipe = Recipe(("*",), 10, 1.0, mask=Mask(0.25, ("head.*",)))
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    assert not recipe.mask.covers("head.weight")
    assert recipe.mask.covers("body.weight")


def test_a_search_stores_the_mask_and_its_rungs_go_on_with_it(tiny_models, tmp_path):
    source = inspect_model(str(tiny_models["bert"]))
    profile = profile_of(source, "classification", 3)
    drawn = random_items(profile, 8, 8, seed=0)
    items = Items(drawn.input_ids, drawn.attention_mask, drawn.labels, drawn.items)
    task = Task("made up", "classification", ("a", "b", "c"), 8, {"train": items}, "d", 0)
    recipe = Recipe(train_items=8, epochs=4, batch=4)
    known = {"model": "m", "train": "t"}
    subject = Subject(Load(source, profile), profile, recipe, known, rungs=(0.5, 1.0))
    chosen = Choice.of("fish", density=0.02, items=4, learning_rate=1e-2)
    graph = lower(Configuration.of(finetuning=chosen), subject)
    choose, half, whole = graph.nodes[1:4]
    assert (choose.step.name, half.until_step, whole.until_step) == ("fish.choose", 4, 8)
    other = Choice.of("fish", density=0.02, items=4, learning_rate=1e-3)
    assert choose.key in lower(Configuration.of(finetuning=other), subject).keys
    store = StageStore(tmp_path, limit_bytes=10**9)
    found = [Workshop(graph, store, task, 0).candidate(n.key) for n in (choose, half, whole)]
    assert found[2].train_state is None  # nothing goes on from there
    masks = [places(candidate) for candidate in found[:2]]
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])
    before, after = flat(found[0]), flat(found[2])
    moved = {name: torch.nonzero(before[name] != after[name]).flatten() for name in masks[0]}
    assert all(set(moved[n].tolist()) <= set(masks[0][n].tolist()) for n in moved)
    assert any(map(len, moved.values()))


def test_the_count_on_paper_needs_no_weights(tiny_models):
    paper = given(tiny_models["gpt2"]).paper
    for step in steps(FISH, paper, density=0.1):
        paper = step.on_paper(paper)
    head = trainable_parameters(paper.profile, ("score.*",))
    body = parameters(paper.profile) - head
    assert paper.trainable_parameters == head + round(0.1 * body)
    assert defaults(FISH, paper)["density"] == 5e-3


def test_elements_that_are_held_at_zero_are_not_chosen(tiny_models: dict[str, Path]):
    start = given(tiny_models["bert"])
    bench = MemoryBench(start)
    sparse = ZeroSmallest(0.5).apply(start, bench, 0)
    chosen = ChooseElements(0.02, 4).apply(sparse, MemoryBench(sparse), 0)
    found = places(chosen)
    assert sum(map(len, found.values()))
    for name, free in sparse.masks.items():
        if name in found:
            assert bool(free.flatten()[found[name]].all()), name
