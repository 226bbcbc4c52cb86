"""Figures as people read them: bytes as MB, seconds as ms, a fraction as %."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

SI: Final = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))
"""Prefixes, largest first."""

LADDERS: Final[dict[str, tuple[tuple[float, str], ...]]] = {
    "byte": tuple((size, f"{prefix}B") for size, prefix in SI[:5]),
    "second": ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "hour": ((1.0, "h"), (1 / 60, "min"), (1 / 3600, "s")),
    "joule": tuple((size, f"{prefix}J") for size, prefix in SI[1:]),
    "kWh": ((1000.0, "MWh"), (1.0, "kWh"), (1e-3, "Wh"), (1e-6, "mWh")),
    "kg": ((1000.0, "t"), (1.0, "kg"), (1e-3, "g"), (1e-6, "mg")),
    "gram": ((1e3, "kg"), (1.0, "g"), (1e-3, "mg")),
    "FLOP": tuple((size, f"{prefix}FLOP") for size, prefix in SI[:5]),
    "count": ((1e9, "billion"), (1e6, "million"), (1e3, "thousand"), (1.0, "")),
    "fraction": ((0.01, "%"),),
    "1/second": ((1.0, "/s"),),
    "bit/byte": ((1.0, "bits/byte"),),
    "dimensionless": ((1.0, ""),),
}
"""Unit to the steps that it is shown in: how many of the unit one step holds, and its name."""


@dataclass(frozen=True)
class Scale:
    """How one metric is shown: `value / size`, followed by `label`."""

    size: float
    label: str

    def show(self, value: float, digits: int = 3) -> str:
        """A value with its unit, to so many significant digits.

        >>> Scale(1e6, "MB").show(22_713_216)
        '22.7 MB'
        """
        return f"{significant(value / self.size, digits)}{self.tail}"

    @property
    def tail(self) -> str:
        """What stands behind the number."""
        return f" {self.label}" if self.label else ""


def scale_of(values: Iterable[float], unit: str) -> Scale:
    """The scale that shows the middle of some values with one to three digits before the point.

    Args:
        values: in the unit; empty or all 0 gives the unit itself.
        unit: as the metric's row says; an unknown one is shown as it is.

    >>> scale_of([0.0042, 0.0171], "second")
    Scale(size=0.001, label='ms')
    """
    ladder = LADDERS.get(unit, ((1.0, unit),))
    sizes = sorted(abs(value) for value in values if value)
    if not sizes:
        return Scale(*next((step for step in ladder if step[0] == 1.0), ladder[-1]))
    middle = sizes[len(sizes) // 2]
    return Scale(*next((step for step in ladder if middle >= step[0]), ladder[-1]))


def readable(value: float | None, unit: str, digits: int = 3) -> str:
    """One value with the unit that suits it; a dash where there is none.

    >>> readable(0.0171, "second"), readable(0.8315, "fraction"), readable(None, "byte")
    ('17.1 ms', '83.2 %', '-')
    """
    return "-" if value is None else scale_of([value], unit).show(value, digits)


def with_spread(value: float, half: float | None, scale: Scale) -> str:
    """A value and half the width of its interval, to the same decimals, with the unit.

    Args:
        half: in the value's unit; None or 0 for exact figures.

    >>> with_spread(0.00406, 0.000088, Scale(1e-3, "ms"))
    '4.06 ± 0.09 ms'
    """
    number = significant(value / scale.size)
    if not half:
        return number + scale.tail
    decimals = len(number.partition(".")[2])
    spread = f"{half / scale.size:,.{decimals}f}"
    if not float(spread.replace(",", "")):
        spread = significant(half / scale.size, 1)
    return f"{number} ± {spread}{scale.tail}"


def significant(number: float, digits: int = 3) -> str:
    """A number to so many significant digits, without exponent between 10^-4 and 10^6.

    >>> significant(1234.5), significant(0.012345), significant(54.25), significant(2e9)
    ('1,235', '0.0123', '54.3', '2e+09')
    """
    size = abs(number)
    if size and not 1e-4 <= size < 1e6:
        return f"{number:.{digits}g}"
    if not size:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(size)))
    # half away from 0, as a person and the page's script round; Python rounds half to even
    return f"{Decimal(number).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP):,}"
