"""The training loop: the only place where gradients flow. Follows a Recipe to the bit.

A training that stops and goes on equals one that never stopped: step k always sees the same batch,
the same learning rate and the same dropout, whatever ran before it in the process.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..errors import StepFailed
from .batching import inputs_of, training_order
from .candidate import Candidate, TrainState
from .configuration import digest
from .families import family_of
from .family import Family
from .features import Recall, remember, standing_in
from .losses import objective
from .paper import Paper
from .recipe import Recipe
from .steps import Bench
from .task import Batch, trimmed
from .training import derived_seed

MARK = "training"
"""The note that says which training a train state belongs to."""


def train(name: str, candidate: Candidate, until_step: int, bench: Bench, seed: int) -> Candidate:
    """A copy of the candidate, trained up to a step; see `TrainStep.run`."""
    recipe = candidate.paper.recipe
    mark = digest([name, recipe.to_json()])
    state = _state_of(candidate, mark)
    with _failures_named():
        module = copy.deepcopy(candidate.module)
        if recipe.total_steps:
            loop = _Loop(module, candidate.paper, bench, seed, state)
            with held(loop.optimizer, loop.weights, candidate.masks):
                state = loop.run_to(min(until_step, recipe.total_steps))
    notes = {**(candidate.notes or {}), MARK: mark}
    return replace(candidate, module=module.eval(), train_state=state, notes=notes)


def select(module: nn.Module, recipe: Recipe) -> dict[str, nn.Parameter]:
    """Marks what the recipe trains, and nothing else; returns it by name."""
    chosen = {}
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(recipe.trains(name))
        if parameter.requires_grad:
            chosen[name] = parameter
    return chosen


@contextmanager
def held(
    optimizer: torch.optim.Optimizer,
    weights: Mapping[str, nn.Parameter],
    masks: Mapping[str, Tensor],
) -> Iterator[None]:
    """While it lasts, values where a mask is False stay as they are, bit for bit.

    Their gradients are zero, so that they neither count in the norm nor feed the moments; and
    after a step they are put back, because weight decay moves what has no gradient.
    """
    free = {name: masks[name].to(weights[name].device) for name in weights if name in masks}
    still = {name: weights[name].detach()[~mask] for name, mask in free.items()}

    @torch.no_grad()
    def put_back(*_: Any) -> None:
        for name, values in still.items():
            weights[name][~free[name]] = values

    hooked: Mapping[str, Any] = weights
    handles = [hooked[name].register_hook(mask.mul) for name, mask in free.items()]
    handles.append(optimizer.register_step_post_hook(put_back))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def rate_share(step: int, recipe: Recipe) -> float:
    """The learning rate of a step (from 0) as a share of its peak.

    Linear from the first step up to the peak, then linear down; the step after the last would be 0.

    >>> recipe = Recipe(train_items=64, epochs=1, warmup_share=0.5)
    >>> [rate_share(k, recipe) for k in range(recipe.total_steps)]
    [0.5, 1.0, 1.0, 0.5]
    """
    total = recipe.total_steps
    warm = round(recipe.warmup_share * total)
    return (step + 1) / warm if step < warm else (total - step) / (total - warm)


def _state_of(candidate: Candidate, mark: str) -> TrainState:
    # Another training's state (the fine-tuning's, when recovery begins) is not ours to resume.
    if candidate.train_state is None or (candidate.notes or {}).get(MARK) != mark:
        return TrainState(0, {})
    return candidate.train_state


class _Loop:
    """One training in memory: a module, its optimiser, its teacher, where it stands."""

    def __init__(
        self, module: nn.Module, paper: Paper, bench: Bench, seed: int, state: TrainState
    ) -> None:
        self.module, self.profile, self.bench, self.seed = module, paper.profile, bench, seed
        self.recipe = recipe = paper.recipe
        self.step = state.step
        self.device = next(module.parameters()).device
        self.weights = select(module, recipe)
        if not self.weights:
            raise StepFailed(
                "illegal",
                f"nothing would train: no parameter matches {list(recipe.trainable)}; "
                "choose a fine-tuning method that fits this model",
            )
        self.optimizer = _optimizer(self.weights, recipe)
        _put_state(self.optimizer, self.weights, state)
        self.kinds = {loss.kind for loss in recipe.losses}
        self.asked = _asked(self.kinds, family_of(paper.profile.family))
        self.teacher = self._teacher()

    def run_to(self, stop: int) -> TrainState:
        """Optimiser steps up to `stop`; the state to go on from."""
        if self.step < stop:
            with ExitStack() as stack:
                stack.enter_context(torch.random.fork_rng(self._generators()))
                stack.enter_context(_attention_given(self.module, "attention" in self.kinds))
                if self.teacher is not None:
                    stack.enter_context(_attention_given(self.teacher, "attention" in self.kinds))
                self._steps(stop, stack)
        return TrainState(self.step, _state_tensors(self.optimizer, self.weights))

    def _steps(self, stop: int, stack: ExitStack) -> None:
        encoder, recall = self._frozen_encoder()
        stack.enter_context(standing_in(encoder, recall))
        for full in training_order(self.bench, self.recipe.batch, self.seed, self.step):
            if self.step >= stop:
                return
            self.bench.training_turn()
            torch.manual_seed(derived_seed("dropout", self.seed, self.step))
            batch = trimmed(full)
            if recall is not None:
                recall.turn_to(batch)
            self._descend(self._loss(batch))
            self.step += 1
            self.bench.progress(self.step, self.recipe.total_steps)

    def _frozen_encoder(self) -> tuple[nn.Module, Recall | None]:
        """The part below the head and, if nothing in it trains, what it says about each item.

        A frozen encoder runs without dropout: its answer is then one fact per item.
        """
        recipe, family = self.recipe, family_of(self.profile.family)
        encoder = self.module.get_submodule(family.base)
        self.module.train()
        trained = {w.group for w in self.profile.weights() if w.name in self.weights}
        if trained != {"head"}:
            return encoder, None
        encoder.eval()
        if recipe.epochs <= 1 or not self.kinds <= {"task", "logits"}:
            return encoder, None
        first_only = family.kind == "encoder"
        with self._computing():
            recall = remember(encoder, self.bench, recipe.batch, recipe.train_items, first_only)
        return encoder, recall

    def _loss(self, batch: Batch) -> Tensor:
        inputs = inputs_of(batch, self.device)
        labels = torch.tensor(batch.labels, device=self.device)
        with self._computing():
            answer = self.module(**inputs, **self.asked)
            taught = None
            if self.teacher is not None:
                with torch.no_grad():
                    taught = self.teacher(**inputs, **self.asked)
        mask = inputs["attention_mask"]
        return objective(self.recipe.losses, answer, taught, labels, mask)

    def _descend(self, loss: Tensor) -> None:
        value = loss.item()
        if not math.isfinite(value):
            raise StepFailed("diverged", self._diverged(f"the loss is {value}"))
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.weights.values(), self.recipe.clip_norm)
        if not torch.isfinite(norm):
            raise StepFailed("diverged", self._diverged(f"loss {value:.4g}, gradient norm {norm}"))
        rate = self.recipe.learning_rate * rate_share(self.step, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _diverged(self, what: str) -> str:
        return (
            f"step {self.step} of {self.recipe.total_steps}: {what}; "
            f"choose a learning rate below {self.recipe.learning_rate:g}"
        )

    def _teacher(self) -> nn.Module | None:
        if self.kinds <= {"task"}:
            return None
        if self.recipe.teacher is None:
            raise StepFailed(
                "illegal", f"losses {sorted(self.kinds)} need a teacher; the recipe names none"
            )
        return self.bench.candidate(self.recipe.teacher).module.eval()

    def _computing(self) -> Any:
        on = self.recipe.compute == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on)

    def _generators(self) -> list[torch.device]:
        return [] if self.device.type == "cpu" else [self.device]


_OUTPUTS: Final = {"hidden": "output_hidden_states", "attention": "output_attentions"}


def _asked(kinds: Collection[str], family: Family) -> dict[str, bool]:
    """What a module is asked for beside its logits."""
    asked = {name: True for kind, name in _OUTPUTS.items() if kind in kinds}
    # A decoder would otherwise keep keys and values for tokens that nobody writes.
    return {**asked, "use_cache": False} if family.kind == "decoder" else asked


def _optimizer(weights: Mapping[str, nn.Parameter], recipe: Recipe) -> torch.optim.AdamW:
    matrices = [p for p in weights.values() if _is_matrix(p)]
    vectors = [p for p in weights.values() if not _is_matrix(p)]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    # One kernel per tensor instead of a dozen: 400 tensors of a small model are all overhead.
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


def _is_matrix(weight: Tensor) -> bool:
    # IA3 stores its vectors as (n, 1): decay would pull their ones to zero.
    return sum(side > 1 for side in weight.shape) > 1


def _state_tensors(
    optimizer: torch.optim.Optimizer, weights: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The optimiser's state by `parameter/state`; weights that had no gradient yet have none."""
    return {
        f"{name}/{kind}": value.detach().clone()
        for name, weight in weights.items()
        for kind, value in optimizer.state.get(weight, {}).items()
    }


def _put_state(
    optimizer: torch.optim.Optimizer, weights: Mapping[str, nn.Parameter], state: TrainState
) -> None:
    for key, value in state.tensors.items():
        name, _, kind = key.rpartition("/")
        optimizer.state[weights[name]][kind] = value.clone()


@contextmanager
def _attention_given(module: nn.Module, wanted: bool) -> Iterator[None]:
    """While it lasts, a transformers module can answer with its attention probabilities."""
    config: Any = getattr(module, "config", None)
    if not wanted or config is None:
        yield
        return
    before = config._attn_implementation
    transformers_module: Any = module
    transformers_module.set_attn_implementation("eager")
    try:
        yield
    finally:
        transformers_module.set_attn_implementation(before)


@contextmanager
def _failures_named() -> Iterator[None]:
    """Turns exhausted memory into its typed failure."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise StepFailed("out_of_memory", f"training ran out of memory: {error}") from error
    except RuntimeError as error:
        # The CPU allocator has no exception of its own.
        if "allocate memory" not in str(error) and "not enough memory" not in str(error):
            raise
        raise StepFailed("out_of_memory", f"training ran out of memory: {error}") from error
