"""Structure techniques: what is cut, what stays, and that masking the big model says the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from paretune.errors import DataError
from paretune.spaces.build import build
from paretune.spaces.candidate import Candidate
from paretune.spaces.families import family_of
from paretune.spaces.hyperparameter import narrow, settle
from paretune.spaces.paper import Paper
from paretune.spaces.profile import Attention, FeedForward, Head, Layer, Profile, parameters
from paretune.spaces.runtimes.refusals import hf_refusals
from paretune.spaces.steps import Phase
from paretune.spaces.structure import TABLE
from paretune.spaces.structure.counts import SHARES, keep_knob, kept_of
from paretune.spaces.structure.ffn import PruneNeurons, PruneQuietNeurons
from paretune.spaces.structure.heads import PruneHeads, PruneQuietHeads
from paretune.spaces.structure.layers import DropIdleLayers, DropLayers, stay_by_place
from paretune.spaces.technique import Targets
from paretune.spaces.testing import MemoryBench, random_items
from torch import nn

FAMILIES = ("bert", "roberta", "distilbert", "gpt2", "llama", "qwen2")
GROUPED = {"llama", "qwen2"}
EXTRA: dict[str, dict[str, Any]] = {
    "roberta": {"pad_token_id": 1},
    "llama": {"max_position_embeddings": 64},
    "qwen2": {"max_position_embeddings": 64},
}


def profile(family: str, layers: int = 3) -> Profile:
    described = family_of(family)
    kv_heads = 2 if family in GROUPED else 4
    layer = Layer(Attention(4, kv_heads, 8), FeedForward(64, gated=family in GROUPED))
    head = Head("classification", 3)
    extra = {"pad_token_id": 0, **EXTRA.get(family, {})}
    return Profile(
        family=family,
        width=32,
        vocabulary=43,
        positions=64 if "positions" in described.tables else 0,
        token_types=2 if described.sizes.token_types else 0,
        layers=(layer,) * layers,
        head=head,
        extra=tuple(sorted(extra.items())),
    )


def candidate(family: str, layers: int = 3) -> Candidate:
    """A tiny model in which every bias and norm is drawn too: zeros would hide mistakes."""
    paper = Paper(profile(family, layers))
    module = build(paper.profile, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Candidate(module, paper)


def logits(model: Candidate) -> torch.Tensor:
    items = random_items(model.paper.profile, 4, 8, seed=5)
    ids, mask = torch.from_numpy(items.input_ids), torch.from_numpy(items.attention_mask)
    with torch.no_grad():
        return model.module(input_ids=ids, attention_mask=mask).logits


def silence(model: Candidate, role: str, layer: int, kept: list[int], width: int) -> None:
    """Zeroes what removed units put into the matrix that brings them back to the hidden states."""
    path = family_of(model.paper.profile.family).path(role, layer)  # type: ignore[arg-type]

    def mask(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        channels = torch.zeros(args[0].shape[-1])
        for unit in kept:
            channels[unit * width : (unit + 1) * width] = 1
        return (args[0] * channels, *args[1:])

    model.module.get_submodule(path).register_forward_pre_hook(mask)


@pytest.mark.parametrize("judge", ["weights", "activations"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_without_some_neurons_equals_the_model_with_them_masked(family, judge):
    big = candidate(family)
    step = {"weights": PruneNeurons, "activations": PruneQuietNeurons}[judge](0.5)
    small = step.apply(big, MemoryBench(big), 0)
    before = logits(big)
    for layer, kept in small.notes["ffn"].items():
        assert len(kept) == 32
        silence(big, "ffn.down", int(layer), kept, 1)
    assert not torch.allclose(before, logits(small), atol=1e-3)
    torch.testing.assert_close(logits(small), logits(big), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("judge", ["weights", "activations"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_without_some_heads_equals_the_model_with_them_masked(family, judge):
    big = candidate(family)
    step = {"weights": PruneHeads, "activations": PruneQuietHeads}[judge](0.5)
    small = step.apply(big, MemoryBench(big), 0)
    before = logits(big)
    for layer, kept in small.notes["heads"].items():
        assert len(kept) == (1 if family in GROUPED else 2)
        silence(big, "attention.output", int(layer), kept, 16 if family in GROUPED else 8)
    assert not torch.allclose(before, logits(small), atol=1e-3)
    torch.testing.assert_close(logits(small), logits(big), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_without_some_layers_equals_the_model_that_skips_them(family):
    big = candidate(family)
    small = DropIdleLayers(0.75).apply(big, MemoryBench(big), 0)
    kept = small.notes["layers"]
    assert len(kept) == 2
    blocks = big.module.get_submodule(family_of(family).layer)
    before = logits(big)

    def skip(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any], out: Any) -> Any:
        entering = args[0] if args else named["hidden_states"]
        return (entering, *out[1:]) if isinstance(out, tuple) else entering

    for place, block in enumerate(blocks.children()):
        if place not in kept:
            block.register_forward_hook(skip, with_kwargs=True)
    assert not torch.allclose(before, logits(small), atol=1e-3)
    torch.testing.assert_close(logits(small), logits(big), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_units_whose_weights_are_zero_go_first(family):
    model = candidate(family)
    described = family_of(family)
    down = model.module.get_submodule(described.path("ffn.down", 1)).weight
    axis = 0 if described.transposed else 1
    dead = list(range(0, 64, 2))
    with torch.no_grad():
        down.index_fill_(axis, torch.tensor(dead), 0.0)
    for step in (PruneNeurons(0.5), PruneQuietNeurons(0.5)):
        small = step.apply(model, MemoryBench(model), 0)
        assert small.notes["ffn"]["1"] == list(range(1, 64, 2))
    # What was removed said nothing: the layer answers as before.
    assert parameters(small.paper.profile) < parameters(model.paper.profile)


def test_a_head_that_never_speaks_goes_first_when_activations_judge():
    model = candidate("gpt2")
    attention = model.module.transformer.h[0].attn.c_attn
    with torch.no_grad():
        # Head 2's values are zero; its queries and keys are loud, and fool nobody.
        attention.weight[:, 64 + 16 : 64 + 24] = 0
        attention.bias[64 + 16 : 64 + 24] = 0
        attention.weight[:, 16:24] *= 100
    small = PruneQuietHeads(0.75).apply(model, MemoryBench(model), 0)
    assert small.notes["heads"]["0"] == [0, 1, 3]


def test_a_block_that_turns_nothing_goes_first():
    model = candidate("llama", layers=4)
    with torch.no_grad():
        model.module.model.layers[2].self_attn.o_proj.weight.zero_()
        model.module.model.layers[2].mlp.down_proj.weight.zero_()
    small = DropIdleLayers(0.75).apply(model, MemoryBench(model), 0)
    assert small.notes["layers"] == [0, 1, 3]
    torch.testing.assert_close(logits(small), logits(model))


def test_layers_of_different_sizes_keep_their_own_when_dropped_by_place():
    first, *rest = profile("bert").layers
    unequal = replace(first, feed_forward=FeedForward(40))
    paper = Paper(replace(profile("bert"), layers=(*rest, unequal)))
    model = Candidate(build(paper.profile, seed=0), paper)
    small = DropLayers(0.625, "spread").apply(model, MemoryBench(model), 0)
    assert small.notes["layers"] == [0, 2]
    assert small.paper.profile.layers[1].feed_forward == FeedForward(40)


def test_cutting_leaves_the_given_candidate_and_the_random_state_alone():
    model = candidate("bert")
    before, state = logits(model), torch.get_rng_state()
    for step in (PruneHeads(0.5), PruneNeurons(0.5), DropLayers(0.5)):
        step.apply(model, MemoryBench(model), 0)
    assert torch.equal(before, logits(model))
    assert torch.equal(state, torch.get_rng_state())


def test_notes_of_earlier_steps_stay():
    model = replace(candidate("bert"), notes={"merged": True})
    small = PruneHeads(0.5).apply(PruneNeurons(0.5).apply(model, MemoryBench(model), 0), None, 0)
    assert set(small.notes) == {"merged", "ffn", "heads"}
    assert small.train_state is None


def test_an_empty_calibration_split_is_named():
    class Empty(MemoryBench):
        def batches(self, split, **rest):
            return iter(())

    model = candidate("bert")
    with pytest.raises(DataError, match="calibration split is empty"):
        PruneQuietNeurons(0.5).apply(model, Empty(model), 0)


def test_at_least_one_unit_stays_and_never_more_than_there_are():
    assert kept_of(12, 0.01) == 1
    assert kept_of(20, 0.1, 8) == 8
    assert kept_of(6, 0.9, 8) == 6
    assert [kept_of(n, 0.5) for n in (1, 2, 3, 4)] == [1, 1, 2, 2]


def test_of_shares_that_come_to_the_same_count_the_nearest_is_offered():
    assert keep_knob([3]).values == (0.375, 0.625)
    assert keep_knob([6]).values == (0.375, 0.5, 0.625, 0.875)
    assert keep_knob([12] * 6).values == (0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
    assert keep_knob([1]).values == (0.5,)


def test_the_first_and_last_block_stay_when_blocks_are_spread():
    for total in range(2, 14):
        for stay in range(2, total):
            kept = stay_by_place(total, stay, "spread")
            assert (kept[0], kept[-1], len(set(kept))) == (0, total - 1, stay)


def objections(name: str, paper: Paper, targets: Targets | None = None, **changed: Any) -> str:
    row = TABLE[name]
    settings = {knob.name: knob.default for knob in row.hyperparameters(paper)} | changed
    return "; ".join(row.objections(paper, settings, targets or Targets()))


@pytest.mark.parametrize("name", list(TABLE))
@pytest.mark.parametrize("family", FAMILIES)
def test_the_defaults_are_legal_for_every_family(name, family):
    assert not objections(name, Paper(profile(family)))


def test_a_keep_that_removes_nothing_says_to_choose_none():
    assert "choose structure none" in objections("heads", Paper(profile("bert")), keep=1.0)
    assert "choose structure none" in objections("layers", Paper(profile("bert", 1)))
    assert "choose structure layers" in objections(
        "mixed", Paper(profile("bert")), heads_keep=1.0, ffn_keep=1.0
    )


def test_an_unknown_family_says_that_structure_does_not_apply():
    paper = Paper(replace(profile("bert"), family="mamba"))
    assert "mamba; choose none" in objections("layers", paper, keep=0.5)


def test_fewer_heads_are_refused_for_plain_classes_that_cannot_hold_them():
    def refused(name: str, family: str) -> str:
        paper = Paper(profile(family))
        settings = {knob.name: knob.default for knob in TABLE[name].hyperparameters(paper)}
        for step in TABLE[name].steps(paper, settings):
            paper = step.on_paper(paper)
        return "; ".join(hf_refusals(paper))

    assert "do not add up to the width" in refused("heads", "bert")
    assert not refused("heads", "qwen2")
    assert not refused("ffn", "bert")


def test_data_may_not_choose_among_blocks_of_different_sizes():
    first, *rest = profile("bert").layers
    unequal = replace(first, feed_forward=FeedForward(40))
    paper = Paper(replace(profile("bert"), layers=(*rest, unequal)))
    assert "last or spread" in objections("layers", paper, importance="similarity")


@pytest.mark.parametrize("name", list(TABLE))
def test_when_decides_the_phase(name):
    paper = Paper(profile("bert"))
    settings = {knob.name: knob.default for knob in TABLE[name].hyperparameters(paper)}
    for when, phase in (("before", Phase.STRUCTURE_BEFORE), ("after", Phase.STRUCTURE_AFTER)):
        steps = TABLE[name].steps(paper, {**settings, "when": when})
        assert {step.phase for step in steps} == {phase}


def test_a_mixed_cut_is_its_parts_one_after_the_other():
    model = candidate("llama", layers=4)
    settings = {
        "vocabulary_keep": 1.0,
        "layers_keep": 0.5,
        "heads_keep": 0.5,
        "ffn_keep": 0.5,
        "when": "before",
        "importance": "activations",
        "layer_importance": "spread",
        "slope": 0.0,
    }
    small = model
    for step in TABLE["mixed"].steps(model.paper, settings):
        small = step.apply(small, MemoryBench(model), 0)
    assert (
        small.paper.profile.layers == (Layer(Attention(2, 1, 8), FeedForward(32, gated=True)),) * 2
    )
    assert set(small.notes) == {"layers", "heads", "ffn"}


def test_a_mixed_cut_of_before_words_could_go_keeps_them_all():
    paper = Paper(profile("bert"))
    told = {knob.name: knob.default for knob in TABLE["mixed"].hyperparameters(paper)}
    told |= {"heads_keep": 0.5, "ffn_keep": 0.5, "vocabulary_keep": 1.0}
    old = {name: value for name, value in told.items() if name != "vocabulary_keep"}
    assert TABLE["mixed"].steps(paper, old) == TABLE["mixed"].steps(paper, told)
    assert not TABLE["mixed"].objections(paper, old, Targets())


def test_a_share_that_is_not_offered_stands_for_the_one_that_comes_to_the_same():
    knob = keep_knob([3])
    assert narrow(knob, [0.25, 0.5, 0.625]).values == (0.375, 0.625)
    assert [kept_of(3, settle(knob, share)) for share in (0.25, 0.5, 0.75)] == [1, 2, 2]
    with pytest.raises(ValueError, match=r"keep is 0.875; allowed: one of 0.375, 0.625"):
        narrow(knob, 0.875)
    with pytest.raises(ValueError, match=r"keep is 0.6; allowed"):
        narrow(knob, 0.6)
    assert settle(keep_knob([3], whole=True), 0.875) == 1.0
    # Of a model with nothing to lose every share is one; `refusals` says why it cannot be cut.
    assert {settle(keep_knob([1]), share) for share in SHARES} == {0.5}


@pytest.mark.parametrize("total", range(1, 33))
@pytest.mark.parametrize("multiple", [1, 8])
def test_every_share_is_offered_or_stands_for_an_offered_one_of_the_same_count(total, multiple):
    knob = keep_knob([total], multiple, whole=True)
    for share in SHARES:
        offered = settle(knob, share)
        assert offered in knob.values
        assert kept_of(total, offered, multiple) == kept_of(total, share, multiple)


def test_narrowing_a_narrowed_share_changes_nothing():
    once = narrow(keep_knob([6]), [0.75, 0.5])
    assert once.values == (0.875, 0.5)
    assert settle(once, 0.75) == 0.875
    with pytest.raises(ValueError, match=r"keep is 0.25"):
        settle(once, 0.25)
