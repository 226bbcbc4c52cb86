from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paretune.errors import DataError, StepFailed
from paretune.spaces.candidate import Candidate, TrainState
from paretune.spaces.families import family_of
from paretune.spaces.paper import Paper
from paretune.spaces.profile import Head
from paretune.spaces.recipe import Loss, Recipe
from paretune.spaces.steps import Phase, Train
from paretune.spaces.task import Batch
from paretune.spaces.trainer import rate_share, select
from paretune.spaces.training import FinetuneStep, RecoverStep
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")

ITEMS, LENGTH = 20, 10
RECIPE = Recipe(trainable=("*",), train_items=ITEMS, epochs=3, batch=8, learning_rate=1e-3)


@dataclass
class TinyBench:
    """Random items; a word tells the class."""

    language: bool = False
    device: str = "cpu"
    teachers: dict[str, Candidate] = field(default_factory=dict)
    turns: int = 0
    passes: list[int | None] = field(default_factory=list)

    def candidate(self, key: str) -> Candidate:
        return self.teachers[key]

    def progress(self, done: int, total: int) -> None:
        pass

    def training_turn(self) -> None:
        self.turns += 1

    def batches(
        self, split: str, *, batch: int, share: float = 1.0, seed: int | None = None
    ) -> Iterator[Batch]:
        self.passes.append(seed)
        rng = np.random.default_rng(7)
        ids = rng.integers(5, 42, (ITEMS, LENGTH))
        lengths = rng.integers(4, LENGTH - 1, ITEMS)
        mask = (np.arange(LENGTH) < lengths[:, None]).astype(np.int64)
        ids = ids * mask
        labels = np.where(mask == 1, ids, -100) if self.language else ids[:, 1] % 2
        order = np.arange(ITEMS)
        if seed is not None:
            np.random.default_rng(seed).shuffle(order)
        for start in range(0, ITEMS, batch):
            rows = order[start : start + batch]
            yield Batch(ids[rows], mask[rows], labels[rows], rows)


def classifier(folder: Path, seed: int = 0, **changes: Any) -> nn.Module:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(folder, num_labels=2, **changes)
    return AutoModelForSequenceClassification.from_config(config).eval()


def candidate(module: nn.Module, recipe: Recipe) -> Candidate:
    family = family_of(module.config.model_type)  # type: ignore[union-attr, arg-type]
    kind = "classification" if hasattr(module, "num_labels") else "language-modelling"
    head = Head("classification", 2) if kind == "classification" else Head(kind, 42, tied=True)
    profile = family.profile(module.config.to_dict(), head)  # type: ignore[union-attr, operator]
    return Candidate(module, Paper(profile, recipe))


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def loss_on_all(module: nn.Module) -> float:
    total = 0.0
    for batch in TinyBench().batches("train", batch=ITEMS):
        with torch.no_grad():
            out = module(
                input_ids=torch.from_numpy(batch.input_ids),
                attention_mask=torch.from_numpy(batch.attention_mask),
            )
        total += nn.functional.cross_entropy(out.logits, torch.from_numpy(batch.labels)).item()
    return total


@pytest.fixture
def bert(tiny_models: dict[str, Path]) -> nn.Module:
    return classifier(tiny_models["bert"])


def test_both_training_steps_are_trains_and_stand_at_their_phases():
    assert isinstance(FinetuneStep(), Train)
    assert isinstance(RecoverStep(), Train)
    assert FinetuneStep().phase == Phase.TRAIN
    assert RecoverStep().phase == Phase.RECOVERY_TRAIN
    assert {FinetuneStep.name, RecoverStep.name} == {"train.finetune", "train.recover"}


def test_training_lowers_the_loss_and_leaves_its_input_untouched(bert: nn.Module):
    before = weights(bert)
    start = candidate(bert, replace(RECIPE, epochs=10, learning_rate=3e-3))
    after = FinetuneStep().run(start, 10_000, TinyBench(), 0)
    assert after.train_state is not None
    assert after.train_state.step == start.paper.recipe.total_steps == 25
    assert loss_on_all(after.module) < 0.8 * loss_on_all(bert)
    assert equal(before, weights(bert))
    assert not after.module.training


