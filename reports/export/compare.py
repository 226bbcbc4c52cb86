"""What an exported model answers against what was expected, and how near that must be.

    same files           the searched files, read by the same runtime: every bit is the same
    same computation     the same operations from another file: logits differ by 1e-4 at most
    other computation    another runtime or rounding: 98 % of the answers agree, and the figure is
                         the same within one point (language models: within 1 % of the perplexity)

The first two hold for one machine and one set of versions; elsewhere every proof is of the third.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from .proof import Proof

LOGITS: Final = 1e-4
AGREEMENT: Final = 0.98
POINTS: Final = 0.01 + 1e-9  # exactly one point, whatever its binary fraction
PERPLEXITY: Final = 0.01
NOT_JUDGED: Final = -100


def compared(expected: Proof, found: Proof) -> dict[str, Any]:
    """Figures of two sets of answers to the same questions.

    Returns:
        `items`, `agreement` (share of equal answers, in [0, 1]), `largest_difference` (of logits;
        of nats per token for language models), `accuracy` and `searched_accuracy`, or `perplexity`
        and `searched_perplexity`.
    """
    n = len(expected.items)
    if expected.logits is not None and found.logits is not None:
        ours, theirs = found.logits.argmax(-1), expected.logits.argmax(-1)
        return {
            "items": n,
            "agreement": float((ours == theirs).mean()),
            "largest_difference": float(np.abs(found.logits - expected.logits).max()),
            "accuracy": float((ours == expected.labels).mean()),
            "searched_accuracy": float((theirs == expected.labels).mean()),
        }
    judged = expected.labels[:, 1:] != NOT_JUDGED
    same = (_likeliest(found) == _likeliest(expected))[:, :-1]
    (ours, tokens), (theirs, _) = _likelihood(found), _likelihood(expected)
    return {
        "items": n,
        "agreement": float(same[judged].mean()),
        "largest_difference": float((np.abs(ours - theirs) / np.maximum(tokens, 1)).max()),
        "perplexity": float(np.exp(ours.sum() / tokens.sum())),
        "searched_perplexity": float(np.exp(theirs.sum() / tokens.sum())),
    }


def shortfalls(figures: Mapping[str, Any], closeness: str) -> list[str]:
    """What the figures lack, one sentence each; empty: proved.

    Args:
        figures: of `compared`.
        closeness: what is claimed.
    """
    if closeness == "other computation":
        return _against_rounding(figures)
    most = 0.0 if closeness == "same files" else LOGITS
    short = []
    if figures["agreement"] < 1:
        short.append(f"{figures['agreement']:.4f} of the answers agree, all must")
    if figures["largest_difference"] > most:
        largest = figures["largest_difference"]
        short.append(f"answers differ by up to {largest:.3g}, {most:g} is allowed")
    return short


def _against_rounding(figures: Mapping[str, Any]) -> list[str]:
    short = []
    if figures["agreement"] < AGREEMENT:
        agreement = figures["agreement"]
        short.append(f"{agreement:.4f} of the answers agree, {AGREEMENT} must")
    if "accuracy" in figures:
        ours, theirs = figures["accuracy"], figures["searched_accuracy"]
        if abs(ours - theirs) > POINTS:
            short.append(
                f"accuracy {ours:.4f} is not within one point of the searched {theirs:.4f}"
            )
    else:
        ours, theirs = figures["perplexity"], figures["searched_perplexity"]
        if abs(ours / theirs - 1) > PERPLEXITY:
            short.append(f"perplexity {ours:.4f} is not within 1 % of the searched {theirs:.4f}")
    return short


def _likeliest(proof: Proof) -> np.ndarray:
    assert proof.likeliest is not None, "answers of a language model"
    return proof.likeliest


def _likelihood(proof: Proof) -> tuple[np.ndarray, np.ndarray]:
    assert proof.nll is not None, "answers of a language model"
    assert proof.tokens is not None, "answers of a language model"
    return proof.nll, proof.tokens
