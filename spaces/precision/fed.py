"""What each matrix is fed on the calibration split, block by block.

The walk of arXiv 2210.17323 (section 4): a block's matrices are looked at with what the blocks
before it let through as they are now, so that a later block makes up for what an earlier one lost.
Within a block all matrices are looked at before any of them changes. Costs two passes over the
calibration items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ...errors import DataError
from ..batching import inputs_of
from ..candidate import Candidate
from ..families import family_of
from ..profile import Profile, Weight
from ..runtimes.grid import is_whole
from ..steps import Bench
from ..task import Batch, trimmed

TOKENS: Final = 8192
"""Tokens that are looked at, padding included: more than any matrix here has columns."""

AT_ONCE: Final = 1024
"""Tokens that go through the model at a time, padding included; one text, where that has more.

So what a pass needs, the logits over a large vocabulary first, does not grow with the texts."""

_BATCH: Final = 16


@dataclass
class Fed:
    """What came into one matrix, over all tokens that are no padding.

    Args:
        gram: `(k, k)` float64, the sum of x x^T: half of the Hessian of the squared output error.
        total: `(k,)` float64, the sum of |x|.
        largest: `(k,)`, the largest |x|.
    """

    gram: Tensor
    total: Tensor
    largest: Tensor

    @staticmethod
    def nothing(columns: int, device: torch.device) -> Fed:
        """Before the first token."""
        wide = torch.zeros(columns, dtype=torch.float64, device=device)
        return Fed(wide.new_zeros(columns, columns), wide, wide.float())

    def add(self, tokens: Tensor) -> None:
        """Takes in `(tokens, k)` fp32."""
        self.gram += (tokens.t() @ tokens).double()
        self.total = self.total + tokens.abs().sum(dim=0).double()
        self.largest = self.largest.maximum(tokens.abs().amax(dim=0))

    def scaled(self, columns: Tensor) -> Fed:
        """The same where every column had been multiplied by a number, `(k,)`."""
        wide = columns.double()
        gram = self.gram * wide[:, None] * wide
        return Fed(gram, self.total * wide, self.largest * columns)


Visit = Callable[[Sequence[Weight], Mapping[str, Fed]], None]
"""Gets the matrices of one block that are stored in whole numbers, and what each is fed."""


def by_block(candidate: Candidate, bench: Bench, visit: Visit) -> None:
    """Visits every block in turn, then the matrices behind the blocks one by one.

    Args:
        candidate: the visitor changes its module in place.
        bench: where the calibration items come from.
        visit: called once a block.

    Raises:
        DataError: the calibration split is empty.
    """
    profile, module = candidate.paper.profile, candidate.module
    batches = calibration(bench, next(module.parameters()).device)
    matrices = [w for w in profile.weights() if w.role == "matrix" and is_whole(profile, w)]
    blocks = module.get_submodule(family_of(profile.family).layer)
    assert isinstance(blocks, nn.ModuleList)
    calls = _calls(module, profile, blocks, batches)
    for index, block in enumerate(blocks):
        inside = [weight for weight in matrices if weight.layer == index]
        with watching(module, inside, Fed.nothing, profile.soft_tokens) as watch:
            for call, batch in zip(calls[index], batches, strict=True):
                watch.turn_to(batch["attention_mask"])
                call.run(block)
        visit(inside, watch.found)
        for place, call in enumerate(calls[index]):
            if index + 1 < len(blocks):
                calls[index + 1][place].hidden = call.run(block)
            call.hidden = None  # what a block was fed is not needed again
        bench.progress(index + 1, len(blocks))
    soft = profile.soft_tokens
    for weight in (weight for weight in matrices if weight.layer is None):
        with watching(module, [weight], Fed.nothing, soft) as watch, torch.no_grad():
            for batch in batches:
                watch.turn_to(batch["attention_mask"])
                module(**batch)
        visit([weight], watch.found)


@dataclass
class _Call:
    """How the model calls one block for one batch."""

    hidden: Tensor | None
    rest: tuple[Any, ...]
    named: dict[str, Any]

    @torch.no_grad()
    def run(self, block: nn.Module) -> Tensor:
        answer: Any = block(self.hidden, *self.rest, **self.named)
        hidden: Tensor = answer[0] if isinstance(answer, tuple) else answer
        return hidden


def calibration(
    bench: Bench, device: torch.device, tokens: int = TOKENS
) -> list[dict[str, Tensor]]:
    """The texts of the calibration split that come first, in batches of at most `AT_ONCE` tokens.

    Sixteen at a time until they hold enough, so at most fifteen texts more than that.

    Args:
        bench: where they come from.
        device: where the batches lie.
        tokens: how many are enough, padding included.

    Raises:
        DataError: it is empty.
    """
    batches: list[dict[str, Tensor]] = []
    left = tokens
    for batch in bench.batches("calibration", batch=_BATCH):
        texts = trimmed(batch)
        batches += [inputs_of(part, device) for part in _parts(texts)]
        left -= texts.input_ids.size
        if left <= 0:
            break
    if not batches:
        raise DataError(
            "the calibration split is empty; choose a precision that reads no data (int8, int4, "
            "hqq), or give the task calibration items"
        )
    return batches


def _parts(batch: Batch) -> Iterator[Batch]:
    """As many texts at a time as go through the model at once."""
    texts, length = batch.input_ids.shape
    size = max(1, AT_ONCE // length)
    for start in range(0, texts, size):
        yield trimmed(Batch(*(part[start : start + size] for part in vars(batch).values())))


@torch.no_grad()
def _calls(
    module: nn.Module,
    profile: Profile,
    blocks: nn.ModuleList,
    batches: Sequence[Mapping[str, Tensor]],
) -> list[list[_Call]]:
    """How each block is called for each batch; only the first one's hidden states are kept."""
    family = family_of(profile.family)
    base = module.get_submodule(family.base)  # the head's logits may be larger than the model
    cache = {"use_cache": False} if family.kind == "decoder" else {}
    calls: list[list[_Call]] = [[] for _ in blocks]

    def note(index: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            hidden = args[0] if index == 0 else None
            calls[index].append(_Call(hidden, args[1:], named))

        return hook

    handles = [
        block.register_forward_pre_hook(note(index), with_kwargs=True)
        for index, block in enumerate(blocks)
    ]
    try:
        for batch in batches:
            base(**batch, **cache)
    finally:
        for handle in handles:
            handle.remove()
    return calls


class Kept(Protocol):
    """What is kept of the tokens that enter a matrix."""

    def add(self, tokens: Tensor) -> None:
        """Takes in `(tokens, k)` fp32, padding left out."""
        ...


K = TypeVar("K", bound=Kept)


class Watch(Generic[K]):
    """Keeps something of what matrices are fed; those that read one tensor share it.

    Args:
        nothing: what is kept before the first token, from the columns and the device.
        soft: soft tokens before every text: the blocks' matrices are fed them too, the head's not.
    """

    def __init__(self, nothing: Callable[[int, torch.device], K], soft: int) -> None:
        self.found: dict[str, K] = {}
        self._nothing = nothing
        self._soft = soft
        self._text = self._whole = torch.ones(0)
        self._seen: list[tuple[Tensor, K]] = []

    def turn_to(self, mask: Tensor) -> None:
        """Makes the next inputs those of this batch, `(b, s)`."""
        self._text = mask.bool()
        self._whole = torch.nn.functional.pad(self._text, (self._soft, 0), value=True)
        self._seen = []

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        """Notes what a matrix is fed."""

        def note(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            shared = next((kept for tensor, kept in self._seen if tensor is args[0]), None)
            if shared is None:
                self._seen.append((args[0], self._add(name, args[0])))
            else:
                self.found[name] = shared

        return note

    def _add(self, name: str, entering: Tensor) -> K:
        tokens = self._real(entering).float()
        if name not in self.found:
            self.found[name] = self._nothing(tokens.shape[1], tokens.device)
        self.found[name].add(tokens)
        return self.found[name]

    def _real(self, entering: Tensor) -> Tensor:
        """The rows of an input that are no padding: `(tokens, k)`."""
        for mask in (self._whole, self._text):
            if entering.shape[:2] == mask.shape and entering.dim() == 3:
                return entering[mask]
            # some modules see all positions flattened
            if entering.dim() == 2 and len(entering) == mask.numel():
                return entering[mask.flatten()]
        return entering  # a pooler reads one position a text


@contextmanager
def watching(
    module: nn.Module,
    weights: Sequence[Weight],
    nothing: Callable[[int, torch.device], K],
    soft: int,
) -> Iterator[Watch[K]]:
    """Watches what enters these matrices while it lasts, soft tokens before every text as well."""
    watch = Watch(nothing, soft)
    handles = [
        module.get_submodule(weight.name.removesuffix(".weight")).register_forward_pre_hook(
            watch.hook(weight.name)
        )
        for weight in weights
    ]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()
