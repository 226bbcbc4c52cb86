"""Perplexity and bits per byte: rows over per-item likelihoods of a language model.

Both are functions of a ratio of sums over items, so their spread is taken by the delta method: per
item, the figure plus its linearised influence. The mean of these values is the figure itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from ...errors import BadRequest
from ..measurement import Measurement, missing
from ..metric import Evidence, Metric, Predictions

HIGHEST_NLL: Final = 700.0
"""exp of more is not a number any more."""


def perplexity_values(predictions: Predictions) -> np.ndarray:
    """Linearised values of exp(nats per token), `(n,)`."""
    nll, tokens = _sums(predictions, predictions.tokens)
    figure = math.exp(min(nll.sum() / tokens.sum(), HIGHEST_NLL))
    values: np.ndarray = figure * (1 + _influence(nll, tokens))
    return values


def bits_per_byte_values(predictions: Predictions) -> np.ndarray:
    """Linearised values of bits per UTF-8 byte of judged text, `(n,)`."""
    nll, size = _sums(predictions, predictions.text_bytes)
    figure = nll.sum() / size.sum() / math.log(2)
    values: np.ndarray = figure + _influence(nll, size) / math.log(2)
    return values


def perplexity(evidence: Evidence) -> Measurement:
    """exp of the mean negative log-likelihood per judged token."""
    return _figure(evidence, perplexity_values, "dimensionless")


def bits_per_byte(evidence: Evidence) -> Measurement:
    """Negative log2-likelihood per UTF-8 byte of judged text: comparable across tokenizers."""
    return _figure(evidence, bits_per_byte_values, "bit/byte")


def _figure(
    evidence: Evidence, values: Callable[[Predictions], np.ndarray], unit: str
) -> Measurement:
    predictions = evidence.predictions
    if predictions is None:
        return missing(unit, "the model was not asked")
    if predictions.nll is None:
        return missing(unit, "the task models no language")
    per_item = values(predictions)
    n = len(per_item)
    return Measurement(
        float(per_item.mean()),
        unit,
        "measured",
        stderr=float(per_item.std(ddof=1) / math.sqrt(n)) if n > 1 else None,
        n=n,
        over="items",
        conditions=evidence.conditions("runtime", spread="delta method over items"),
    )


def _influence(nll: np.ndarray, size: np.ndarray) -> np.ndarray:
    """How much each item moves sum(nll) / sum(size), times n; sums to 0."""
    influence: np.ndarray = (nll - nll.sum() / size.sum() * size) / size.mean()
    return influence


def _sums(predictions: Predictions, size: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    if predictions.nll is None or size is None:
        raise ValueError("these predictions have no likelihoods")
    if not size.sum():
        raise BadRequest("no token of these items is judged; give texts of two tokens or more")
    return predictions.nll, size


METRICS: Final = (
    Metric(
        name="perplexity",
        unit="dimensionless",
        direction="minimize",
        resource="quality",
        needs="trained",
        pieces=frozenset({"predictions"}),
        definition="exp of the mean negative log-likelihood per judged token, over all items.",
        source="delta method over items",
        evaluate=perplexity,
        per_item=perplexity_values,
    ),
    Metric(
        name="bits_per_byte",
        unit="bit/byte",
        direction="minimize",
        resource="quality",
        needs="trained",
        pieces=frozenset({"predictions"}),
        definition="Negative log2-likelihood per UTF-8 byte of judged text.",
        source="delta method over items",
        evaluate=bits_per_byte,
        per_item=bits_per_byte_values,
    ),
)