@pytest.mark.parametrize("stop", [1, 3, 5])
@pytest.mark.parametrize("patterns", [("*",), ("classifier.*",)])
def test_a_resumed_training_equals_a_straight_one_to_the_bit(
    bert: nn.Module, stop: int, patterns: tuple[str, ...]
):
    start = candidate(bert, replace(RECIPE, trainable=patterns))
    straight = FinetuneStep().run(start, 7, TinyBench(), 3)
    half = FinetuneStep().run(start, stop, TinyBench(), 3)
    assert half.train_state is not None
    # As after a save and a load: other tensors, other processes' random numbers.
    loaded = copy.deepcopy(bert)
    loaded.load_state_dict(half.module.state_dict())
    tensors = {name: value.clone() for name, value in half.train_state.tensors.items()}
    torch.manual_seed(99)
    stored = Candidate(loaded, half.paper, TrainState(stop, tensors), dict(half.notes or {}))
    resumed = FinetuneStep().run(stored, 7, TinyBench(), 3)
    assert equal(weights(straight.module), weights(resumed.module))
    assert straight.train_state is not None
    assert resumed.train_state is not None
    assert equal(straight.train_state.tensors, resumed.train_state.tensors)


def test_the_seed_moves_the_result_and_the_global_random_state_does_not(bert: nn.Module):
    start = candidate(bert, RECIPE)
    torch.manual_seed(1)
    first = FinetuneStep().run(start, 2, TinyBench(), 0)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = FinetuneStep().run(start, 2, TinyBench(), 0)
    assert torch.equal(state, torch.get_rng_state())
    other = FinetuneStep().run(start, 2, TinyBench(), 1)
    assert equal(weights(first.module), weights(second.module))
    assert not equal(weights(first.module), weights(other.module))


def test_what_is_not_trainable_stays_bit_for_bit(bert: nn.Module):
    start = candidate(bert, replace(RECIPE, trainable=("*.bias", "classifier.*")))
    after = FinetuneStep().run(start, 4, TinyBench(), 0)
    old, new = weights(bert), weights(after.module)
    for name in old:
        trains = name.endswith(".bias") or name.startswith("classifier.")
        # A key's bias shifts every score of a row alike: its gradient is rounding noise.
        if "key.bias" not in name:
            assert torch.equal(old[name], new[name]) is not trains, name


def test_gradients_are_asked_for_exactly_what_trains(bert: nn.Module):
    chosen = select(bert, replace(RECIPE, trainable=("bert.encoder.layer.2.*",)))
    assert set(chosen) == {n for n, p in bert.named_parameters() if p.requires_grad}
    assert all(name.startswith("bert.encoder.layer.2.") for name in chosen)


def test_recovery_starts_its_own_schedule_after_a_finetuning(bert: nn.Module):
    tuned = FinetuneStep().run(candidate(bert, RECIPE), 8, TinyBench(), 0)
    short = replace(RECIPE, epochs=1)
    again = replace(tuned, paper=replace(tuned.paper, recipe=short))
    recovered = RecoverStep().run(again, 3, TinyBench(), 0)
    assert recovered.train_state is not None
    assert recovered.train_state.step == 3
    steps = [v.item() for k, v in recovered.train_state.tensors.items() if k.endswith("/step")]
    assert set(steps) == {3.0}


