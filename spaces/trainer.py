"""The training loop: the only place where gradients flow. Follows a Recipe to the bit.

A training that stops and goes on equals one that never stopped: step k always sees the same batch,
the same learning rate and the same dropout, whatever ran before it in the process.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import StepFailed, ran_out_of_memory
from .answers import Ask, asking
from .architecture.live import Supernet
from .architecture.shapes import sandwich
from .batching import inputs_of, training_order
from .candidate import Candidate, TrainState
from .configuration import digest
from .device import CPU, computing_on, to_the_bit
from .families import family_of
from .features import Recall, remember, standing_in
from .losses import logits_loss, objective
from .masks import PLACES, parts_of
from .ranks import STATES, Ranks
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
            stop = min(until_step, recipe.total_steps)
            with computing_on(bench.device, module), to_the_bit(bench.device):
                loop = _Loop(replace(candidate, module=module), bench, seed, state)
                with held(loop.optimizer, loop.weights, candidate.masks):
                    state = loop.run_to(stop)
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
    # Another training's state (the fine-tuning's, when recovery begins) is not ours to resume; one
    # at step 0 is no training's yet, and holds the mask of the one that comes next.
    state = candidate.train_state
    if state is None or (state.step and (candidate.notes or {}).get(MARK) != mark):
        return TrainState(0, {})
    return state


class _Loop:
    """One training in memory: a module, its optimiser, its teacher, where it stands."""

    def __init__(self, candidate: Candidate, bench: Bench, seed: int, state: TrainState) -> None:
        self.module = module = candidate.module
        self.profile, self.notes = candidate.paper.profile, candidate.notes or {}
        self.recipe = recipe = candidate.paper.recipe
        self.bench, self.seed, self.step = bench, seed, state.step
        self.device = next(module.parameters()).device
        self.weights = select(module, recipe)
        if not self.weights:
            raise StepFailed(
                "illegal",
                f"nothing would train: no parameter matches {list(recipe.trainable)}; "
                "choose a fine-tuning method that fits this model",
            )
        self.parts = parts_of(self.weights, recipe.mask, state)
        self.trained = self.weights | {n: p.vector for n, p in self.parts.items()}
        self.optimizer = _optimizer(self.weights, self.trained, recipe)
        _put_state(self.optimizer, self.trained, state)
        self.ranks = None if recipe.ranks is None else Ranks(self.weights, recipe.ranks, state)
        self.kinds = {loss.kind for loss in recipe.losses}
        self.teacher = self._teacher()

    def run_to(self, stop: int) -> TrainState:
        """Optimiser steps up to `stop`; the state to go on from."""
        if self.step < stop:
            with ExitStack() as stack:
                stack.enter_context(torch.random.fork_rng(self._generators()))
                if self.teacher is not None:
                    stack.enter_context(computing_on(str(self.device), self.teacher.module))
                self._steps(stop, stack)
        places = {f"{name}/{PLACES}": part.places.to(CPU) for name, part in self.parts.items()}
        ranks = {} if self.ranks is None else self.ranks.tensors()
        return TrainState(self.step, places | ranks | _state_tensors(self.optimizer, self.trained))

    def _steps(self, stop: int, stack: ExitStack) -> None:
        passes = self._passes(stack)
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
            self._descend(passes(batch))
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
        if self.profile.soft_tokens:  # hooks would cut them off what is remembered a second time
            return encoder, None
        first_only = family.kind == "encoder"
        with self._computing():
            recall = remember(encoder, self.bench, recipe.batch, recipe.train_items, first_only)
        return encoder, recall

    def _passes(self, stack: ExitStack) -> Callable[[Batch], Iterator[Tensor]]:
        """What a batch is made into: the losses of a step, each to be followed back at once."""
        losses = self.recipe.losses
        student = stack.enter_context(asking(self.module, self.profile, losses))
        if self.recipe.elastic is not None:
            net = Supernet(self.module, self.profile, self.notes)
            return partial(self._sandwich, student, net)
        if self.teacher is None:
            return partial(self._whole, student, None)
        module, profile = self.teacher.module.eval(), self.teacher.paper.profile
        teacher = stack.enter_context(asking(module, profile, losses, teaches=True))
        return partial(self._whole, student, teacher)

    def _whole(self, student: Ask, teacher: Ask | None, batch: Batch) -> Iterator[Tensor]:
        """One pass: the objective."""
        inputs, labels = self._given(batch)
        with self._computing():
            answer, taught = student(inputs), None
            if teacher is not None:
                with torch.no_grad():
                    taught = teacher(inputs)
        loss = objective(self.recipe.losses, answer, taught, labels, inputs["attention_mask"])
        yield loss if self.ranks is None else loss + self.ranks.regulariser()

    def _sandwich(self, student: Ask, net: Supernet, batch: Batch) -> Iterator[Tensor]:
        """The largest network on the objective; then smaller ones, which it teaches in place.

        The mean of the losses: a gradient is clipped as that of any other training.
        """
        assert self.recipe.elastic is not None
        inputs, labels = self._given(batch)
        smaller = sandwich(self.profile, self.recipe.elastic, self.seed, self.step)
        with self._computing():
            largest = student(inputs)
        whole = objective(self.recipe.losses, largest, None, labels, inputs["attention_mask"])
        yield whole / (1 + len(smaller))
        soft = largest.logits.detach()
        for blocks in smaller:
            with self._computing(), net.narrowed(blocks) as tensors:
                answer = student(inputs, tensors)
            yield logits_loss(answer.logits, soft, labels, 1.0) / (1 + len(smaller))

    def _given(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        labels = torch.tensor(batch.labels, device=self.device)
        return inputs_of(batch, self.device), labels

    def _descend(self, losses: Iterator[Tensor]) -> None:
        value = 0.0
        for loss in losses:
            value += loss.item()
            if not math.isfinite(value):
                raise StepFailed("diverged", self._diverged(f"the loss is {value}"))
            torch.autograd.backward(loss)
        for part in self.parts.values():
            part.take_gradient()
        if self.ranks is not None:
            self.ranks.observe()
        norm = nn.utils.clip_grad_norm_(self.trained.values(), self.recipe.clip_norm)
        if not torch.isfinite(norm):
            raise StepFailed("diverged", self._diverged(f"loss {value:.4g}, gradient norm {norm}"))
        rate = self.recipe.learning_rate * rate_share(self.step, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        for part in self.parts.values():
            part.write_back()
        if self.ranks is not None:
            self.ranks.let_go(self.step, self.recipe.total_steps)
        self.optimizer.zero_grad(set_to_none=True)

    def _diverged(self, what: str) -> str:
        return (
            f"step {self.step} of {self.recipe.total_steps}: {what}; "
            f"choose a learning rate below {self.recipe.learning_rate:g}"
        )

    def _teacher(self) -> Candidate | None:
        if self.kinds <= {"task"}:
            return None
        if self.recipe.teacher is None:
            raise StepFailed(
                "illegal", f"losses {sorted(self.kinds)} need a teacher; the recipe names none"
            )
        return self.bench.candidate(self.recipe.teacher)

    def _computing(self) -> Any:
        on = self.recipe.compute == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on)

    def _generators(self) -> list[torch.device]:
        return [] if self.device.type == "cpu" else [self.device]


def _optimizer(
    weights: Mapping[str, nn.Parameter], trained: Mapping[str, nn.Parameter], recipe: Recipe
) -> torch.optim.AdamW:
    """AdamW over what trains of the weights: they themselves, or their elements under a mask."""
    matrices = [trained[name] for name, weight in weights.items() if _is_matrix(weight)]
    vectors = [trained[name] for name, weight in weights.items() if not _is_matrix(weight)]
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
        f"{name}/{kind}": value.detach().to(CPU, copy=True)
        for name, weight in weights.items()
        for kind, value in optimizer.state.get(weight, {}).items()
    }


def _put_state(
    optimizer: torch.optim.Optimizer, weights: Mapping[str, nn.Parameter], state: TrainState
) -> None:
    for key, value in state.tensors.items():
        name, _, kind = key.rpartition("/")
        if kind != PLACES and kind not in STATES:
            weight = weights[name]
            optimizer.state[weight][kind] = value.to(weight.device, copy=True)


@contextmanager
def _failures_named() -> Iterator[None]:
    """Turns exhausted memory into its typed failure."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        raise StepFailed("out_of_memory", f"training ran out of memory: {error}") from error
