"""Which choices help or fight each other: what two do together beyond what each does alone.

Of a choice A in one slot and B in another, over all contexts in which all four were tried:

    interaction = y(A, B) - y(A) - y(B) + y(neither)

in the metric's unit for quality, as a ratio (of logarithms) for every other figure. What matches,
and how its interval comes about: `matched.py`. Which differ from nothing is decided for all pairs
of a metric together (Benjamini and Hochberg, JRSS B 57, 1995), and for its single choices apart.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from ..search.front import stored_metrics
from ..search.run import Run
from ..search.units import scale_of, significant
from .flips import recovery_flips
from .matched import Estimate, Match, Matched, Part, labels
from .words import TIMES, signed, title

if TYPE_CHECKING:
    import pandas as pd

FALSE_DISCOVERIES: Final = 0.05
"""Expected share of pairs without an interaction among those that are marked."""

PAIR_COLUMNS: Final = (
    *("metric", "scale", "a", "b", "slot_a", "slot_b", "together", "singles", "interaction"),
    *("low", "high", "p", "p_adjusted", "contexts", "incomplete", "verdict"),
)
"""What is told of a pair."""

WORKED: Final = ("help", "fight")
ALONE: Final = ("better", "worse")

RECORD: Final = (
    "no two choices of this run were tried together, each alone and neither, with all else equal "
    "and a figure of {metric}. A search seldom does that: give every knob of the study a short "
    "list and try all, with `python -m paretune.benchmarks.joint record --run DIR --study STUDY`"
)


def interaction_rows(matched: Matched) -> list[dict[str, Any]]:
    """All pairs of choices that were matched, flat and JSON-ready; marked ones first, then by p.

    Returns:
        Of each pair `metric`, `scale` (`difference` in the metric's unit, or `ratio`), `a` and `b`
        in words with `slot_a`, `slot_b`; `together` against neither, `singles`: what both do alone,
        added or multiplied, `interaction` with `low` and `high` (95 %; None: no error is known),
        `p`, `p_adjusted`, `contexts`, `incomplete` (tried, but without all figures), `verdict`:
        `help`, `fight`, or None where nothing was shown.
    """
    found = [match for match in matched.matches(2) if match.contexts]
    names = labels([part for match in found for part in match.parts])
    rows = [_pair(matched, match, names) for match in found]
    return _marked(matched, rows, "interaction", WORKED)


def effect_rows(matched: Matched) -> list[dict[str, Any]]:
    """What each choice does alone against its slot left as it is, over all contexts with both.

    Returns:
        Rows as of `interaction_rows` with `choice`, `slot` and `effect`; `verdict` is `better`,
        `worse` or None.
    """
    found = [match for match in matched.matches(1) if match.contexts]
    names = labels([part for match in found for part in match.parts])
    rows = []
    for match in found:
        estimate = matched.estimate(match.contexts, matched.signs(1))
        (part,) = match.parts
        choice = {**_facts(matched), "choice": names[part], "slot": part[0]}
        rows.append({**choice, **_estimated(matched, "effect", estimate, match)})
    return _marked(matched, rows, "effect", ALONE)


def interactions_table(run: Run, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """`interaction_rows` of some metrics, None for all stored ones; absent figures are NaN."""
    return _table(interaction_rows, run, metrics)


def effects_table(run: Run, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """`effect_rows` of some metrics, None for all stored ones; absent figures are NaN."""
    return _table(effect_rows, run, metrics)


def interactions_json(run: Run, metric: str) -> dict[str, Any]:
    """Single choices, pairs and what recovery turned round, as data; `note` says what is lacking.

    Raises:
        UnknownName: a metric that this run did not store.
    """
    matched = Matched(run, metric)
    pairs = interaction_rows(matched)
    return {
        "metric": metric,
        "unit": run.metrics[metric]["unit"],
        "left alone": matched.left_alone.to_json(),
        "alone": effect_rows(matched),
        "together": pairs,
        "recovery": recovery_flips(matched),
        "note": None if pairs else RECORD.format(metric=metric),
    }


def interactions_csv(run: Run, metric: str) -> str:
    """The pairs as CSV; a header alone where nothing was matched.

    Raises:
        UnknownName: a metric that this run did not store.
    """
    rows = interaction_rows(Matched(run, metric))
    text = io.StringIO()
    writer = csv.DictWriter(text, PAIR_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def interactions_in_words(run: Run, metric: str) -> dict[str, Any]:
    """The same for a person: tables by heading, and notes on what they leave out.

    Raises:
        UnknownName: a metric that this run did not store.
    """
    told = interactions_json(run, metric)
    say, unit = _speech(told)
    alone = [
        {
            "choice": row["choice"],
            "alone": say(row["effect"]),
            "95 %": say(row["low"], row["high"]),
            **_contexts(row),
        }
        for row in told["alone"]
    ]
    shown = [row for row in told["together"] if not _exactly_nothing(row)]
    pairs = [
        {
            "pair": f"{row['a']} {TIMES} {row['b']}",
            "together": say(row["together"]),
            "both alone": say(row["singles"]),
            "interaction": say(row["interaction"]),
            "95 %": say(row["low"], row["high"]),
            **_contexts(row),
        }
        for row in shown
    ]
    nothing = len(told["together"]) - len(shown)
    more = f"; {nothing} more do together exactly what they do alone" if nothing else ""
    of = f"{title(metric)} in {unit}" if unit else title(metric)
    tables = {
        f"{of}, each choice against its slot left alone": alone,
        f"{of}, two choices together{more}": pairs,
        f"{title(metric)}, who is ahead before recovery and who after it": told["recovery"],
    }
    notes = {"note": told["note"]} if told["note"] else {}
    return {**{name: rows for name, rows in tables.items() if rows}, **notes}


def _pair(matched: Matched, match: Match, names: Mapping[Part, str]) -> dict[str, Any]:
    estimate = matched.estimate(match.contexts, matched.signs(2))
    both, first, second, neither = matched.values(match.contexts).mean(axis=0)
    (a, b) = match.parts
    return {
        **_facts(matched),
        "a": names[a],
        "b": names[b],
        "slot_a": a[0],
        "slot_b": b[0],
        "together": _told(matched, float(both - neither)),
        "singles": _told(matched, float(first + second - 2 * neither)),
        **_estimated(matched, "interaction", estimate, match),
    }


def _facts(matched: Matched) -> dict[str, Any]:
    return {"metric": matched.metric, "scale": "ratio" if matched.ratios else "difference"}


def _estimated(matched: Matched, name: str, estimate: Estimate, match: Match) -> dict[str, Any]:
    ends = {"low": estimate.low, "high": estimate.high}
    return {
        name: _told(matched, estimate.value),
        **{end: None if x is None else _told(matched, x) for end, x in ends.items()},
        "p": estimate.p,
        "p_adjusted": None,
        "contexts": len(match.contexts),
        "incomplete": match.incomplete,
        "verdict": None,
    }


def _told(matched: Matched, effect: float) -> float:
    return math.exp(effect) if matched.ratios else effect


def _marked(
    matched: Matched, rows: list[dict[str, Any]], name: str, words: tuple[str, str]
) -> list[dict[str, Any]]:
    """The same rows with adjusted probabilities and verdicts, the surest first."""
    from scipy.stats import false_discovery_control

    known = [row for row in rows if row["p"] is not None]
    adjusted = list(false_discovery_control([row["p"] for row in known])) if known else []
    nothing = 1.0 if matched.ratios else 0.0
    for row, p in zip(known, adjusted, strict=True):
        row["p_adjusted"] = float(p)
        if p <= FALSE_DISCOVERIES and row[name] != nothing:
            row["verdict"] = words[(row[name] > nothing) != matched.more_is_better]

    def surest(row: dict[str, Any]) -> tuple[bool, float, float]:
        size = abs(math.log(row[name])) if matched.ratios else abs(row[name])
        return row["verdict"] is None, 2.0 if row["p"] is None else row["p"], -size

    return sorted(rows, key=surest)


def _table(
    rows_of: Callable[[Matched], list[dict[str, Any]]], run: Run, metrics: Sequence[str] | None
) -> pd.DataFrame:
    import pandas as pd

    names = stored_metrics(run) if metrics is None else metrics
    return pd.DataFrame([row for name in names for row in rows_of(Matched(run, name))])


def _speech(told: Mapping[str, Any]) -> tuple[Callable[..., str], str]:
    """How figures of this metric are written, `say(value)` or `say(low, high)`, and their unit."""
    rows = [*told["alone"], *told["together"]]
    if rows and rows[0]["scale"] == "ratio":
        return lambda *ends: _joined(ends, lambda x: f"{TIMES}{significant(x)}"), "ratios"
    if told["unit"] == "fraction":
        return lambda *ends: _joined(ends, lambda x: signed(100 * x)), "points"
    scale = scale_of([row.get("effect", row.get("interaction")) for row in rows], told["unit"])
    return lambda *ends: _joined(ends, lambda x: f"{x / scale.size:+.3g}"), scale.label


def _joined(ends: Sequence[float | None], show: Callable[[float], str]) -> str:
    return " to ".join("not known" if end is None else show(end) for end in dict.fromkeys(ends))


def _contexts(row: Mapping[str, Any]) -> dict[str, Any]:
    more = f" of {row['contexts'] + row['incomplete']}" if row["incomplete"] else ""
    return {"contexts": f"{row['contexts']}{more}", "mark": row["verdict"] or ""}


def _exactly_nothing(row: Mapping[str, Any]) -> bool:
    return bool(row["interaction"] == row["low"] == row["high"] and row["p"] == 1.0)
