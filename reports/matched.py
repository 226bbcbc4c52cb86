"""Matched comparisons: what changes where all else is equal, and how sure that is.

A context is everything else that a configuration holds; a slot left alone counts as a value. What
is compared is a choice with its settings: feed-forward layers cut to a half and to three quarters
are two choices, because only equal settings can be matched. A slot is left alone where it holds
what the baseline holds there. Quality is compared by differences; every other figure by ratios,
whose logarithms add up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, TypeVar

import numpy as np

from ..errors import UnknownName
from ..evaluators.catalogue import metrics
from ..evaluators.measurement import Measurement
from ..evaluators.metric import Predictions
from ..evaluators.quality.paired import contrast_stderr, refuse_unpaired
from ..search.against import answers
from ..search.front import all_trials, sign, stored_metrics
from ..search.pareto import Array
from ..search.records import Record
from ..search.run import Run
from ..spaces.configuration import SLOTS, Choice, Configuration
from ..spaces.lower import plain

_T = TypeVar("_T")

Part = tuple[str, Choice | None]
"""A slot and what it holds, None where it is left as it is."""

NOTHING: Final = 1e-9
"""Share of the figures below which a difference of theirs is rounding."""


@dataclass(frozen=True)
class Estimate:
    """A mean over matched contexts with its 95 % interval.

    Args:
        value: a difference in the metric's unit, or the logarithm of a ratio.
        low, high: the interval's ends; None where no error is known.
        p: two-sided probability of at least this value where there is nothing; None like them.
    """

    value: float
    low: float | None
    high: float | None
    p: float | None


@dataclass(frozen=True)
class Match:
    """Trials that differ in some parts alone.

    Args:
        parts: what is compared, in slot order.
        contexts: in each the trials with all parts, then with every smaller set of them (see
            `Matched.signs`), all with a figure.
        incomplete: contexts that were tried and of which a figure is absent, is 0 or less where
            ratios are taken, or was modelled where others were measured.
    """

    parts: tuple[Part, ...]
    contexts: tuple[tuple[Record, ...], ...]
    incomplete: int


class Matched:
    """The trials of a run as one metric compares them.

    Args:
        run: as read.
        metric: a stored one.

    Raises:
        UnknownName: a metric that this run did not store.
    """

    def __init__(self, run: Run, metric: str) -> None:
        stored = stored_metrics(run)
        if metric not in stored:
            raise UnknownName("metric of this run", metric, stored)
        self.run, self.metric = run, metric
        self.left_alone = run.baseline.configuration if run.baseline else Configuration()
        self._row = metrics().get(metric)
        self._trials: dict[Configuration, Record] = {}
        for record in all_trials(run):  # a search may try the baseline's configuration again
            known = self._trials.get(record.configuration)
            if known is None or known.state != "final":
                self._trials[record.configuration] = record
        self._items: dict[str, Array] = {}
        self._first: Predictions | None = None

    @property
    def ratios(self) -> bool:
        """Figures are compared by ratios."""
        told = self.run.metrics[self.metric].get("resource")
        resource = told or (self._row.resource if self._row else None)
        return resource != "quality"

    @property
    def more_is_better(self) -> bool:
        """Which way is better."""
        return sign(self.run, self.metric) < 0

    def effect(self, records: Sequence[Record], signs: Sequence[int]) -> float:
        """The effect in one context."""
        return float(self._effects([records], signs)[0])

    def matches(self, size: int) -> list[Match]:
        """All sets of so many parts that were tried together, apart and not at all, all else equal.

        Contexts that rest on the very same readings are one: siblings share timings and trainings.
        """
        complete: dict[tuple[Part, ...], dict[tuple[str, ...], tuple[Record, ...]]] = {}
        incomplete: dict[tuple[Part, ...], int] = {}
        for parts, cells in self._matched(size):
            rows = complete.setdefault(parts, {})
            incomplete.setdefault(parts, 0)
            if self.usable(cells):
                rows.setdefault(tuple(self._reading(cell) for cell in cells), cells)
            else:
                incomplete[parts] += 1
        found = [Match(p, tuple(rows.values()), incomplete[p]) for p, rows in complete.items()]
        return sorted(found, key=lambda match: [_order(part) for part in match.parts])

    @staticmethod
    def signs(size: int) -> tuple[int, ...]:
        """How the trials of a context enter an effect: of one part `(1, -1)`; of two, with both,
        with the first, with the second, with neither, `(1, -1, -1, 1)`.
        """
        return tuple((-1) ** len(gone) for gone in _subsets(range(size)))

    def usable(self, records: Sequence[Record]) -> bool:
        """Whether all have a figure at full fidelity, and figures of one kind."""
        figures = [record.measurements.get(self.metric) for record in records]
        values = [figure.value for figure in figures if figure and figure.value is not None]
        if len(values) < len(records) or any(record.state != "final" for record in records):
            return False
        sources = {figure.source for figure in figures if figure}
        mixed = {"measured", "modelled"} <= sources
        return not mixed and not (self.ratios and min(values) <= 0)

    def values(self, contexts: Sequence[Sequence[Record]]) -> Array:
        """`(contexts, trials)` figures, or their logarithms where ratios are taken."""
        rows = [[record.value(self.metric) for record in records] for records in contexts]
        figures = np.array(rows, dtype=np.float64)
        return np.log(figures) if self.ratios else figures

    def estimate(self, contexts: Sequence[Sequence[Record]], signs: Sequence[int]) -> Estimate:
        """The mean effect over contexts.

        The interval is Student's t over contexts, and over items where all answers are stored: the
        wider of the two, for the contexts share their items. One context without stored answers has
        the error of its figures.

        Args:
            contexts: usable, at least one. signs: of each context's trials, as in `signs`.
        """
        from scipy.stats import t

        effects = self._effects(contexts, signs)
        value = float(effects.mean())
        errors = self._errors(contexts, signs, effects)
        if not errors:
            return Estimate(value, None, None, None)
        reach, stderr, freedom = max((float(t.ppf(0.975, df)) * se, se, df) for se, df in errors)
        # no spread: t is infinite, or 0 / 0 where there is no effect either
        ratio = abs(value) / stderr if stderr else math.inf if value else 0.0
        p = 2 * float(t.sf(ratio, freedom))
        return Estimate(value, value - reach, value + reach, p)

    def stderr(self, contexts: Sequence[Sequence[Record]], signs: Sequence[int]) -> float | None:
        """The largest of the standard errors that `estimate` looks at; None where none is known."""
        errors = self._errors(contexts, signs, self._effects(contexts, signs))
        return max((stderr for stderr, _ in errors), default=None)

    def without(self, configuration: Configuration, slots: Sequence[str]) -> Configuration:
        """The same with some slots left alone."""
        return plain(configuration.replace(**{slot: self.left_alone.get(slot) for slot in slots}))

    @property
    def trials(self) -> Sequence[Record]:
        """All of them, the baseline first."""
        return tuple(self._trials.values())

    def trial(self, configuration: Configuration) -> Record | None:
        """The trial of a configuration, whatever came of it."""
        return self._trials.get(configuration)

    def _matched(self, size: int) -> Iterator[tuple[tuple[Part, ...], tuple[Record, ...]]]:
        for configuration, record in self._trials.items():
            parts = [
                (slot, configuration.get(slot))
                for slot in SLOTS
                if configuration.get(slot) != self.left_alone.get(slot)
            ]
            for chosen in combinations(parts, size):
                smaller = [
                    self.trial(self.without(configuration, [slot for slot, _ in gone]))
                    for gone in _subsets(chosen)
                    if gone
                ]
                there = [trial for trial in smaller if trial is not None]
                if len(there) == len(smaller):
                    yield chosen, (record, *there)

    def _effects(self, contexts: Sequence[Sequence[Record]], signs: Sequence[int]) -> Array:
        """`(contexts,)`: signed sums, 0 where they are rounding."""
        values = self.values(contexts)
        effects: Array = values @ np.array(signs, dtype=np.float64)
        scale = 1.0 if self.ratios else np.abs(values).max(axis=1)
        return np.where(np.abs(effects) < NOTHING * scale, 0.0, effects)

    def _errors(
        self, contexts: Sequence[Sequence[Record]], signs: Sequence[int], effects: Array
    ) -> list[tuple[float, float]]:
        """Standard errors of the mean effect, each with its degrees of freedom."""
        n, errors = len(effects), list[tuple[float, float]]()
        if n > 1:
            errors.append((float(effects.std(ddof=1)) / math.sqrt(n), n - 1.0))
        items = self._item_error(contexts, signs)
        if items is not None:
            errors.append(items)
        if not errors:
            own = self._own_error(contexts[0], signs)
            errors += [] if own is None else [(own, math.inf)]
        return errors

    def _item_error(
        self, contexts: Sequence[Sequence[Record]], signs: Sequence[int]
    ) -> tuple[float, float] | None:
        rows = [[self._item_values(record) for record in records] for records in contexts]
        known = [[row for row in values if row is not None] for values in rows]
        if self.ratios or any(len(row) < len(signs) for row in known):
            return None
        values = np.array(known)
        contrast = np.tensordot(values.mean(axis=0), np.array(signs, dtype=np.float64), (0, 0))
        right_or_wrong = bool(np.isin(values, (0.0, 1.0)).all())
        return contrast_stderr(contrast, right_or_wrong=right_or_wrong), len(contrast) - 1.0

    def _item_values(self, record: Record) -> Array | None:
        """`(n,)` values by item; None where they are not stored, or the metric has none."""
        file = record.files.get("predictions", "")
        if self._row is None or self._row.per_item is None or not file:
            return None
        if file not in self._items:
            given = answers(self.run, record)
            if given is None:
                return None
            self._first = self._first or given
            refuse_unpaired(given, self._first)
            self._items[file] = self._row.per_item(given)
        return self._items[file]

    def _own_error(self, records: Sequence[Record], signs: Sequence[int]) -> float | None:
        """Of figures taken as independent but for those that are one reading; None if unknown."""
        weights: dict[str, float] = {}
        stderrs: dict[str, float] = {}
        for record, weight in zip(records, signs, strict=True):
            figure, read = record.measurements[self.metric], self._reading(record)
            stderr = self._stderr(figure)
            if stderr is None:
                return None
            weights[read] = weights.get(read, 0.0) + weight
            stderrs[read] = stderr
        return math.hypot(*(weights[read] * stderrs[read] for read in weights))

    def _reading(self, record: Record) -> str:
        """What a figure was read from.

        Times and what is made of them have too many digits to be equal by chance: equal ones are
        one reading, which siblings share.
        """
        figure = record.measurements[self.metric]
        once = self.ratios and figure.source != "exact"
        return f"{figure.value!r}" if once else f"trial {record.number}"

    def _stderr(self, figure: Measurement) -> float | None:
        if figure.source == "exact":
            return 0.0
        if figure.stderr is None or figure.value is None:
            return None
        return figure.stderr / figure.value if self.ratios else figure.stderr


def labels(parts: Sequence[Part]) -> dict[Part, str]:
    """Each part by its slot, method and those settings that differ between parts of that method.

    >>> half, most = (("structure", Choice.of("ffn", keep=k, slope=0.0)) for k in (0.5, 0.75))
    >>> list(labels([half, most, ("finetuning", None)]).values())
    ['structure.ffn keep 0.5', 'structure.ffn keep 0.75', 'finetuning as it is']
    """
    seen: dict[tuple[str, str], dict[str, set[object]]] = {}
    for slot, choice in parts:
        if choice is not None:
            knobs = seen.setdefault((slot, choice.method), {})
            for name, value in choice.settings:
                knobs.setdefault(name, set()).add(value)
    return {part: _label(part, seen) for part in parts}


def _label(part: Part, seen: dict[tuple[str, str], dict[str, set[object]]]) -> str:
    slot, choice = part
    if choice is None:
        return f"{slot} as it is"
    knobs = seen[slot, choice.method]
    told = [
        f"{name.replace('_', ' ')} {value:.3g}"
        if isinstance(value, float)
        else f"{name.replace('_', ' ')} {value}"
        for name, value in choice.settings
        if len(knobs[name]) > 1
    ]
    return " ".join([f"{slot}.{choice.method}", ", ".join(told)]).strip()


def _subsets(things: Sequence[_T]) -> Iterator[tuple[_T, ...]]:
    """What is taken away: nothing, each (the last first), ..., everything."""
    for size in range(len(things) + 1):
        yield from reversed(list(combinations(things, size)))


def _order(part: Part) -> tuple[int, str]:
    slot, choice = part
    return SLOTS.index(slot), str(choice)
