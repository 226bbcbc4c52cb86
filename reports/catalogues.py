"""What exists, as rows: techniques, metrics, devices. The docs are generated from these too."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..evaluators.catalogue import metrics
from ..evaluators.devices.table import devices, grids
from ..spaces.hyperparameter import Hyperparameter, OneOf, allowed
from ..spaces.paper import Paper
from ..spaces.profile import Attention, FeedForward, Head, Layer, Profile
from ..spaces.recipe import Recipe
from ..spaces.slots import slots


def example_paper() -> Paper:
    """A BERT-base classifier on paper, for which knobs are listed."""
    layer = Layer(Attention(12, 12, 64), FeedForward(3072))
    profile = Profile("bert", 768, 30522, 512, 2, (layer,) * 12, Head("classification", 2))
    return Paper(profile, Recipe(train_items=1000, epochs=3))


def technique_rows() -> list[dict[str, Any]]:
    """One row a technique: slot, name, what it moves, its knobs, its source, what it does.

    `more` holds the further paragraphs of its docstring: limits, and what it does not bring.
    """
    rows = []
    for slot in slots().values():
        for name, technique in slot.techniques.items():
            knobs = technique.hyperparameters(example_paper())
            rows.append(
                {
                    "slot": slot.name,
                    "method": name,
                    "moves": sorted(technique.moves),
                    "knobs": {knob.name: _knob(knob) for knob in knobs},
                    "source": technique.source,
                    "what": _paragraphs(technique)[0],
                    "more": _paragraphs(technique)[1:],
                }
            )
    return rows


def techniques_in_short() -> list[dict[str, Any]]:
    """The same for the terminal: knobs by name alone."""
    names = ("slot", "method", "knobs", "what")
    rows = [{**row, "knobs": list(gathered(row["knobs"]))} for row in technique_rows()]
    return [{name: row[name] for name in names} for row in rows]


def gathered(knobs: Mapping[str, str]) -> dict[str, str]:
    """Knobs that repeat over layers, `heads_1`, `heads_2`, ..., in one line from first to last.

    >>> gathered({"depth": "a share", "heads_1": "a count", "heads_2": "a count"})
    {'depth': 'a share', 'heads_1 to heads_2': 'a count'}
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for name, what in knobs.items():
        groups.setdefault((name.rstrip("0123456789"), what), []).append(name)
    ends = {key: [*dict.fromkeys((names[0], names[-1]))] for key, names in groups.items()}
    return {" to ".join(ends[key]): key[1] for key in groups}


def metric_rows() -> list[dict[str, Any]]:
    """One row a metric of the catalogue."""
    return [
        {
            "metric": metric.name,
            "unit": metric.unit,
            "better": "higher" if metric.direction == "maximize" else "lower",
            "resource": metric.resource,
            "needs": metric.needs,
            "definition": metric.definition,
            "source": metric.source,
        }
        for metric in metrics().values()
    ]


def metrics_in_short() -> list[dict[str, Any]]:
    """The same for the terminal: without sources."""
    return [{k: v for k, v in row.items() if k not in ("needs", "source")} for row in metric_rows()]


def device_rows() -> list[dict[str, Any]]:
    """One row a device or grid region, with the source and date of its figures."""
    rows: list[dict[str, Any]] = [{"kind": "device", **vars(d)} for d in devices().values()]
    return rows + [{"kind": "grid region", **vars(g)} for g in grids().values()]


def devices_in_short() -> dict[str, list[dict[str, Any]]]:
    """The same for the terminal: two tables, without sources."""
    figures = ("name", "per", "idle_watts", "peak_watts", "usd_per_hour")
    return {
        "devices": [{name: getattr(d, name) for name in figures} for d in devices().values()],
        "grid regions": [
            {"region": g.region, "name": g.name, "g CO2e/kWh": g.gco2e_per_kwh, "year": g.year}
            for g in grids().values()
        ],
    }


def _knob(knob: Hyperparameter) -> str:
    fixed = isinstance(knob, OneOf) and len(knob.values) == 1
    if fixed:
        return str(knob.default)
    stays = ", fixed where a study does not name it" if knob.still else ""
    return f"{allowed(knob)} (default {knob.default}{stays})"


def _paragraphs(technique: object) -> list[str]:
    """A technique's docstring, each paragraph in one line."""
    text = inspect.getdoc(type(technique)) or ""
    return [" ".join(part.split()) for part in text.split("\n\n")]
