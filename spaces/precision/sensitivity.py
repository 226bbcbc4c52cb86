"""What rounding one part of the model alone does to its answers, on the calibration split.

KL divergence of the answers from those of the unrounded model, in the mean over all answers that
are judged (arXiv 2001.00281, eq. 2): each text of a classifier, each token of a language model.
One forward pass for each part and format, and one for the model as it is. Weights alone are
rounded, to the nearest; no label is read.
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
            judged += len(plain)
            for piece, forms in pieces.items():
                for form in forms:
                    with _rounded(module, matrices[piece], form):
                        sums[piece, form] += _divergence(plain, _answers(module, batch))
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
    """Logarithms of the probabilities, `(answers, outputs)` fp64; padding is left out."""
    logits: Tensor = module(**batch).logits
    judged = logits[batch["attention_mask"].bool()] if logits.dim() == 3 else logits
    return judged.double().log_softmax(dim=-1)


def _divergence(plain: Tensor, rounded: Tensor) -> float:
    """KL divergence, summed over answers."""
    return float((plain.exp() * (plain - rounded)).sum())
