"""A run in words: metrics, figures, and one trial against another in a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from ..evaluators.measurement import Measurement
from ..search.against import (
    Z95,
    Gap,
    confirmed_gaps,
    gaps,
    own_repeat,
    quality,
    repeats,
    taken_again,
)
from ..search.pooled import seed_range, seeds_of
from ..search.records import Record
from ..search.run import Run
from ..search.units import readable, scale_of, significant, with_spread

TITLES: Final = {
    "macro_f1": "macro F1",
    "flops": "FLOPs",
    "flops_per_token": "FLOPs per token",
    "training_flops": "training FLOPs",
    "latency_p50": "median latency",
    "latency_p95": "95th-percentile latency",
    "ttft_p50": "time to first token",
    "tpot_p50": "time per token",
    "model_bytes": "size on disk",
    "payload_bytes": "size of weights",
    "peak_gpu_memory": "peak GPU memory",
    "training_payload_bytes": "training payload",
}
"""Metrics whose names are not plain words already."""

BILL: Final = {
    "hours": "wall time",
    "worker_hours": "work of all workers",
    "kwh": "energy",
    "kg_co2e": "CO2e",
    "money": "money",
}
"""Parts of the bill, and what they are called."""

PEAKS: Final = ("peak_memory", "peak_gpu_memory")
"""Metrics that are taken when a front is confirmed, and never before."""

MANIFOLD: Final = 2.0
"""A ratio from here on is told as "2.4 times", a smaller one in per cent."""

TIMES: Final = "\u00d7"
MINUS: Final = "\u2212"


def title(metric: str) -> str:
    """A metric's name as words.

    >>> title("latency_p50"), title("peak_memory")
    ('median latency', 'peak memory')
    """
    return TITLES.get(metric, metric.replace("_", " "))


def figure_in_words(figure: Measurement) -> str:
    """A figure with its unit and 95 % interval; the reason where there is none.

    A mean over seeds says of how many, and between which figures they lie.

    >>> figure_in_words(Measurement(0.812, "fraction", "measured", stderr=0.0097))
    '81.2 ± 1.9 %'
    """
    if figure.value is None:
        return f"not known: {figure.reason}"
    half = Z95 * figure.stderr if figure.stderr else None
    told = with_spread(figure.value, half, scale_of([figure.value], figure.unit))
    return told + seeds_in_words(figure)


def seeds_in_words(figure: Measurement) -> str:
    """Between which figures those of several seeds lie, to follow their mean; empty for one seed.

    >>> told = (("highest", 0.72), ("lowest", 0.7), ("seeds", 3))
    >>> seeds_in_words(Measurement(0.71, "fraction", "measured", conditions=told))
    ', 70.0 to 72.0 % over 3 seeds'
    """
    edges = seed_range(figure)
    if edges is None:
        return ""
    return f", {range_in_words(*edges, figure.unit)} over {seeds_of(figure)} seeds"


def difference(run: Run, gap: Gap) -> str:
    """The signed difference with its 95 % interval, in points or per cent of the other figure."""
    unit = run.metrics[gap.metric]["unit"]
    if unit == "fraction":
        size, name = 0.01, "points"
    elif gap.theirs:
        size, name = abs(gap.theirs) / 100, "%"
    else:
        return f"from 0 to {readable(gap.mine, unit)}"
    middle = (gap.mine - gap.theirs) / size
    spread = f" ± {significant(gap.half / size, 2)}" if gap.half else ""
    return f"{signed(middle)}{spread} {name}"


def headline(run: Run, record: Record) -> str:
    """A trial against the baseline in a sentence; a second one says plainly where it is worse."""
    baseline = run.baseline
    if baseline is None or baseline.state != "final":
        figures = [(title(r.name), record.value(r.name), r.unit) for r in run.objectives]
        return _sentence(listed([f"{name} {readable(v, unit)}" for name, v, unit in figures]))
    if record.number == baseline.number:
        return "Nothing that was tried is a better choice than the baseline."
    tested = confirmed_gaps(run, record.number)
    # what was seen on the test split stands in place of what the search itself was led by
    found = [tested[g.metric][0] if g.metric in tested else g for g in gaps(run, record, baseline)]
    better = [_noun(run, gap) for gap in found if gap.verdict == "better"]
    worse = [_noun(run, gap) for gap in found if gap.verdict == "worse"]
    even = [_even(run, gap) for gap in found if gap.verdict == "same"]
    tail = f"; {listed(even)}" if even else ""
    lost = [title(gap.metric) for gap in found if gap.verdict == "worse"]
    plainly = f" It is worse than the baseline in {listed(lost)}." if lost else ""
    if not better:
        return _sentence(f"against the baseline: {listed([*worse, *even])}") + plainly
    gain = f"{listed(better)} than the baseline"
    if not worse:
        return _sentence(f"{gain}{tail or ', at no cost'}")
    points = all(" points of " in words for words in worse)
    price = listed(worse)
    bought = f"{price} buy {gain}{tail}" if points else f"for {price}: {gain}{tail}"
    return _sentence(bought) + plainly


def confirmed_quality(run: Run, number: int) -> dict[str, Measurement]:
    """Quality on the test split by metric, of the very model that the search judged.

    That is the confirmation under the trial's own seed: what is exported, and compared with the
    baseline. Empty where there is none.
    """
    repeat = own_repeat(run, number)
    names = [row.name for row in quality(run)] if repeat else []
    return {n: repeat.measurements[n] for n in names if repeat and repeat.value(n) is not None}


def confirmed_figures(run: Run, number: int) -> dict[str, Measurement]:
    """All that confirmation took: `confirmed_quality`, objectives measured again, peak memory."""
    repeat = own_repeat(run, number)
    if repeat is None:
        return {}
    names = [*taken_again(run, repeat), *PEAKS]
    again = [name for name in names if repeat.value(name) is not None]
    return {**confirmed_quality(run, number), **{n: repeat.measurements[n] for n in again}}


def over_seeds(run: Run, number: int) -> dict[str, tuple[float, float]]:
    """Lowest and highest quality on the test split by metric, where a trial has several seeds."""
    values = {
        name: [figure.value for figure in found.values() if figure.value is not None]
        for name, found in _by_seed(run, number).items()
    }
    return {name: (min(known), max(known)) for name, known in values.items() if len(known) > 1}


def range_in_words(low: float, high: float, unit: str) -> str:
    """Two figures of one metric as a range.

    >>> range_in_words(0.701, 0.7132, "fraction")
    '70.1 to 71.3 %'
    """
    scale = scale_of([low, high], unit)
    return f"{significant(low / scale.size)} to {significant(high / scale.size)}{scale.tail}"


def confirmed_in_words(run: Run, number: int) -> dict[str, str]:
    """What confirmation said of a trial, by metric; empty where it was not confirmed.

    Quality is of the test split, compared with the baseline item by item under a seed that both
    were made with; further seeds are told as the range of their figures. Speed was measured again,
    memory for the first time.
    """
    tested, ranges, found = confirmed_gaps(run, number), over_seeds(run, number), {}
    judged = confirmed_quality(run, number)
    for name, figure in confirmed_figures(run, number).items():
        words = f"{title(name)} {figure_in_words(figure)}"
        gap, by_item = tested.get(name, (None, None))
        words += " on the test split" if name in judged else ""
        if gap is not None:
            words += f", {difference(run, gap)} against the baseline"
            words += f" on {by_item.n:,} items" if by_item else ""
            words += ", within its error" if gap.verdict == "same" else ""
        if name in ranges:
            edges = range_in_words(*ranges[name], run.metrics[name]["unit"])
            words += f", {edges} over {len(repeats(run, number))} seeds"
        found[name] = words
    return found


def listed(parts: Sequence[str]) -> str:
    """Parts as a person lists them.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _by_seed(run: Run, number: int) -> dict[str, dict[int, Measurement]]:
    """Figures of quality on the test split, by metric and seed; metrics without any left out."""
    made = repeats(run, number)
    found = {
        row.name: {r.seed: r.measurements[row.name] for r in made if r.value(row.name) is not None}
        for row in quality(run)
    }
    return {name: seeds for name, seeds in found.items() if seeds}


