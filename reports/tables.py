"""Tables of a run: its state, its front, a selection, every trial. Data first, text second.

`status`, the front and a selection answer without pandas; `trials_table` alone brings it in.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..search.against import broken_when_confirmed, confirmed_gaps, contradicted, repeats
from ..search.budget import counted
from ..search.doubts import doubts
from ..search.front import (
    Front,
    all_trials,
    front_of,
    limits_broken,
    pooled_trials,
    stored_metrics,
    written_limits,
)
from ..search.records import Record
from ..search.run import Run
from ..search.select import Selection, recommendation
from ..search.units import readable
from ..spaces.names import PROPER, in_short
from .flips import rung_flips
from .words import BILL, confirmed_figures, figure_in_words, over_seeds

if TYPE_CHECKING:
    import pandas as pd


def status(run: Run) -> dict[str, Any]:
    """How far a run is and what it has cost, as data: each part of the bill is a Measurement.

    `trials` counts those that were searched, by state; `baseline` is its state, None before it
    ended. `budget` is the study file's, where the baseline is one of `trials`. `rungs` says how
    well each foretold the next; empty where there is one alone.
    """
    front = front_of(run)
    return {
        "run": str(run.folder),
        "study": run.name,
        "state": run.standing,
        "objectives": list(front.objectives),
        "limits": list(run.constraints),
        "baseline": run.baseline.state if run.baseline else None,
        "trials": dict(Counter(record.state for record in run.records)),
        "budget": run.study.get("budget", {}),
        "front": [record.number for record in front.records],
        "not judged": dict(front.excluded),
        "failures": dict(Counter(r.failure.kind for r in all_trials(run) if r.failure)),
        "refused": dict(run.refused),
        "rungs": rung_flips(run),
        "warnings": _doubts(run, front),
        "confirmed": sorted(run.confirmations),
        "spent": dict(run.bill),
    }


def status_in_words(run: Run) -> dict[str, Any]:
    """`status` for a person."""
    spent = {BILL[name]: _bill_line(figure) for name, figure in run.bill.items()}
    more = f"; `paretune resume {run.folder}` goes on" if run.standing == "stopped" else ""
    told = status(run)
    budget = dict(told["budget"])
    if budget.get("trials"):
        budget["trials"] = counted(budget["trials"])
    ended = {"baseline": told["baseline"] or "not judged yet", "budget": budget, "spent": spent}
    told["warnings"] = "; ".join(told["warnings"]) or "none"
    told |= {"state": run.standing + more, **ended}
    told["rungs"] = [_rung_line(row) for row in told["rungs"]]
    return {name: part for name, part in told.items() if name != "rungs" or part}


def front_rows(run: Run, objectives: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The front as flat rows for the terminal, best in the first objective first.

    A baseline that is beaten comes last, for comparison.

    Args:
        run: as read.
        objectives: any stored metrics, None for the study's own.

    Raises:
        UnknownName: a metric that this run did not store.
    """
    front = front_of(run, objectives)
    order = sorted(zip(front.losses[front.on].tolist(), front.records, strict=True), key=_by_losses)
    shown = [record for _, record in order]
    baseline = run.baseline
    if shown and baseline and baseline.state == "final" and baseline not in shown:
        shown.append(baseline)
    chosen, _ = recommendation(run)
    best = None if objectives or chosen is None else chosen.number
    return [
        {
            "trial": record.number,
            **{n: figure_in_words(record.measurements[n]) for n in front.objectives},
            "on front": f"{front.probability.get(record.number, 0.0):.0%}",
            "mark": ", ".join(_marks(run, record, front, best)),
            "configuration": _narrow(in_short(record.configuration)),
        }
        for record in shown
    ]


def front_note(run: Run, objectives: Sequence[str] | None = None) -> str:
    """Who could not be judged, which figures are doubtful, what is told in short; empty: nothing.

    Raises:
        UnknownName: a metric that this run did not store.
    """
    front = front_of(run, objectives)
    reasons = ", ".join(f"{count} {reason}" for reason, count in front.excluded.items())
    notes = [f"not judged: {reasons}"] if reasons else []
    notes += _doubts(run, front)
    shorter = [r for r in front.records if _narrow(said := in_short(r.configuration)) != said]
    return "; ".join([*notes, *(["ORT is ONNX Runtime"] if shorter else [])])


def front_json(run: Run, objectives: Sequence[str] | None = None) -> dict[str, Any]:
    """The front as data.

    Returns:
        `objectives`, `trials` (each with `number`, `configuration`, `metrics`: every figure as a
        Measurement, a mean over several seeds with `seeds`, `lowest` and `highest` among its
        conditions, `on_front_probability`, `knee`, `baseline`, and where it was confirmed
        `confirmed`: quality on the test split, speed measured again and peak memory, by metric,
        `difference` to the baseline on the same items, `seeds`: how many there are, `over_seeds`:
        the range by metric where there are several, `contradicts`: metrics in which the test split
        turns a standing against the baseline for the worse) by number, `excluded`: how many trials
        were not judged, by reason, and `warnings`: what speaks against the figures, in sentences.

    Raises:
        UnknownName: a metric that this run did not store.
    """
    front = front_of(run, objectives)
    trials = [
        {
            **_trial_json(record),
            "on_front_probability": front.probability[record.number],
            "knee": record.number == front.knee,
            "baseline": record.purpose == "baseline",
            **_confirmed(run, record),
        }
        for record in front.records
    ]
    return {
        "objectives": list(front.objectives),
        "trials": trials,
        "excluded": dict(front.excluded),
        "warnings": _doubts(run, front),
    }


