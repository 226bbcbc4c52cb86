"""Doubts: what speaks against a run's figures, a sentence each, for everybody who shows them.

A baseline that has learnt nothing, latencies taken beside other work, latencies taken while the
machine was another than when the baseline was timed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ..evaluators.catalogue import metrics as catalogue
from ..evaluators.compute.probe import drift
from .against import Z95, own_repeat
from .front import written_limits
from .records import Record
from .run import Run

QUIET_SHARE: Final = 0.9
"""CPU seconds per second of a timing session, below which it did not have its processor alone."""


def doubts(run: Run, records: Sequence[Record], metrics: Sequence[str]) -> list[str]:
    """What speaks against the figures of some records and of the baseline; empty: nothing.

    Args:
        run: as read. records: that are shown. metrics: that they are judged by.
    """
    said = nothing_learnt(run.baseline)
    return [*([said] if said else []), *timing_doubts(run, records, metrics)]


def nothing_learnt(baseline: Record | None) -> str | None:
    """Why a search from this baseline compares noise; None: nothing says so.

    Its accuracy does not exceed the share of the most frequent class among the same items by more
    than its 95 % interval.
    """
    if baseline is None or baseline.purpose != "baseline" or baseline.state != "final":
        return None
    figure = baseline.measurements.get("accuracy")
    share = dict(figure.conditions).get("majority_share") if figure else None
    if figure is None or figure.value is None or share is None:
        return None
    half = Z95 * (figure.stderr or 0.0)
    if figure.value - half > share:
        return None
    return (
        f"the baseline has learnt nothing that shows: accuracy {100 * figure.value:.1f} ± "
        f"{100 * half:.1f} %, and {100 * share:.1f} % of the items are of the most frequent class; "
        "what is searched from here is noise: train longer or at another learning rate, or look "
        "at the data, and search anew"
    )


def timing_doubts(run: Run, records: Sequence[Record], metrics: Sequence[str]) -> list[str]:
    """What speaks against the latencies of some records, and of the baseline beside them.

    Args:
        run: as read. records: that are shown.
        metrics: that they are judged by, the run's limits apart; those that rest on no timing
            session have no doubts.
    """
    metrics = [*metrics, *(limit.metric for limit in written_limits(run))]
    baseline = [run.baseline] if run.baseline else []
    shown = [*baseline, *(r for r in records if r not in baseline)]
    found = _in_words(_named(shown, metrics), "")
    again = [repeat for r in shown if (repeat := own_repeat(run, r.number))]
    return [*found, *_in_words(_named(again, metrics), " when confirmed")]


def doubts_between(runs: Sequence[Run], metrics: Sequence[str]) -> list[str]:
    """Why latencies of several runs do not compare: their baselines were timed on other machines.

    Args:
        runs: as read. metrics: those that were not timed have no doubts.
    """
    timed: list[tuple[Path, Mapping[str, Any]]] = []
    for run in runs:
        baseline = [run.baseline] if run.baseline else []
        timed += [(run.folder, pairs) for _, pairs in _named(baseline, metrics)]
    apart = [(folder, drifted(pairs, timed[0][1])) for folder, pairs in timed]
    told = [f"{folder} ({pace(by)} as {timed[0][0]})" for folder, by in apart if by is not None]
    said = f"the machine was another, so latencies do not compare: {_listed(told)}"
    return [said] if told else []


def disturbed(conditions: Mapping[str, Any]) -> bool:
    """A figure was timed while other work took the processor.

    Only timings of one thread tell: how many of several a runtime keeps busy is its own affair.

    Args:
        conditions: of the figure.
    """
    alone = conditions.get("threads") == 1
    return alone and conditions.get("cpu_share", 1.0) < QUIET_SHARE


def drifted(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> float | None:
    """How many times as slow the machine was for one figure as for another; None: as fast.

    Args:
        mine, theirs: conditions of the two figures.
    """
    return drift(mine.get("probe_ms"), theirs.get("probe_ms"))


def pace(by: float) -> str:
    """A drift in words.

    >>> pace(1.3), pace(0.8)
    ('1.30 times as slow', '1.25 times as fast')
    """
    return f"{by:.2f} times as slow" if by > 1 else f"{1 / by:.2f} times as fast"


def _named(
    records: Sequence[Record], metrics: Sequence[str]
) -> list[tuple[Record, Mapping[str, Any]]]:
    """Records, each with the conditions of its timing session, where a metric rests on one.

    Energy, carbon and prices are computed from the session that latency was taken in.
    """
    table = catalogue()
    if not any(table[name].pieces & {"timings", "power"} for name in metrics if name in table):
        return []
    found: list[tuple[Record, Mapping[str, Any]]] = []
    for record in records:
        figures = (record.measurements.get(name) for name in ("latency_p50", "tpot_p50", *metrics))
        timed = [dict(figure.conditions) for figure in figures if figure is not None]
        timed = [pairs for pairs in timed if {"cpu_share", "probe_ms"} & set(pairs)]
        if timed:
            found.append((record, timed[0]))
    return found


def _in_words(found: Sequence[tuple[Record, Mapping[str, Any]]], when: str) -> list[str]:
    said = []
    busy = [_name(record) for record, pairs in found if disturbed(pairs)]
    if busy:
        said.append(f"timed beside other work{when}, so latencies are doubtful: {_listed(busy)}")
    first = next((pairs for record, pairs in found if record.number == 0), {})
    apart = [(record, drifted(pairs, first)) for record, pairs in found]
    told = [f"{_name(record)} ({pace(by)})" for record, by in apart if by is not None]
    if told:
        said.append(
            f"timed{when} while the machine itself was slower or faster than for the baseline, so "
            f"latencies do not compare with it: {_listed(told)}"
        )
    return said


def _name(record: Record) -> str:
    return "the baseline" if record.number == 0 else f"trial {record.number}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
