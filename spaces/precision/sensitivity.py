"""What rounding one part of the model alone does to its answers, on the calibration split.

KL divergence of the answers from those of the unrounded model, in the mean over all answers that
are judged (arXiv 2001.00281, eq. 2): each text of a classifier, each token of a language model.
One forward pass for each part and format, and one for the model as it is. Weights alone are
rounded, to the nearest; no label is read. Beside the model it takes the logits of `fed.AT_ONCE`
tokens twice in fp32 (0.4 GB for a vocabulary of 50,000 words), and little more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn

from ...errors import StepFailed
from ..candidate import Candidate
from ..device import computing_on
from ..profile import Format, Group, Weight
from ..runtimes.grid import extremes, rows_of
from ..steps import Bench
from .fed import calibration

Piece = tuple[Group, int]
"""The matrices of a group in one layer."""

TOKENS: Final = 2048
"""Tokens that are looked at, padding included."""

_NUMBERS: Final = 2**22
"""Logits that are compared at a time, in fp64."""


def sensitivities(
    candidate: Candidate, bench: Bench, pieces: Mapping[Piece, Sequence[Format]]
) -> dict[Piece, dict[Format, float]]:
    """The mean divergence that each format of each piece makes by itself, in nats.

    Args:
        candidate: left as it is.
        bench: where the calibration items come from, and where to compute.
        pieces: which formats to try on which.

    Raises:
        DataError: the calibration split is empty.
        StepFailed: kind `diverged`, an answer is not finite.
    """
    module, matrices = candidate.module, _matrices(candidate)
    sums = {(piece, form): 0.0 for piece, forms in pieces.items() for form in forms}
    judged, done = 0, 0
    with computing_on(bench.device, module), torch.no_grad():
        batches = calibration(bench, torch.device(bench.device), TOKENS)
        total = len(batches) * len(sums)
        for batch in batches:
            # Batch after batch: all answers of a language model may be larger than the model.
            plain = _answers(module, batch)
            rows = _judged(plain, batch)
            judged += len(rows)
            for piece, forms in pieces.items():
                for form in forms:
                    with _rounded(module, matrices[piece], form):
                        sums[piece, form] += _divergence(plain, _answers(module, batch), rows)
                    done += 1
                    bench.progress(done, total)
    found: dict[Piece, dict[Format, float]] = {piece: {} for piece in pieces}
    for (piece, form), value in sums.items():
        if not math.isfinite(value):
            group, layer = piece
            raise StepFailed(
                "diverged",
                f"with {group} of layer {layer} in {form.name} some answers are not finite",
            )
        found[piece][form] = value / judged
    return found


def _matrices(candidate: Candidate) -> dict[Piece, list[Weight]]:
    found: dict[Piece, list[Weight]] = {}
    for weight in candidate.paper.profile.weights():
        if weight.role == "matrix" and weight.layer is not None:
            found.setdefault((weight.group, weight.layer), []).append(weight)
    return found


@contextmanager
def _rounded(module: nn.Module, weights: Sequence[Weight], form: Format) -> Iterator[None]:
    """While it lasts, these weights are what a runtime would store."""
    before = {w.name: module.get_parameter(w.name).detach().clone() for w in weights}
    try:
        for weight in weights:
            rows = rows_of(weight, before[weight.name])
            grid = extremes(rows, form)
            values = grid.values(grid.nearest(rows))
            module.get_parameter(weight.name).copy_(rows_of(weight, values))
        yield
    finally:
        for name, values in before.items():
            module.get_parameter(name).copy_(values)


def _answers(module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Logits, `(b, outputs)` or `(b, s, vocabulary)`."""
    logits: Tensor = module(**batch).logits
    return logits


def _judged(answers: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Which rows are judged, texts and tokens in one line: all texts, all tokens but padding."""
    mask = batch["attention_mask"]
    return (mask if answers.dim() == 3 else torch.ones_like(mask[:, 0])).flatten().nonzero()[:, 0]


def _divergence(plain: Tensor, rounded: Tensor, rows: Tensor) -> float:
    """KL divergence in these rows, summed."""
    total = 0.0
    for some in torch.split(rows, max(1, _NUMBERS // plain.shape[-1])):
        p, q = (
            logits.flatten(0, -2)[some].double().log_softmax(dim=-1) for logits in (plain, rounded)
        )
        total += float((p.exp() * (p - q)).sum())
    return total
