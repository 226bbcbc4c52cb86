"""AdaLoRA: how many ranks stay is fixed, which ones peft's own allocator would choose too."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from paretune.evaluators.compute.backward import training_step_flops
from paretune.evaluators.compute.step import step_flops, training_run_flops
from paretune.spaces.candidate import Candidate, TrainState
from paretune.spaces.finetuning import TABLE
from paretune.spaces.losses import task_loss
from paretune.spaces.ranks import Ranks
from paretune.spaces.recipe import RankBudget, Recipe
from paretune.spaces.steps import Phase
from paretune.spaces.testing import MemoryBench
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))

from finetuning_cases import RECIPE, answers, done, given, objections, on_paper, shapes, steps

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")

FAMILIES = {"bert": "classification", "gpt2": "language-modelling", "llama": "language-modelling"}


def trained(folder: Path, kind: str, epochs: float = 2, **settings: Any) -> list[Candidate]:
    """After Attach, Select, Train and Merge."""
    start = given(folder, kind)
    start = replace(start, paper=replace(start.paper, recipe=replace(RECIPE, epochs=epochs)))
    return done(start, steps(TABLE["adalora"], start.paper, **{"rank": 4, **settings}))


def left(candidate: Candidate) -> dict[str, int]:
    """Ranks that stayed, by matrix."""
    return {
        name: int((value != 0).sum())
        for name, value in candidate.module.named_parameters()
        if name.endswith("lora_E.default")
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_as_many_ranks_stay_as_the_setting_says_and_merge(tiny_models, family):
    attached, _, after, merged = trained(tiny_models[family], FAMILIES[family])
    start = given(tiny_models[family], FAMILIES[family])
    assert torch.equal(answers(attached), answers(start))
    assert shapes(attached.module) == on_paper(attached.paper.profile)
    stayed = left(after)
    assert sum(stayed.values()) == 4 * len(stayed)
    assert all(0 <= count <= 6 for count in stayed.values())
    assert len(set(stayed.values())) > 1
    assert torch.allclose(answers(merged), answers(after), atol=1e-5)
    assert not torch.allclose(answers(merged), answers(start), atol=1e-5)
    assert merged.paper.profile == start.paper.profile


@pytest.mark.parametrize("total", [1, 2, 3, 7, 30])
def test_ranks_fall_from_start_to_end_and_never_rise(total):
    budget = RankBudget(36, 24, 0.1)
    counts = [budget.left(step, total) for step in range(total)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 24
    assert total < 3 or counts[0] == 36


def test_the_ranks_that_stay_are_those_of_peft(tiny_models):
    from peft.tuners.adalora.layer import RankAllocator

    attached = trained(tiny_models["bert"], "classification")[0]
    module = attached.module
    told = SimpleNamespace(beta1=0.85, beta2=0.85, target_r=4)
    theirs = RankAllocator(module, told, "default")
    weights = {n: p for n, p in module.named_parameters() if "lora_" in n}
    ours = Ranks(weights, RankBudget(36, 24, 0.1), TrainState(0, {}))
    generator = torch.Generator().manual_seed(0)
    for name, weight in weights.items():
        if "lora_E" in name:
            weight.data.normal_(generator=generator)
    for step in range(7):
        for weight in weights.values():
            weight.grad = torch.empty_like(weight).normal_(generator=generator)
        ours.observe()
        theirs.update_ipt(module)
        ours.let_go(step, 10)
    ours.let_go(7, 10)
    pattern = theirs.mask_to_budget(module, 24)
    stays = {k.removesuffix("/stays"): v for k, v in ours.tensors().items() if k.endswith("stays")}
    assert {name: part[:, 0].tolist() for name, part in stays.items()} == pattern


def test_a_settled_rank_does_not_come_back(tiny_models):
    attached = trained(tiny_models["bert"], "classification")[0]
    weights = {n: p for n, p in attached.module.named_parameters() if "lora_" in n}
    ranks = Ranks(weights, RankBudget(36, 24, 0.1), TrainState(0, {}))
    for step in range(9):
        ranks.let_go(step, 10)
    gone = {n: w == 0 for n, w in weights.items() if "lora_E" in n}
    for name in gone:
        weights[name].data.fill_(1.0)
    ranks.let_go(9, 10)
    assert sum(int((weights[name] == 0).sum()) for name in gone) == 36 - 24


def test_the_regulariser_costs_what_torch_counts_once_a_step(tiny_models):
    attached, *_ = trained(tiny_models["llama"], "language-modelling")
    paper = attached.paper
    for step in steps(TABLE["adalora"], paper, rank=4):
        if step.phase == Phase.AMEND:
            paper = step.on_paper(given(tiny_models["llama"], "language-modelling").paper)
    paper = replace(paper, profile=attached.paper.profile)
    weights = {n: p for n, p in attached.module.named_parameters() if "lora_" in n}
    ranks = Ranks(weights, RankBudget(36, 24, 0.1), TrainState(0, {}))
    with FlopCounterMode(display=False) as counter:
        ranks.regulariser().backward()
    plain = sum(training_step_flops(paper.profile, paper.recipe.trainable, 3, 10))
    assert step_flops(paper, 3, 10) - plain == counter.get_total_flops()
    # four steps of four texts
    assert training_run_flops(paper, 10) == 4 * step_flops(paper, 4, 10)


def test_orthonormal_vectors_are_not_punished(tiny_models):
    attached = trained(tiny_models["bert"], "classification")[0]
    weights = {n: p for n, p in attached.module.named_parameters() if "lora_" in n}
    ranks = Ranks(weights, RankBudget(36, 24, 0.1), TrainState(0, {}))
    assert float(ranks.regulariser().detach()) > 0.1
    for name, weight in weights.items():
        if "lora_E" not in name:
            torch.nn.init.orthogonal_(weight)
    assert float(ranks.regulariser().detach()) < 1e-5


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_loss_falls(tiny_models, family):
    attached, _, after, _ = trained(
        tiny_models[family], FAMILIES[family], epochs=30, learning_rate=1e-2
    )
    (items,) = MemoryBench(attached).batches("train", batch=8)
    arrays = (items.input_ids, items.attention_mask, items.labels)
    ids, mask, labels = map(torch.from_numpy, arrays)

    def loss(candidate: Candidate) -> float:
        with torch.no_grad():
            answer = candidate.module(input_ids=ids, attention_mask=mask).logits
        return float(task_loss(answer, labels))

    assert loss(after) < loss(attached) - 0.02


def test_a_first_rank_beyond_the_smallest_side_is_refused(tiny_models):
    paper = given(tiny_models["llama"]).paper
    assert not objections(TABLE["adalora"], paper, rank=10)
    (reason,) = objections(TABLE["adalora"], paper, rank=11)
    assert "rank 11 begins as 17" in reason
    assert "choose rank <= 10" in reason


def test_it_is_not_merged_into_zeros(tiny_models):
    from paretune.spaces.profile import Sparsity

    paper = given(tiny_models["bert"]).paper
    sparse = replace(paper.profile, sparsity=(("attention", Sparsity(0.5)),))
    (reason,) = objections(TABLE["adalora"], replace(paper, profile=sparse), rank=4)
    assert "merging fills the zeros" in reason


def test_a_budget_survives_json_and_no_recovery_follows_it(tiny_models):
    from paretune.spaces.recovery import TABLE as RECOVERY

    recipe = Recipe(train_items=8, epochs=1, ranks=RankBudget(36, 24, 0.1))
    assert Recipe.from_json(recipe.to_json()) == recipe
    paper = replace(given(tiny_models["bert"]).paper, recipe=recipe)
    (shorten,) = [s for s in steps(RECOVERY["finetune"], paper) if s.phase == Phase.RECOVERY_AMEND]
    assert shorten.on_paper(paper).recipe.ranks is None
