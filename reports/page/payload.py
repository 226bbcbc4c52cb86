"""What the page's script is given: a run as columns, JSON-ready, nothing rounded.

Texts that repeat (conditions, reasons) stand once in a list; columns hold their places.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Final

from ...evaluators.measurement import Measurement
from ...search.against import gap
from ...search.front import (
    front_of,
    limits,
    limits_broken,
    pooled_trials,
    sign,
    stored_metrics,
    values,
)
from ...search.pooled import POOLED
from ...search.records import Record
from ...search.run import Run
from ...search.units import scale_of
from ...spaces.names import PROPER, SLOT_TITLES, choice_in_words, in_short
from ..history import growth
from ..words import confirmed_in_words, seeds_in_words, title

WIDE: Final = 10.0
"""A ratio of figures from here on is one heap at the edge of a straight axis."""

SOURCES: Final = ("exact", "measured", "modelled")


class Texts:
    """A list of distinct texts that grows as places are asked for."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def place(self, text: str) -> int:
        """Where a text stands in the list."""
        return self.places.setdefault(text, len(self.places))


def payload(run: Run, recommended: int | None) -> dict[str, Any]:
    """A run as the page's script reads it.

    Args:
        run: as read.
        recommended: number of the recommended trial, None where there is none.
    """
    texts, trials, names = Texts(), pooled_trials(run), stored_metrics(run)
    figures = {name: _figures(trials, name, texts) for name in names}
    for name in names:
        figures[name]["verdict"] = _verdicts(run, trials, name)
    return {
        "study": run.name,
        "titles": {**SLOT_TITLES, **PROPER},
        "command": f"paretune export {shlex.quote(str(run.folder))}",
        "sources": SOURCES,
        "objectives": [row.name for row in run.objectives if row.name in names],
        "metrics": {name: _metric(run, name) for name in names},
        "limits": [
            {"metric": x.metric, "upper": x.upper, "bound": x.bound, "text": x.text}
            for x in limits(run)
            if not x.open
        ],
        "reference": dict(run.reference) if run.reference else None,
        "recommended": recommended,
        "baseline": run.baseline.number if run.baseline else None,
        "trials": _trials(run, trials),
        "figures": figures,
        "texts": list(texts.places),
        "growth": asdict(growth(run)),
    }


def _metric(run: Run, name: str) -> dict[str, Any]:
    row = run.metrics[name]
    found = [values(record)[name] for record in pooled_trials(run) if name in values(record)]
    scale = scale_of(found, row["unit"])
    return {
        "title": title(name),
        "size": scale.size,
        "label": scale.label,
        "sign": sign(run, name),
        "wide": bool(found) and min(found) > 0 and max(found) / min(found) > WIDE,
        "resource": row["resource"],
    }


def _trials(run: Run, trials: Sequence[Record]) -> dict[str, Any]:
    broken, chance = limits_broken(run), front_of(run).probability
    confirmed = {n: confirmed_in_words(run, n) for n in run.confirmations}
    return {
        "number": [r.number for r in trials],
        "state": [r.state for r in trials],
        "short": [in_short(r.configuration) for r in trials],
        "configuration": [r.configuration.to_json() for r in trials],
        "slots": [_slots(r) for r in trials],
        "seconds": [r.seconds for r in trials],
        "failure": [_failure(r) for r in trials],
        "chance": [chance.get(r.number) for r in trials],
        "broken": [list(broken[r.number]) if r.state == "final" else [] for r in trials],
        "stages": [[[s.step, s.seconds, s.cached] for s in r.stages] for r in trials],
        "test": {number: list(found.values()) for number, found in confirmed.items() if found},
    }


def _failure(record: Record) -> str | None:
    if record.state != "failed" or record.failure is None:
        return None
    return f"{record.failure.kind.replace('_', ' ')}: {record.failure.message}"


def _slots(record: Record) -> list[tuple[str, str]]:
    return [(SLOT_TITLES[slot], choice_in_words(choice)) for slot, choice in record.configuration]


def _figures(trials: Sequence[Record], name: str, texts: Texts) -> dict[str, list[Any]]:
    found = [record.measurements.get(name) for record in trials]
    return {
        "value": [m.value if m else None for m in found],
        "stderr": [m.stderr if m else None for m in found],
        "source": [SOURCES.index(m.source) if m and m.source else None for m in found],
        "note": [texts.place(_note(m)) if m else None for m in found],
    }


def _verdicts(run: Run, trials: Sequence[Record], name: str) -> list[str | None]:
    """Against the baseline, item by item where that can be; None for trials beside the front."""
    baseline, front = run.baseline, {record.number for record in front_of(run).records}
    if baseline is None or baseline.state != "final":
        return [None] * len(trials)
    found = [gap(run, name, r, baseline) if r.number in front else None for r in trials]
    return [one.verdict if one else None for one in found]


def _note(figure: Measurement) -> str:
    """What one must know about a figure, in a line."""
    if figure.value is None:
        return str(figure.reason)
    taken = [f"over {figure.n} {figure.over}"] if figure.n and figure.over else []
    taken += [several] if (several := seeds_in_words(figure).removeprefix(", ")) else []
    pairs = [(name, value) for name, value in figure.conditions if name not in POOLED]
    return "; ".join([*taken, *_pairs(pairs)])


def _pairs(conditions: Iterable[tuple[str, Any]]) -> list[str]:
    return [f"{name.replace('_', ' ')} {value}" for name, value in conditions]