def test_the_learning_rate_rises_and_falls_in_straight_lines():
    recipe = replace(RECIPE, epochs=10, warmup_share=0.2)
    shares = [rate_share(step, recipe) for step in range(25)]
    assert shares[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert np.diff(shares[5:]) == pytest.approx(-1 / 20)
    assert shares[-1] == pytest.approx(1 / 20)


def test_frozen_features_are_computed_in_one_pass_and_give_what_the_encoder_gives(
    tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    import paretune.spaces.features as features

    for family in ("bert", "roberta", "distilbert", "gpt2", "llama"):
        module = classifier(tiny_models[family])
        profile = candidate(module, RECIPE).paper.profile
        heads = [w.name for w in profile.weights() if w.group == "head"]
        start = candidate(module, replace(RECIPE, trainable=tuple(heads)))
        bench = TinyBench()
        remembered = FinetuneStep().run(start, 6, bench, 0)
        assert bench.passes.count(None) == 1, family
        monkeypatch.setattr(features, "MEMORY_BYTES", 0)
        plain = FinetuneStep().run(start, 6, TinyBench(), 0)
        monkeypatch.undo()
        for name in heads:
            a, b = weights(remembered.module)[name], weights(plain.module)[name]
            assert torch.allclose(a, b, atol=1e-5), (family, name)
            assert not torch.equal(a, weights(module)[name]), (family, name)


def test_a_language_model_learns_next_tokens_and_padding_is_not_judged(
    tiny_models: dict[str, Path],
):
    from paretune.spaces.losses import task_loss
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_pretrained(tiny_models["gpt2"]).eval()
    batch = next(TinyBench(language=True).batches("train", batch=4))
    ids, mask, labels = (
        torch.from_numpy(x) for x in (batch.input_ids, batch.attention_mask, batch.labels)
    )
    out = module(input_ids=ids, attention_mask=mask, labels=labels)
    assert task_loss(out.logits, labels).item() == pytest.approx(out.loss.item(), rel=1e-5)
    start = candidate(module, replace(RECIPE, epochs=10, learning_rate=1e-2))
    after = FinetuneStep().run(start, 25, TinyBench(language=True), 0)
    out = after.module(input_ids=ids, attention_mask=mask)
    assert task_loss(out.logits, labels).item() < 0.8 * math.log(42)


def test_bf16_trains_fp32_weights(bert: nn.Module):
    start = candidate(bert, replace(RECIPE, compute="bf16"))
    after = FinetuneStep().run(start, 3, TinyBench(), 0)
    full = FinetuneStep().run(candidate(bert, RECIPE), 3, TinyBench(), 0)
    assert {p.dtype for p in after.module.parameters()} == {torch.float32}
    assert not equal(weights(after.module), weights(full.module))


def test_a_training_asks_for_its_turn_at_every_step(bert: nn.Module):
    bench = TinyBench()
    FinetuneStep().run(candidate(bert, RECIPE), 5, bench, 0)
    assert bench.turns == 5


def test_a_diverged_training_is_told_with_its_step(bert: nn.Module):
    start = candidate(bert, replace(RECIPE, learning_rate=1e30, warmup_share=0.0))
    with pytest.raises(StepFailed, match=r"step \d+ of 8: .*learning rate below") as caught:
        FinetuneStep().run(start, 8, TinyBench(), 0)
    assert caught.value.kind == "diverged"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_exhausted_memory_is_a_typed_failure(bert: nn.Module, error: Exception):
    class Full(TinyBench):
        def training_turn(self) -> None:
            raise error

    with pytest.raises(StepFailed) as caught:
        FinetuneStep().run(candidate(bert, RECIPE), 1, Full(), 0)
    assert caught.value.kind == "out_of_memory"


def test_other_errors_pass_through(bert: nn.Module):
    class Broken(TinyBench):
        def training_turn(self) -> None:
            raise RuntimeError("a shape is wrong")

    with pytest.raises(RuntimeError, match="a shape is wrong"):
        FinetuneStep().run(candidate(bert, RECIPE), 1, Broken(), 0)


def test_training_nothing_is_refused(bert: nn.Module):
    with pytest.raises(StepFailed, match="nothing would train") as caught:
        FinetuneStep().run(candidate(bert, replace(RECIPE, trainable=("x",))), 1, TinyBench(), 0)
    assert caught.value.kind == "illegal"


def test_a_batch_is_trimmed_only_where_padding_is_on_the_right():
    from paretune.spaces.task import trimmed

    ids = np.arange(8).reshape(2, 4)
    right = np.array([[1, 1, 0, 0], [1, 0, 0, 0]])
    batch = Batch(ids, right, ids, np.arange(2))
    assert trimmed(batch).input_ids.tolist() == [[0, 1], [4, 5]]
    assert trimmed(batch).labels.shape == (2, 2)
    left = replace(batch, attention_mask=right[:, ::-1].copy())
    assert trimmed(left) is left


def test_trimming_does_not_change_answers(tiny_models: dict[str, Path]):
    from paretune.spaces.batching import inputs_of
    from paretune.spaces.task import trimmed

    batch = next(TinyBench().batches("train", batch=8))
    for family in ("bert", "roberta", "distilbert", "gpt2", "llama", "qwen2"):
        module = classifier(tiny_models[family])
        with torch.no_grad():
            whole = module(**inputs_of(batch, torch.device("cpu"))).logits
            short = module(**inputs_of(trimmed(batch), torch.device("cpu"))).logits
        assert torch.allclose(whole, short, atol=1e-6), family


def test_distillation_pulls_the_student_towards_its_teacher(tiny_models: dict[str, Path]):
    teacher = classifier(tiny_models["bert"], seed=5)
    student = classifier(tiny_models["bert"], num_hidden_layers=2)
    before = weights(teacher)
    for kind in ("logits", "hidden", "attention"):
        recipe = replace(
            RECIPE, epochs=10, learning_rate=3e-3, losses=(Loss(kind),), teacher="t"
        )  # fmt: skip
        bench = TinyBench(teachers={"t": candidate(teacher, RECIPE)})
        start = candidate(student, recipe)
        after = FinetuneStep().run(start, 25, bench, 0)
        assert _distance(after.module, teacher, kind) < 0.7 * _distance(student, teacher, kind)
    assert equal(before, weights(teacher))
    assert teacher.config._attn_implementation == "sdpa"


def _distance(student: nn.Module, teacher: nn.Module, kind: str) -> float:
    from paretune.spaces.losses import objective

    batch = next(TinyBench().batches("train", batch=ITEMS))
    ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
    answers = []
    for module in (student, teacher):
        twin: Any = copy.deepcopy(module)
        twin.set_attn_implementation("eager")
        with torch.no_grad():
            answers.append(
                twin(
                    input_ids=ids,
                    attention_mask=mask,
                    output_hidden_states=True,
                    output_attentions=True,
                )
            )
    labels = torch.from_numpy(batch.labels)
    return objective([Loss(kind)], answers[0], answers[1], labels, mask).item()  # type: ignore


def test_a_loss_that_needs_a_teacher_says_so(bert: nn.Module):
    start = candidate(bert, replace(RECIPE, losses=(Loss("logits"),)))
    with pytest.raises(StepFailed, match="need a teacher"):
        FinetuneStep().run(start, 1, TinyBench(), 0)


def test_layers_are_paired_evenly():
    from paretune.spaces.losses import layer_map

    assert layer_map(3, 3) == [0, 1, 2, 3]
    assert layer_map(2, 12) == [0, 6, 12]
    assert layer_map(4, 6) == [0, 2, 3, 5, 6]


def test_the_logits_loss_is_the_formula():
    from paretune.spaces.losses import logits_loss

    torch.manual_seed(0)
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    p, q = torch.softmax(teacher / 2, -1), torch.softmax(student / 2, -1)
    expected = 4 * (p * (p / q).log()).sum(-1).mean()
    found = logits_loss(student, teacher, torch.zeros(5, dtype=torch.long), 2.0)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_states_of_other_widths_are_compared_by_token_similarity():
    from paretune.spaces.losses import hidden_loss

    torch.manual_seed(0)
    narrow = torch.randn(2, 4, 3)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    wide = torch.cat([narrow, torch.zeros(2, 4, 2)], -1)
    assert hidden_loss([narrow], [wide], mask).item() == pytest.approx(0, abs=1e-12)
    other = wide.clone()
    other[0, 3] = 100.0
    assert hidden_loss([narrow], [other], mask).item() == pytest.approx(0, abs=1e-12)
    other[1, 3] = 100.0
    assert hidden_loss([narrow], [other], mask).item() > 0.01


def test_attention_with_other_heads_is_compared_by_its_mean():
    from paretune.spaces.losses import attention_loss

    torch.manual_seed(0)
    four = torch.softmax(torch.randn(2, 4, 5, 5), -1)
    mask = torch.ones(2, 5)
    assert attention_loss([four.mean(1, keepdim=True)], [four], mask).item() == 0
    assert attention_loss([four[:, :2]], [four], mask).item() > 0
    with pytest.raises(StepFailed, match="without attention"):
        attention_loss([], [four], mask)


def test_items_may_be_read_only(bert: nn.Module):
    class ReadOnly(TinyBench):
        def batches(self, *splits: Any, **how: Any) -> Iterator[Batch]:
            for batch in super().batches(*splits, **how):
                for part in vars(batch).values():
                    part.flags.writeable = False
                yield batch

    after = FinetuneStep().run(candidate(bert, RECIPE), 1, ReadOnly(), 0)
    assert after.train_state is not None
    assert after.train_state.step == 1


def test_an_empty_train_split_is_an_error_and_not_an_endless_loop(bert: nn.Module):
    class Empty(TinyBench):
        def batches(self, *splits: Any, **how: Any) -> Iterator[Batch]:
            return iter(())

    with pytest.raises(DataError, match="train split is empty"):
        FinetuneStep().run(candidate(bert, RECIPE), 1, Empty(), 0)


def test_vectors_are_not_decayed_whatever_their_shape():
    from paretune.spaces.trainer import _optimizer

    weights = {
        "scale": nn.Parameter(torch.ones(4, 1)),
        "bias": nn.Parameter(torch.ones(4)),
        "matrix": nn.Parameter(torch.ones(4, 4)),
    }
    optimizer = _optimizer(weights, weights, replace(RECIPE, weight_decay=0.1, learning_rate=0.1))
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert torch.equal(weights["scale"], torch.ones(4, 1))
    assert torch.equal(weights["bias"], torch.ones(4))
    assert torch.allclose(weights["matrix"], torch.full((4, 4), 0.99))


def test_a_training_without_steps_changes_nothing(bert: nn.Module):
    start = candidate(bert, replace(RECIPE, epochs=0.0))
    after = FinetuneStep().run(start, 0, TinyBench(), 0)
    assert equal(weights(after.module), weights(bert))