def front_csv(run: Run, objectives: Sequence[str] | None = None) -> str:
    """The front as CSV: one line a trial, a column for each choice and each figure with its error.

    Raises:
        UnknownName: a metric that this run did not store.
    """
    front = front_of(run, objectives)
    names = [*front.objectives, *(n for n in stored_metrics(run) if n not in front.objectives)]
    rows = [
        {
            "trial": record.number,
            "on_front_probability": front.probability[record.number],
            "knee": record.number == front.knee,
            "baseline": record.purpose == "baseline",
            **_figures(record, names),
            **_choices(record),
        }
        for record in front.records
    ]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns or ["trial"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def selection_json(run: Run, selection: Selection) -> dict[str, Any]:
    """A selection as data: the trial as in `front_json`, why it, and what else there was."""
    front = front_of(run)
    return {
        **_trial_json(selection.record),
        **_confirmed(run, selection.record),
        "on_front_probability": front.probability.get(selection.number),
        "knee": selection.number == front.knee,
        "sentence": selection.sentence,
        "limits": [limit.text for limit in selection.limits],
        "comparisons": [asdict(comparison) for comparison in selection.comparisons],
        "kept": selection.kept,
        "rivals": list(selection.rivals),
    }


def trials_table(run: Run) -> pd.DataFrame:
    """Every trial, the baseline first: one row each.

    Columns: `number`, `purpose`, `state`, `failure`, `rung`, `seconds`, `on_front` (the study's own
    objectives), `limits_broken`, one for each `slot` and `slot.knob`, one for each stored metric
    and its `_stderr`. Absent figures are NaN. Of trials that were repeated, means over the seeds.
    """
    import pandas as pd

    front = {record.number for record in front_of(run).records}
    broken = limits_broken(run)
    rows = [
        {
            "number": record.number,
            "purpose": record.purpose,
            "state": record.state,
            "failure": record.failure.kind if record.failure else None,
            "rung": record.rungs[-1].rung if record.rungs else None,
            "seconds": record.seconds,
            "on_front": record.number in front,
            "limits_broken": ", ".join(broken[record.number]),
            **_choices(record),
            **_figures(record, stored_metrics(run)),
        }
        for record in pooled_trials(run)
    ]
    return pd.DataFrame(rows)


def _rung_line(row: dict[str, Any]) -> str:
    ends = f"{row['low']:.0%} to {row['high']:.0%}"
    if not row["pairs"]:
        return f"{ends}: trials that finished both: {row['trials']}, too few to tell"
    return (
        f"{ends}: {row['flipped']} of {row['pairs']} ranked pairs turned round, "
        f"{row['lost']} of {row['trials']} trials left the front"
    )


def _doubts(run: Run, front: Front) -> list[str]:
    return doubts(run, front.records, front.objectives)


def _narrow(configuration: str) -> str:
    """A configuration for a column of the terminal."""
    return configuration.replace(PROPER["onnxruntime"], "ORT")


def _trial_json(record: Record) -> dict[str, Any]:
    return {
        "number": record.number,
        "configuration": record.configuration.to_json(),
        "metrics": {name: m.to_json() for name, m in record.measurements.items()},
    }


def _confirmed(run: Run, record: Record) -> dict[str, Any]:
    found = confirmed_figures(run, record.number)
    if not found:
        return {}
    apart = {}
    for name, (_, by_item) in confirmed_gaps(run, record.number).items():
        if by_item is not None:
            apart = {"difference": {"metric": name, **asdict(by_item)}}
            break
    seeds = len(repeats(run, record.number))
    told = {name: figure.to_json() for name, figure in found.items()}
    ranges = {name: list(edges) for name, edges in over_seeds(run, record.number).items()}
    spread = {"over_seeds": ranges} if ranges else {}
    turned = list(contradicted(run, record))
    against = {"contradicts": turned} if turned else {}
    return {"confirmed": {**told, **apart, "seeds": seeds, **spread, **against}}


def _figures(record: Record, names: Sequence[str]) -> dict[str, float | None]:
    columns: dict[str, float | None] = {}
    for name in names:
        figure = record.measurements.get(name)
        columns[name] = figure.value if figure else None
        if figure and figure.stderr is not None:
            columns[f"{name}_stderr"] = figure.stderr
    return columns


def _choices(record: Record) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for slot, choice in record.configuration:
        columns[slot] = choice.method
        columns.update({f"{slot}.{name}": value for name, value in choice.settings})
    return columns


def _by_losses(row: tuple[list[float], Record]) -> tuple[list[float], int]:
    return row[0], row[1].number


def _marks(run: Run, record: Record, front: Front, recommended: int | None) -> list[str]:
    marks = {
        "recommended": record.number == recommended,
        "baseline": record.purpose == "baseline",
        "beaten": record not in front.records,
        "knee": record.number == front.knee != recommended,
        "tested": record.number in run.confirmations,
        "worse as tested": bool(contradicted(run, record)),
        "breaks a limit as tested": bool(
            broken_when_confirmed(run, record.number, written_limits(run))
        ),
    }
    return [mark for mark, holds in marks.items() if holds]


def _bill_line(figure: dict[str, Any]) -> str:
    value = figure["value"]
    if value is None:
        return f"not known: {figure['reason']}"
    return f"{readable(value, figure['unit'])} ({figure['source']})"
