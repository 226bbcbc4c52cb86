"""The page: one HTML file that needs nothing else and asks nobody.

What a person reads first (headline, bill, definitions) is written here as text; the script draws
the rest from `payload`. Everything from the study is escaped.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

from ...errors import StorageFailed
from ...search.against import Gap, broken_when_confirmed, confirmed_gaps, contradicted, gaps
from ...search.budget import counted
from ...search.doubts import nothing_learnt, timing_doubts
from ...search.front import all_trials, front_of, limits, stored_metrics, written_limits
from ...search.records import Record
from ...search.run import Run
from ...search.select import recommendation
from ...search.units import readable, significant
from ...spaces.names import in_short
from ..history import failures, growth, sharing
from ..words import (
    BILL,
    PEAKS,
    confirmed_in_words,
    difference,
    figure_in_words,
    headline,
    listed,
    seeds_in_words,
    title,
)
from .payload import payload

HERE: Final = Path(__file__).parent
SCRIPTS: Final = ("elements.js", "page.js")
ASSUMED: Final[dict[str, dict[str, str]]] = {
    "hours": {},
    "worker_hours": {},
    "kwh": {"watts": "{:g} W a worker", "pue": "PUE {:g}"},
    "kg_co2e": {"kg_per_kwh": "{:g} kg per kWh"},
    "money": {"price_per_hour": "{:g} an hour", "price_per_kwh": "{:g} per kWh"},
}
"""Conditions that are told beside a part of the bill, and how."""


def write_page(run: Run, path: Path) -> None:
    """Writes a run's page.

    Args:
        run: as read, at any time of the search.
        path: the HTML file; replaced whole, or left as it was.

    Raises:
        StorageFailed: the file cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(page(run), encoding="utf-8")
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise StorageFailed(
            f"cannot write {path}: {error}; give another place with --out"
        ) from error


def page(run: Run) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    recommended, why_none = recommendation(run)
    number = recommended.number if recommended else None
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        **_about(run),
        why_none=why_none,
        recommended=_choice(run, recommended) if recommended else None,
        bill=[_bill(name, run.bill[name]) for name in BILL if name in run.bill],
        went=_went(run),
        definitions=[{"title": title(n), "name": n, **run.metrics[n]} for n in stored_metrics(run)],
        environment=_flat(run.environment),
        study=_flat(run.study),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup("\n".join((HERE / name).read_text("utf-8") for name in SCRIPTS)),
        data=Markup(script_json(payload(run, number))),
        plotly=Markup(plotly_compressed()),
    )


def script_json(value: Any) -> str:
    """JSON that may stand in a script element: nothing in it can end the element.

    >>> script_json({"a": "</script>"})
    '{"a":"\\\\u003c/script>"}'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def plotly_compressed() -> str:
    """plotly's script from its installed package, as base64 of gzip."""
    import plotly

    script = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    return base64.b64encode(gzip.compress(script.read_bytes(), mtime=0)).decode()


def _about(run: Run) -> dict[str, Any]:
    study = run.study
    model = PurePosixPath(str(study.get("model", ""))).name
    task = study.get("task", {})
    name = PurePosixPath(str(task.get("name", "") if isinstance(task, Mapping) else task)).name
    ended = max((r.finished or 0.0 for r in all_trials(run)), default=0.0)
    return {
        "name": run.name,
        "heading": " on ".join(part for part in (model, name) if part) or run.name,
        "trials": counted(len(all_trials(run)), baseline=run.baseline is not None),
        "front": len(front_of(run).records),
        "learnt_nothing": nothing_learnt(run.baseline),
        "timed": timing_doubts(run, front_of(run).records, [row.name for row in run.objectives]),
        "objectives": listed([title(row.name) for row in run.objectives]),
        "limits": [limit.text for limit in limits(run)],
        "date": datetime.fromtimestamp(ended, UTC).strftime("%-d %B %Y") if ended else "",
    }