def _noun(run: Run, gap: Gap) -> str:
    row, more, name = run.metrics[gap.metric], gap.mine > gap.theirs, title(gap.metric)
    if row["unit"] == "fraction":
        spent = gap.verdict == "worse" and row["direction"] == "maximize"
        amount = f"{significant(abs(gap.mine - gap.theirs) * 100, 2)} points"
        tested = f" ({_edges(gap)} on the test split)" if gap.confirmed else ""
        return f"{amount} {'of' if spent else 'more' if more else 'less'} {name}{tested}"
    word = (("smaller", "larger") if row["unit"] == "byte" else ("lower", "higher"))[more]
    if gap.theirs <= 0 or gap.mine <= 0:
        return f"{readable(abs(gap.mine - gap.theirs), row['unit'], 2)} {word} {name}"
    ratio = max(gap.mine, gap.theirs) / min(gap.mine, gap.theirs)
    if ratio >= MANIFOLD:
        return f"{significant(ratio, 2)} {TIMES} {word} {name}"
    return f"{significant(100 * abs(gap.mine / gap.theirs - 1), 2)} % {word} {name}"


def _even(run: Run, gap: Gap) -> str:
    if gap.mine == gap.theirs:
        return f"{title(gap.metric)} is the same"
    where = " on the test split" if gap.confirmed else ""
    return f"{title(gap.metric)} differs by {difference(run, gap)}{where}, within its error"


def _edges(gap: Gap) -> str:
    """The 95 % interval of a difference of fractions, as amounts of points."""
    edges = sorted(100 * abs(edge) for edge in (gap.low or 0.0, gap.high or 0.0))
    return f"{edges[0]:.1f} to {edges[1]:.1f}"


def signed(number: float) -> str:
    """A difference in points or per cent: one decimal below ten, none from there on.

    >>> signed(2.25), signed(-12.0)
    ('+2.3', '\u221212')
    """
    # half away from 0, as a person rounds, not half to even
    digits = 0 if abs(number) >= 10 else 1
    rounded = math.copysign(math.floor(abs(number) * 10**digits + 0.5) / 10**digits, number)
    return f"{rounded:+.{digits}f}".replace("-", MINUS)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
