"""Accuracy and macro F1: rows over per-item answers of a classifier."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from ..measurement import Measurement, missing
from ..metric import Evidence, Metric, Predictions

NOT_ASKED: Final = "the model was not asked"
NO_CLASSES: Final = "the task has no classes"


def hits(predictions: Predictions) -> np.ndarray:
    """1.0 where the highest logit is the right class, else 0.0: `(n,)`."""
    labels, logits = _classes(predictions)
    right: np.ndarray = logits.argmax(1) == labels
    return right.astype(float)


def accuracy(evidence: Evidence) -> Measurement:
    """Share of items whose highest logit is the right class."""
    predictions = evidence.predictions
    if predictions is None or predictions.logits is None:
        return missing("fraction", NOT_ASKED if predictions is None else NO_CLASSES)
    right = hits(predictions)
    n = len(right)
    # one success and one failure added: all right on ten items is not certainty (Agresti-Coull)
    smoothed = (right.sum() + 1) / (n + 2)
    return Measurement(
        float(right.mean()),
        "fraction",
        "measured",
        stderr=math.sqrt(smoothed * (1 - smoothed) / n),
        n=n,
        over="items",
        conditions=evidence.conditions("runtime", majority_share=_majority_share(predictions)),
    )


def macro_f1(evidence: Evidence) -> Measurement:
    """Mean F1 over the classes that are right or answered for at least one item."""
    predictions = evidence.predictions
    if predictions is None or predictions.logits is None:
        return missing("fraction", NOT_ASKED if predictions is None else NO_CLASSES)
    values = f1_values(predictions)
    n = len(values)
    return Measurement(
        float(values.mean()),
        "fraction",
        "measured",
        stderr=float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else None,
        n=n,
        over="items",
        conditions=evidence.conditions("runtime", spread="jackknife over items"),
    )


def f1_values(predictions: Predictions) -> np.ndarray:
    """Jackknife values of macro F1, `(n,)`: their mean is the figure, their spread its error.

    Leaving out an item changes one cell of the confusion matrix, so there are as many values to
    work out as cells (Efron and Stein 1981).
    """
    labels, logits = _classes(predictions)
    answers, n = logits.argmax(1), len(labels)
    classes = logits.shape[1]
    table = np.zeros((classes, classes))
    np.add.at(table, (labels, answers), 1)
    whole = _macro_f1(table)
    without = np.zeros_like(table)
    for cell in zip(*np.nonzero(table), strict=True):
        less = table.copy()
        less[cell] -= 1
        without[cell] = _macro_f1(less)
    left_out = without[labels, answers]
    centred: np.ndarray = whole + (n - 1) * (left_out.mean() - left_out)
    return centred


def _majority_share(predictions: Predictions) -> float:
    """Share of the most frequent class among the items: what who has learnt nothing may reach."""
    labels, _ = _classes(predictions)
    return round(float(np.bincount(labels).max() / len(labels)), 4)


def _macro_f1(table: np.ndarray) -> float:
    """Macro F1 of a confusion matrix `(right, answered)`; classes that never occur are left out."""
    size = table.sum(0) + table.sum(1)
    present = size > 0
    return float((2 * np.diag(table)[present] / size[present]).mean()) if present.any() else 0.0


def _classes(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    if predictions.labels is None or predictions.logits is None:
        raise ValueError("these predictions have no classes")
    return predictions.labels, predictions.logits


METRICS: Final = (
    Metric(
        name="accuracy",
        unit="fraction",
        direction="maximize",
        resource="quality",
        needs="trained",
        pieces=frozenset({"predictions"}),
        definition="Share of items whose highest logit is the right class.",
        source="standard error: Agresti and Coull, 1998",
        evaluate=accuracy,
        per_item=hits,
    ),
    Metric(
        name="macro_f1",
        unit="fraction",
        direction="maximize",
        resource="quality",
        needs="trained",
        pieces=frozenset({"predictions"}),
        definition="Unweighted mean of the classes' F1, over classes that occur.",
        source="standard error: jackknife, Efron and Stein 1981",
        evaluate=macro_f1,
        per_item=f1_values,
    ),
)