def _choice(run: Run, record: Record) -> dict[str, Any]:
    """The recommended trial for the headline: sentence, figures beside the baseline's, test."""
    baseline = run.baseline
    found = gaps(run, record, baseline) if baseline and baseline is not record else []
    tested, turned = confirmed_gaps(run, record.number), contradicted(run, record)
    # what confirmation said stands first, as in the sentence; the search's own figure below it
    rows = [
        _tested_row(
            run,
            tested[gap.metric][0],
            gap,
            seeds_in_words(record.measurements[gap.metric])
            + ("; the test split contradicts it" if gap.metric in turned else ""),
        )
        if gap.metric in tested
        else {
            "title": title(gap.metric),
            "mine": figure_in_words(record.measurements[gap.metric]),
            "theirs": figure_in_words(baseline.measurements[gap.metric]),
            "difference": difference(run, gap),
            "verdict": gap.verdict,
            "source": record.measurements[gap.metric].source,
            "paired": gap.paired,
            "searched": "",
        }
        for gap in found
        if baseline
    ]
    return {
        "number": record.number,
        "short": in_short(record.configuration),
        "sentence": headline(run, record),
        "rows": rows,
        "test": _test(run, record),
        "broken": broken_when_confirmed(run, record.number, written_limits(run)),
        "doubts": timing_doubts(run, [record], [row.name for row in run.objectives]),
    }


def _test(run: Run, record: Record) -> str:
    told = confirmed_in_words(run, record.number)
    names = [*(row.name for row in run.objectives), *PEAKS]
    return "; ".join(told[name] for name in names if name in told)


def _tested_row(run: Run, gap: Gap, searched: Gap, more: str) -> dict[str, Any]:
    unit = run.metrics[gap.metric]["unit"]
    return {
        "title": f"{title(gap.metric)}, {'test split' if gap.paired else 'measured again'}",
        "mine": readable(gap.mine, unit),
        "theirs": readable(gap.theirs, unit),
        "difference": difference(run, gap),
        "verdict": gap.verdict,
        "source": "measured",
        "paired": gap.paired,
        "searched": f"in the search {readable(searched.mine, unit)}, {difference(run, searched)}"
        + more,
    }


def _bill(name: str, figure: Mapping[str, Any]) -> dict[str, str]:
    value, words = figure["value"], BILL[name]
    if value is None:
        return {"title": words, "value": "not known", "note": str(figure["reason"]), "sources": ""}
    shown = significant(value) if name == "money" else readable(value, figure["unit"])
    unit = f" {figure['unit']}" if name == "money" else ""
    known = figure.get("conditions", {})
    told = [form.format(known[key]) for key, form in ASSUMED[name].items() if known.get(key)]
    note = ", ".join([figure["source"], *told])
    return {
        "title": words,
        "value": shown + unit,
        "note": note,
        "sources": known.get("sources", ""),
    }


def _went(run: Run) -> dict[str, Any]:
    shared = sharing(run)
    return {
        "states": {
            state: sum(r.state == state for r in run.records)
            for state in ("final", "paused", "failed")
        },
        "excluded": front_of(run).excluded,
        "failures": failures(run),
        "refused": sorted(run.refused.items(), key=lambda row: -row[1]),
        "shared": shared,
        "spent": readable(shared.spent_seconds, "second"),
        "saved": readable(shared.saved_seconds, "second"),
        "growth": growth(run),
    }


def _flat(value: Any, path: str = "") -> list[tuple[str, str]]:
    """Nested data as lines of `a.b` and a text."""
    if isinstance(value, Mapping):
        return [
            row for key, item in value.items() for row in _flat(item, f"{path}.{key}".strip("."))
        ]
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        return [row for i, item in enumerate(value) for row in _flat(item, f"{path}.{i}")]
    if isinstance(value, list | tuple):
        return [(path, ", ".join(str(item) for item in value))]
    return [] if value is None else [(path, str(value))]
