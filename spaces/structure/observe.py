"""What modules are given on the calibration split: one pass, and what is summed over its tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import DataError
from ..batching import inputs_of
from ..device import CPU, computing_on
from ..steps import Bench
from ..task import Batch

BATCH = 16
"""Calibration items per forward pass."""

Watch = Callable[[Tensor, Tensor, Any], None]
"""Told of every call of a module: which tokens are real `(b, s)`, what enters, what leaves."""


def input_moments(module: nn.Module, paths: Sequence[str], bench: Bench) -> dict[str, Tensor]:
    """Second moments of what enters the modules at these paths: mean of x x^T, `(k, k)` fp64.

    Padding is left out.
    """
    return _means(module, paths, bench, lambda tokens: tokens.t() @ tokens)


def input_squares(module: nn.Module, paths: Sequence[str], bench: Bench) -> dict[str, Tensor]:
    """The diagonals of `input_moments` alone, `(k,)` fp64."""
    return _means(module, paths, bench, lambda tokens: tokens.square().sum(dim=0))


def _means(
    module: nn.Module, paths: Sequence[str], bench: Bench, of: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watch(path: str) -> Watch:
        def add(real: Tensor, entering: Tensor, _: Any) -> None:
            tokens = entering[real]
            # A batch in fp32, their sum in fp64: twice as fast as fp64 throughout.
            sums[path] = sums.get(path, 0) + of(tokens).double().to(CPU)
            counts[path] = counts.get(path, 0) + len(tokens)

        return add

    pass_over(module, {path: watch(path) for path in paths}, bench)
    return {path: sums[path] / counts[path] for path in paths}


def pass_over(module: nn.Module, watched: Mapping[str, Watch], bench: Bench) -> None:
    """One pass over the calibration split, on the bench's device.

    Watchers get mask `(b, s)`, input and output.
    """
    device = torch.device(bench.device)
    with computing_on(bench.device, module):
        for batch in calibration(bench):
            inputs = inputs_of(batch, device)
            with _watching(module, watched, inputs["attention_mask"].bool()), torch.no_grad():
                module(**inputs)


def calibration(bench: Bench) -> Iterator[Batch]:
    """One pass over the calibration split, in order.

    Raises:
        DataError: it is empty.
    """
    seen = 0
    for batch in bench.batches("calibration", batch=BATCH):
        seen += len(batch.items)
        yield batch
    if not seen:
        raise DataError(
            "the calibration split is empty; choose an importance that reads no data, "
            "or give the task calibration items"
        )


@contextmanager
def _watching(module: nn.Module, watched: Mapping[str, Watch], real: Tensor) -> Iterator[None]:
    def hook(watch: Watch) -> Callable[..., None]:
        def call(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any], out: Any) -> None:
            entering = args[0] if args else named["hidden_states"]
            # distilbert's feed-forward and GPT-2's projections may see tokens flattened
            watch(real if entering.dim() == 3 else real.flatten(), entering, out)

        return call

    handles = [
        module.get_submodule(path).register_forward_hook(hook(watch), with_kwargs=True)
        for path, watch in watched.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
