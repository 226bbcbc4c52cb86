"""Units judged by the loss, and shares that change over the depth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from paretune.errors import DataError
from paretune.spaces.build import build
from paretune.spaces.candidate import Candidate
from paretune.spaces.families import family_of
from paretune.spaces.losses import task_loss
from paretune.spaces.paper import Paper
from paretune.spaces.profile import Head, Profile, parameters
from paretune.spaces.runtimes.refusals import hf_refusals
from paretune.spaces.specimen import MemoryBench, logits_of
from paretune.spaces.structure import TABLE
from paretune.spaces.structure.counts import tapered
from paretune.spaces.structure.cuts import cuts_of
from paretune.spaces.structure.ffn import PruneIdleNeurons, PruneNeurons
from paretune.spaces.structure.gradients import block_gradients, unit_gradients
from paretune.spaces.structure.heads import PruneHeads, PruneIdleHeads
from paretune.spaces.structure.layers import DropNeedlessLayers
from paretune.spaces.task import Batch
from paretune.spaces.technique import Targets
from torch import Tensor

FAMILIES = ("bert", "roberta", "distilbert", "gpt2", "llama", "qwen2")
KINDS = [(family, "classification") for family in FAMILIES]
KINDS += [(family, "language-modelling") for family in ("gpt2", "llama")]


def profile_of(family: str, kind: str = "classification", layers: int = 2) -> Profile:
    sizes = {"vocab_size": 43, "initializer_range": 0.2, "bos_token_id": 2, "eos_token_id": 3}
    sizes |= {"pad_token_id": 1 if family == "roberta" else 0, "max_position_embeddings": 64}
    sizes |= {"hidden_size": 32, "num_hidden_layers": layers, "intermediate_size": 64}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"dim": 32, "n_layers": layers, "n_heads": 4, "hidden_dim": 64}
    sizes |= {"n_embd": 32, "n_layer": layers, "n_head": 4, "n_positions": 64, "n_inner": 64}
    head = Head("classification", 3) if kind == "classification" else Head(kind, 43)  # type: ignore[arg-type]
    return family_of(family).profile(sizes, head)


def candidate(family: str, kind: str = "classification", layers: int = 2) -> Candidate:
    profile = profile_of(family, kind, layers)
    return Candidate(build(profile, seed=0), Paper(profile))


def items(model: Candidate) -> list[Batch]:
    """The calibration split, one item a batch."""
    return list(MemoryBench(model).batches("calibration", batch=1))


def loss_of(model: Candidate, item: Batch) -> Tensor:
    """Summed over what is judged."""
    ids, mask = torch.from_numpy(item.input_ids), torch.from_numpy(item.attention_mask)
    labels = torch.from_numpy(item.labels)
    logits = model.module(input_ids=ids, attention_mask=mask).logits
    judged = 1 if labels.ndim == 1 else int((labels[:, 1:] != -100).sum())
    return task_loss(logits, labels) * judged


@pytest.mark.parametrize("units", ["heads", "ffn"])
@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_a_units_score_is_gradient_times_weight_item_by_item(family, kind, units):
    model = candidate(family, kind)
    step = {"heads": PruneHeads, "ffn": PruneNeurons}[units](0.5)
    cuts = cuts_of(model.paper.profile, step.on_paper(model.paper).profile, units)
    scores = unit_gradients(model.module, cuts, MemoryBench(model))
    assert set(scores) == {0, 1}
    for layer, found in scores.items():
        cut = next(cut for cut in cuts[layer] if cut.returns)
        weight = model.module.get_parameter(cut.weight.name)
        slow = torch.zeros(cut.units, dtype=torch.float64)
        for item in items(model):
            (gradient,) = torch.autograd.grad(loss_of(model, item), [weight])
            by_channel = (gradient * weight).detach().double().movedim(cut.axis, 0).sum(dim=1)
            slow += by_channel.reshape(cut.units, -1).sum(dim=1).abs()
        torch.testing.assert_close(found, slow, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_a_blocks_score_is_the_slope_of_the_loss_towards_its_input(family, kind):
    model = candidate(family, kind)
    scores = block_gradients(model, MemoryBench(model))
    blocks = model.module.get_submodule(family_of(family).layer)
    for place, block in enumerate(blocks.children()):
        slow = 0.0
        for item in items(model):
            sides = [nudged_loss(model, block, item, by) for by in (1e-2, -1e-2)]
            slow += abs(sides[0] - sides[1]) / 2e-2
        assert float(scores[place]) == pytest.approx(slow, rel=0.02, abs=1e-3)


def nudged_loss(model: Candidate, block: torch.nn.Module, item: Batch, by: float) -> float:
    def hook(_: Any, args: tuple[Any, ...], named: dict[str, Any], out: Any) -> Any:
        entering = args[0] if args else named["hidden_states"]
        leaving = out[0] if isinstance(out, tuple) else out
        nudged = leaving + by * (entering - leaving)
        return (nudged, *out[1:]) if isinstance(out, tuple) else nudged

    handle = block.register_forward_hook(hook, with_kwargs=True)
    with torch.no_grad():
        loss = float(loss_of(model, item).double())
    handle.remove()
    return loss


@pytest.mark.parametrize("family", FAMILIES)
def test_neurons_that_add_nothing_go_first(family):
    model = candidate(family)
    described = family_of(family)
    down = model.module.get_submodule(described.path("ffn.down", 1)).weight
    with torch.no_grad():
        dead = torch.arange(0, 64, 2)
        down.index_fill_(0 if described.transposed else 1, dead, 0.0)
    small = PruneIdleNeurons(0.5).apply(model, MemoryBench(model), 0)
    assert small.notes["ffn"]["1"] == list(range(1, 64, 2))
    assert parameters(small.paper.profile) < parameters(model.paper.profile)


def test_a_head_that_never_speaks_goes_first():
    model = candidate("gpt2")
    attention = model.module.transformer.h[0].attn.c_attn
    with torch.no_grad():
        attention.weight[:, 64 + 16 : 64 + 24] = 0
        attention.bias[64 + 16 : 64 + 24] = 0
    small = PruneIdleHeads(0.75).apply(model, MemoryBench(model), 0)
    assert small.notes["heads"]["0"] == [0, 1, 3]


def test_a_block_that_turns_nothing_goes_first():
    model = candidate("llama", layers=4)
    with torch.no_grad():
        model.module.model.layers[2].self_attn.o_proj.weight.zero_()
        model.module.model.layers[2].mlp.down_proj.weight.zero_()
    small = DropNeedlessLayers(0.75).apply(model, MemoryBench(model), 0)
    assert small.notes["layers"] == [0, 1, 3]


def test_what_does_not_train_is_judged_alike_and_keeps_no_gradient():
    model = candidate("bert")
    scores = block_gradients(model, MemoryBench(model))
    model.module.requires_grad_(False)
    assert torch.equal(block_gradients(model, MemoryBench(model)), scores)
    model.module.requires_grad_(True)
    block_gradients(model, MemoryBench(model))
    assert all(parameter.grad is None for parameter in model.module.parameters())


def test_judging_leaves_no_gate_behind():
    model = candidate("bert")
    before = logits_of(model)
    PruneIdleHeads(0.5).apply(model, MemoryBench(model), 0)
    PruneIdleNeurons(0.5).apply(model, MemoryBench(model), 0)
    block_gradients(model, MemoryBench(model))
    assert (logits_of(model) == before).all()


def test_an_empty_calibration_split_is_named():
    class Empty(MemoryBench):
        def batches(self, split, **rest):
            return iter(())

    model = candidate("bert")
    with pytest.raises(DataError, match="calibration split is empty"):
        PruneIdleNeurons(0.5).apply(model, Empty(model), 0)


def objections(name: str, paper: Paper, targets: Targets | None = None, **changed: Any) -> str:
    row = TABLE[name]
    settings = {knob.name: knob.default for knob in row.hyperparameters(paper)} | changed
    return "; ".join(row.objections(paper, settings, targets or Targets()))


@pytest.mark.parametrize("name", ["heads", "ffn", "layers", "mixed"])
def test_gradients_through_a_classifier_need_it_trained(name):
    classifier, language = Paper(profile_of("gpt2")), Paper(profile_of("gpt2", KINDS[-1][1]))
    instead = "similarity" if name == "layers" else "activations"
    for when in ("before", "after"):
        told = {"importance": "gradients", "when": when}
        assert f"choose importance: {instead}, or when: after and" in (
            objections(name, classifier, **told)
        )
        assert not objections(name, language, **told)
        for learnt in (("*",), ("score.*",), ("score.weight",)):
            assert not objections(name, replace(classifier, learnt=learnt), **told)
        body = replace(classifier, learnt=("transformer.*",))
        assert "nothing has trained the classifier yet" in objections(name, body, **told)


@pytest.mark.parametrize("keep", [0.25, 0.5, 0.875])
@pytest.mark.parametrize("depth", [1, 2, 6, 12])
def test_shares_over_the_depth_keep_their_mean_and_stay_shares(keep, depth):
    for slope in (-0.8, 0.0, 0.4, 0.8):
        shares = tapered(keep, slope, depth)
        assert sum(shares) / depth == pytest.approx(keep, abs=1e-5)
        assert all(0 < share < 1 for share in shares)
        assert shares == sorted(shares, reverse=slope > 0)
        assert shares == [keep] * depth or (slope != 0 and depth > 1)


@pytest.mark.parametrize("step", [PruneNeurons, PruneHeads, PruneIdleNeurons])
def test_the_first_layers_keep_more_with_a_slope(step):
    model = candidate("bert", layers=3)
    made = step(0.5, slope=0.8).apply(model, MemoryBench(model), 0)
    sizes = [
        layer.feed_forward.width + layer.attention.heads for layer in made.paper.profile.layers
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[1] > sizes[2]
    shapes = {name: tuple(p.shape) for name, p in made.module.named_parameters()}
    assert shapes == {weight.name: weight.shape for weight in made.paper.profile.weights()}


def test_layers_of_unequal_width_are_refused_for_plain_classes():
    def refused(name: str, paper: Paper, **changed: Any) -> str:
        row = TABLE[name]
        settings = {knob.name: knob.default for knob in row.hyperparameters(paper)} | changed
        for step in row.steps(paper, settings):
            paper = step.on_paper(paper)
        return "; ".join(hf_refusals(paper))

    paper = Paper(profile_of("bert"))
    assert "layers differ" in refused("ffn", paper, keep=0.5, slope=0.8)
    assert not refused("ffn", paper, keep=0.5, slope=0.0)
    told = {"heads_keep": 1.0, "ffn_keep": 0.5, "layers_keep": 0.5}
    assert not refused("mixed", paper, **told, slope=0.0)
    deep = Paper(profile_of("bert", layers=4))
    assert "layers differ" in refused("mixed", deep, **told, slope=0.8)
