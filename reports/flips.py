"""Rank flips: who is ahead early and behind later, before and after recovery and from rung to rung.

An early judgement saves work only if it foretells the later one. Of recovery: all pairs of
configurations that differ in structure or precision alone, without recovery and with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Final

import numpy as np

from ..search.against import Z95
from ..search.fidelity import rank_flips
from ..search.front import losses_of
from ..search.records import Record
from ..search.run import Run
from ..spaces.configuration import Choice, Configuration
from .matched import Matched, labels

RECOVERED: Final = ("structure", "precision")
"""What recovery makes up for: pairs differ here, and in nothing else."""

Pair = tuple[Record, Record]
"""A trial without recovery, and the same with it."""


def recovery_flips(matched: Matched) -> list[dict[str, Any]]:
    """For each way of recovery, how many pairs of configurations change order in quality with it.

    Returns:
        Rows with `recovery`, `contexts` in which pairs were compared, `pairs` (equals left out),
        `flipped`, `clear`: flipped with both differences beyond 1.96 standard errors, `by noise`:
        how many would be flipped where recovery changes no difference at all. The last two are None
        where a figure has no error. Empty for metrics of anything but quality.
    """
    if matched.ratios:
        return []
    groups: dict[Choice | None, dict[Configuration, list[Pair]]] = {}
    for choice, context, pair in _pairs(matched):
        groups.setdefault(choice, {}).setdefault(context, []).append(pair)
    names = labels([("recovery", choice) for choice in groups])
    return [
        {"recovery": names["recovery", choice], **_counted(matched, list(contexts.values()))}
        for choice, contexts in groups.items()
        if any(len(pairs) > 1 for pairs in contexts.values())
    ]


def rung_flips(run: Run) -> list[dict[str, Any]]:
    """How well each rung foretold the next on the study's objectives; empty without rungs.

    Returns:
        Rows with `low`, `high`: the rungs' shares, `trials` that finished both, `pairs` of these
        ranked differently at the lower one, `flipped`: those ranked the other way round at the
        higher, `lost`: how many trials left the front.
    """
    rungs: Sequence[float] = run.study.get("fidelity", {}).get("rungs", ())
    found = rank_flips(run.records, lambda record: losses_of(record, run.objectives), rungs)
    return [
        {
            "low": rungs[row.low],
            "high": rungs[row.high],
            "trials": row.trials,
            "pairs": row.pairs,
            "flipped": row.flipped,
            "lost": len(row.lost),
        }
        for row in found
    ]


def _pairs(matched: Matched) -> Iterator[tuple[Choice | None, Configuration, Pair]]:
    """Each recovered trial with the same unrecovered, and the context that both lie in."""
    for record in matched.trials:
        configuration = record.configuration
        choice = configuration.get("recovery")
        plain = matched.trial(matched.without(configuration, ["recovery"]))
        if plain is not None and plain is not record and matched.usable((plain, record)):
            yield choice, matched.without(configuration, RECOVERED), (plain, record)


def _counted(matched: Matched, contexts: Sequence[Sequence[Pair]]) -> dict[str, Any]:
    rows = [
        [_difference(matched, one[stage], other[stage]) for stage in (0, 1)]
        for pairs in contexts
        for one, other in combinations(pairs, 2)
    ]
    values = np.array([[value for value, _ in row] for row in rows]).reshape(-1, 2)
    known = all(stderr is not None for row in rows for _, stderr in row)
    told = values.all(axis=1)
    flipped = told & (np.sign(values[:, 0]) != np.sign(values[:, 1]))
    counts: Mapping[str, Any] = {"clear": None, "by noise": None}
    if known:
        errors = np.array([[stderr for _, stderr in row] for row in rows], dtype=np.float64)
        clear = flipped & (np.abs(values) > Z95 * errors).all(axis=1)
        by_noise = _by_noise(values[told], errors[told])
        counts = {"clear": int(clear.sum()), "by noise": by_noise}
    return {
        "contexts": sum(len(pairs) > 1 for pairs in contexts),
        "pairs": int(told.sum()),
        "flipped": int(flipped.sum()),
        **counts,
    }


def _difference(matched: Matched, one: Record, other: Record) -> tuple[float, float | None]:
    return matched.effect((one, other), (1, -1)), matched.stderr([(one, other)], (1, -1))


def _by_noise(values: np.ndarray, errors: np.ndarray) -> float:
    """Flips to expect of `(pairs, 2)` differences whose true values recovery leaves as they are.

    The two weighted by their precision stand for the true difference; their errors are taken as
    independent, though both stages answer the same items: so this is rather too many.
    """
    from scipy.stats import norm

    noisy = (errors > 0).all(axis=1)
    values, errors = values[noisy], errors[noisy]
    weights = errors**-2.0
    true = (values * weights).sum(axis=1) / weights.sum(axis=1)
    ahead = norm.cdf(true[:, None] / errors)
    return float((ahead[:, 0] * (1 - ahead[:, 1]) + (1 - ahead[:, 0]) * ahead[:, 1]).sum())
