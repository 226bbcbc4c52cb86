"""From candidates to standardised numbers: what the surrogate sees.

Knobs are numbered by what a fixed sample of the space shows: numbers as they are (logarithms where
they span a decade), names one-hot, inactive knobs in the middle. Numbers that repeat over layers
become their total and their variance: how much, how evenly; and themselves, with one length scale
for all: what a single layer adds is learnt once the totals are known.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...spaces.configuration import Configuration
from ...spaces.paper_features import variance
from .pool import Draw, stem
from .surrogate import Lengths

Array = NDArray[np.float64]

FAMILY = 4
"""So many knobs with one stem are layers, not knobs."""


def flat(drawn: Draw) -> dict[str, Any]:
    """The knobs of a draw; its parameters, where it is no configuration of ours."""
    return dict(drawn.params) if drawn.configuration is None else knobs(drawn.configuration)


def knobs(configuration: Configuration) -> dict[str, Any]:
    """The knobs of a configuration, by `slot` and `slot.method.knob`."""
    values: dict[str, Any] = {}
    for slot, choice in configuration:
        values[slot] = choice.method
        values.update({f"{slot}.{choice.method}.{name}": v for name, v in choice.settings})
    return values


@dataclass(frozen=True)
class Knobs:
    """Numbers for knobs.

    Args:
        numbers: single knobs with numbers: whether to take the logarithm, and the middle.
        names: single knobs with names: the names seen.
        families: stems of the knobs that repeat over layers, with their members in order.
    """

    numbers: Mapping[str, tuple[bool, float]]
    names: Mapping[str, tuple[str, ...]]
    families: Mapping[str, tuple[str, ...]]

    @staticmethod
    def of(sample: Sequence[Mapping[str, Any]], family: float = FAMILY) -> Knobs:
        """The encoding of a space from a sample of it.

        Args:
            family: so many knobs with one stem are layers; infinite: every knob is one by itself.
        """
        seen: dict[str, set[Any]] = defaultdict(set)
        for row in sample:
            for name, value in row.items():
                seen[name].add(value if _number(value) else str(value))
        numeric = {name: values for name, values in seen.items() if all(map(_number, values))}
        stems: dict[str, list[str]] = defaultdict(list)
        for name in numeric:
            stems[stem(name)].append(name)
        families = {s: tuple(sorted(m, key=_order)) for s, m in stems.items() if len(m) >= family}
        single = {n: v for n, v in numeric.items() if stem(n) not in families}
        named = {
            name: tuple(sorted(map(str, values)))
            for name, values in sorted(seen.items())
            if name not in numeric
        }
        return Knobs({n: _scale(v) for n, v in sorted(single.items())}, named, families)

    def encode(self, values: Mapping[str, Any]) -> list[float]:
        """The numbers of one configuration, in a fixed order."""
        row: list[float] = []
        for name, (log, middle) in self.numbers.items():
            value = values.get(name)
            if value is None or not _number(value) or (log and value <= 0):
                row.append(middle)
            else:
                row.append(math.log(value) if log else float(value))
        for name, known in self.names.items():
            row += [float(str(values.get(name)) == option) for option in known]
        for members in self.families.values():
            there = {m: float(values[m]) for m in members if _number(values.get(m))}
            row += _totals(list(there.values()))
            middle = sum(there.values()) / len(there) if there else 0.0
            row += [there.get(m, middle) for m in members]
        return row

    def lengths(self) -> Lengths:
        """The length scales of the numbers of `encode`."""
        alone = len(self.numbers) + sum(len(known) for known in self.names.values())
        found = Lengths.each(alone, bent=True)
        for members in self.families.values():
            found = found + Lengths.each(_TOTALS) + Lengths.one(len(members))
        return found


@dataclass(frozen=True)
class Scaling:
    """Columns kept and their scale, fixed for a study by a sample of its space.

    Args:
        keep: `(k,)` columns that vary and do not repeat another.
        centre, spread: `(k,)`.
        lengths: of the columns kept.
    """

    keep: NDArray[np.intp]
    centre: Array
    spread: Array
    lengths: Lengths

    @staticmethod
    def of(sample: Array, lengths: Lengths) -> Scaling:
        """The scaling that a sample `(n, d)` asks for; its columns have these lengths."""
        spread = sample.std(axis=0)
        varied = np.flatnonzero(spread > 1e-9 * (1.0 + np.abs(sample).max(axis=0)))
        scaled = (sample[:, varied] - sample[:, varied].mean(axis=0)) / spread[varied]
        alike = np.abs(np.triu(scaled.T @ scaled / len(sample), 1)).max(axis=0, initial=0.0)
        # Bytes follow parameters where formats are fixed: a twin only blurs the length scales.
        keep = varied[alike < 0.9999]
        centre = sample[:, keep].mean(axis=0)
        return Scaling(keep, centre, spread[keep], lengths.kept(keep))

    def __call__(self, rows: Array) -> Array:
        """`(n, d)` to `(n, k)`; cut at four spreads, so that nothing lies infinitely far."""
        return np.asarray(np.clip((rows[:, self.keep] - self.centre) / self.spread, -4.0, 4.0))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _order(name: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", name))


def _scale(values: set[Any]) -> tuple[bool, float]:
    low, high = min(values), max(values)
    log = low > 0 and high >= 10 * low
    middle = (math.log(low) + math.log(high)) / 2 if log else (low + high) / 2
    return log, float(middle)


_TOTALS: Final = 2
"""Numbers that `_totals` makes of a family."""


def _totals(values: list[float]) -> list[float]:
    return [sum(values), variance(values)]
