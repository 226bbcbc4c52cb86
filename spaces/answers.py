"""What a module is asked while it trains or teaches: all that the losses compare, and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import StepFailed
from .families import family_of
from .family import Role
from .profile import Profile
from .recipe import Loss
from .structure.counts import kept_of


@dataclass(frozen=True)
class Answer:
    """What a module says to a batch; what no loss compares is empty.

    Args:
        logits: `(b, outputs)`, or `(b, s, vocabulary)`.
        hidden_states: `(b, s, h)` after the embeddings and after each block.
        attentions: `(b, heads, s, s)` of each block that has attention.
        projections: queries, keys and values of one attention, `(b, s, inner)` each.
    """

    logits: Tensor
    hidden_states: Sequence[Tensor] = ()
    attentions: Sequence[Tensor] = ()
    projections: Sequence[Tensor] = ()


class Ask(Protocol):
    """A module ready to be asked."""

    def __call__(
        self, inputs: Mapping[str, Tensor], tensors: Mapping[str, Tensor] | None = None
    ) -> Answer:
        """Its answer; `tensors` stand in for parameters of the same names."""
        ...


@contextmanager
def asking(
    module: nn.Module, profile: Profile, losses: Sequence[Loss], *, teaches: bool = False
) -> Iterator[Ask]:
    """While it lasts, a module answers with what the losses compare.

    Args:
        module, profile: the model, in practice and on paper.
        losses: the terms of the objective.
        teaches: it is the teacher, whose layer for `relations` the loss names; a student's is its
            last.
    """
    kinds = {loss.kind for loss in losses}
    words = {name: True for kind, name in _OUTPUTS.items() if kind in kinds}
    if family_of(profile.family).kind == "decoder":
        # It would otherwise keep keys and values for tokens that nobody writes.
        words["use_cache"] = False
    with ExitStack() as stack:
        if "attention" in kinds:
            stack.enter_context(_attention_given(module))
        taken: Callable[[], tuple[Tensor, ...]] = tuple
        for loss in losses:
            if loss.kind == "relations":
                layer = related_layer(profile, loss.depth if teaches else 1.0)
                taken = stack.enter_context(_projections(module, profile, layer))

        def ask(
            inputs: Mapping[str, Tensor], tensors: Mapping[str, Tensor] | None = None
        ) -> Answer:
            asked = {**inputs, **words}
            out: Any = functional_call(module, dict(tensors or {}), kwargs=asked)
            return Answer(out.logits, out.hidden_states or (), out.attentions or (), taken())

        yield ask


_OUTPUTS: Final = {"hidden": "output_hidden_states", "attention": "output_attentions"}

_PROJECTIONS: Final[tuple[Role, ...]] = ("attention.query", "attention.key", "attention.value")


def related_layer(profile: Profile, depth: float) -> int:
    """The layer whose relations are compared: at a share of the depth, among those that attend.

    Raises:
        StepFailed: kind `illegal`; there is no attention.
    """
    places = [place for place, layer in enumerate(profile.layers) if layer.attention]
    if not places:
        raise StepFailed("illegal", "a model without attention has no relations; use `hidden`")
    return places[kept_of(len(places), depth) - 1]


@contextmanager
def _attention_given(module: Any) -> Iterator[None]:
    """While it lasts, a transformers module can answer with its attention probabilities."""
    before = module.config._attn_implementation
    module.set_attn_implementation("eager")
    try:
        yield
    finally:
        module.set_attn_implementation(before)


@contextmanager
def _projections(
    module: nn.Module, profile: Profile, layer: int
) -> Iterator[Callable[[], tuple[Tensor, ...]]]:
    """While it lasts, a function that says what a layer's queries, keys and values were just now.

    As their matrices gave them, adapters included: before rotary positions and head norms. Those
    of the text, soft tokens left out.
    """
    family, attention = family_of(profile.family), profile.layers[layer].attention
    assert attention is not None
    inner, inner_kv = (n * attention.head_width for n in (attention.heads, attention.kv_heads))
    sizes = dict(zip(_PROJECTIONS, (inner, inner_kv, inner_kv), strict=True))
    seen: dict[str, Tensor] = {}

    def watch(path: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def keep(_: nn.Module, entering: Any, leaving: Tensor) -> None:
            seen[path] = leaving[:, profile.soft_tokens :]

        return keep

    def taken() -> tuple[Tensor, ...]:
        found = []
        for role in _PROJECTIONS:
            stacked = family.fused(role)
            whole = seen[family.path(role, layer)]
            parts = torch.split(whole, [sizes[other] for other in stacked], dim=-1)
            found.append(parts[stacked.index(role)])
        seen.clear()
        return tuple(found)

    paths = {family.path(role, layer) for role in _PROJECTIONS}
    handles = [module.get_submodule(p).register_forward_hook(watch(p)) for p in sorted(paths)]
    try:
        yield taken
    finally:
        for handle in handles:
            handle.remove()
