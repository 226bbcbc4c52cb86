"""Limits: `model_bytes <= 40 MB`, `accuracy >= 0.95 * baseline`, parsed once, used everywhere.

The study file's constraints, `select --where` and the samplers all read the same `Limit`. Its bound
is held in the metric's own unit; a limit against the baseline stays open until `resolve` is told
the baseline's figures.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Final, Literal, cast

from ..errors import StudyError, UnknownName, nearest

if TYPE_CHECKING:
    from pint import UnitRegistry
    from pint.facets.plain import PlainQuantity

Operator = Literal["<=", "<", ">=", ">"]

FORM: Final = (
    "write `METRIC <= NUMBER [UNIT]` or `METRIC >= [FACTOR *] baseline [- NUMBER [UNIT]]`, "
    "with one of <=, <, >=, >"
)
_LIMIT = re.compile(r"\s*(?P<metric>[\w.:-]+)\s*(?P<operator><=|>=|<|>)\s*(?P<bound>[^<>=]+?)\s*")
_NUMBER = r"[+-]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d+)?"
_QUANTITY = re.compile(rf"(?P<number>{_NUMBER})\s*(?P<unit>\D.*)?")
_RELATIVE = re.compile(
    rf"(?:(?P<factor>{_NUMBER})\s*\*\s*)?baseline(?:\s*(?P<sign>[+-])\s*(?P<offset>\S.*))?"
)


@dataclass(frozen=True)
class Limit:
    """One bound on one metric.

    Args:
        metric: its name in the catalogue.
        operator: how the figure must stand to the bound.
        bound: in the metric's unit; what is added to the baseline's share while the limit is open.
        factor: the baseline's figure enters the bound this many times; 0 once resolved.
        text: as it was written.
    """

    metric: str
    operator: Operator
    bound: float
    factor: float = 0.0
    text: str = ""

    @property
    def open(self) -> bool:
        """The bound leans on a baseline that is not known yet; an open limit refuses nothing."""
        return self.factor != 0.0

    @property
    def upper(self) -> bool:
        """It bounds from above."""
        return self.operator in ("<=", "<")

    def resolve(self, baseline: Mapping[str, float]) -> Limit:
        """The limit with the baseline's figure filled in; open as before where there is none.

        >>> Limit("accuracy", ">=", 0.0, factor=0.95).resolve({"accuracy": 0.8}).bound
        0.76
        """
        if not self.open or self.metric not in baseline:
            return self
        bound = self.bound + self.factor * baseline[self.metric]
        return replace(self, bound=bound, factor=0.0)

    def holds(self, value: float) -> bool:
        """The figure is within the bound; always, while the limit is open."""
        if self.open:
            return True
        if self.operator == "<=":
            return value <= self.bound
        if self.operator == "<":
            return value < self.bound
        if self.operator == ">=":
            return value >= self.bound
        return value > self.bound

    def satisfied(self, values: Mapping[str, float]) -> bool:
        """The figures keep the limit. A figure that is not there keeps no limit but an open one."""
        if self.open:
            return True
        return self.metric in values and self.holds(values[self.metric])

    def violation(self, values: Mapping[str, float]) -> float | None:
        """How far beyond the bound, as a share of it: above 0 exactly where `satisfied` is false.

        None where there is no figure; 0 where the limit is open. A share of 1 where the bound is 0.
        """
        if self.open:
            return 0.0
        if self.metric not in values:
            return None
        excess = (values[self.metric] - self.bound) / (abs(self.bound) or 1.0)
        excess = excess if self.upper else -excess
        # `<` at equality is a violation of no size: the smallest positive number says so.
        return excess if self.holds(values[self.metric]) else max(excess, math.ulp(0.0))


def parse_limit(text: str, units: Mapping[str, str]) -> Limit:
    """A limit from what a person wrote.

    Args:
        text: `model_bytes <= 40 MB`; a number without a unit is in the metric's own.
        units: the unit of every metric that may be named, as pint reads it.

    Raises:
        UnknownName: no such metric.
        StudyError: not of the form, a unit that does not fit, or a bound that nothing can keep.

    >>> parse_limit("model_bytes <= 40 MB", {"model_bytes": "byte"}).bound
    40000000.0
    """
    parts = _LIMIT.fullmatch(text)
    if parts is None:
        raise StudyError(f"cannot read the limit {text!r}; {FORM}")
    metric, bound = parts["metric"], parts["bound"]
    if metric not in units:
        raise UnknownName("metric", metric, units)
    operator = cast(Operator, parts["operator"])
    relative = _RELATIVE.fullmatch(bound)
    if relative is None and (meant := _meant(bound)) is not None:
        advice = f"did you mean {f'{metric} {operator} {meant}'!r}?" if meant else FORM
        raise StudyError(f"cannot read the limit {text!r}; {advice}")
    if relative is None:
        limit = Limit(metric, operator, _quantity(bound, units[metric], text), text=text)
        _refuse_impossible(limit, units[metric])
        return limit
    factor = _number(relative["factor"] or "1", text)
    if factor == 0.0:
        raise StudyError(f"0 * baseline in {text!r} bounds nothing; write the number itself")
    offset = _quantity(relative["offset"], units[metric], text) if relative["offset"] else 0.0
    offset = -offset if relative["sign"] == "-" else offset
    return Limit(metric, operator, offset, factor, text)


def refuse_contradictions(limits: Iterable[Limit]) -> None:
    """Passes when some figure could keep all limits.

    Raises:
        StudyError: two limits of one metric exclude each other. Open ones are not judged.
    """
    closed = [limit for limit in limits if not limit.open]
    for low in (limit for limit in closed if not limit.upper):
        for high in (limit for limit in closed if limit.upper and limit.metric == low.metric):
            strict = low.operator == ">" or high.operator == "<"
            if low.bound > high.bound or (low.bound == high.bound and strict):
                raise StudyError(
                    f"nothing keeps both {low.text!r} and {high.text!r}; drop or widen one of them"
                )


_PREFIXES: Final = {"": 1e0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_KNOWN: Final[dict[str, tuple[str, float]]] = {
    "fraction": ("", 1.0),
    "%": ("", 0.01),
    "dimensionless": ("", 1.0),
    "byte": ("byte", 1.0),
    **{f"{prefix}B": ("byte", size) for prefix, size in _PREFIXES.items()},
    **{f"{prefix}iB": ("byte", 1024.0 ** (i + 1)) for i, prefix in enumerate("KMGT")},
    **{unit: ("second", 1.0) for unit in ("second", "s")},
    "ms": ("second", 1e-3),
    "us": ("second", 1e-6),
    "µs": ("second", 1e-6),
    "joule": ("joule", 1.0),
    "J": ("joule", 1.0),
    "mJ": ("joule", 1e-3),
    "kJ": ("joule", 1e3),
    **{f"{prefix}FLOP": ("FLOP", size) for prefix, size in _PREFIXES.items()},
}
"""Units that limits are usually written in: what they measure, and how much of it. Pint takes a
third of a second to be imported; what is not listed here is asked of it."""


@cache
def unit_registry() -> UnitRegistry[float]:
    """Pint's units and ours: FLOP, token, item, money. 1 MB is 10^6 bytes, 1 MiB is 2^20."""
    from pint import UnitRegistry

    registry: UnitRegistry[float] = UnitRegistry()
    for line in (
        "FLOP = [computation] = _ = flop = FLOPs = flops",
        "fraction = 1",
        "token = [token]",
        "item = [item] = _ = text",
        "USD = [money_usd]",
        "EUR = [money_eur]",
    ):
        registry.define(line)
    return registry


def convert(number: float, unit: str, wanted: str) -> float:
    """A figure in another unit.

    Raises:
        ValueError: the units do not measure the same thing, or one is unknown.

    >>> convert(5, "ms", "second")
    0.005
    """
    if unit == wanted:
        return number
    factor = _factor(unit, wanted)
    # A factor below 1 as a division: 5 ms is 0.005 s to the last digit, not 5 * 0.001.
    inverse = round(1.0 / factor) if factor < 1.0 else 0
    if inverse and math.isclose(inverse * factor, 1.0, rel_tol=1e-12):
        return number / inverse
    return float(number * factor)


def _factor(unit: str, wanted: str) -> float:
    known = _KNOWN.get(unit), _KNOWN.get(wanted)
    if known[0] and known[1] and known[0][0] == known[1][0]:
        return known[0][1] / known[1][1]
    try:
        source, target = _in_root_units(unit), _in_root_units(wanted)
    except ValueError:
        raise ValueError(f"{unit!r} is no unit of {wanted!r}") from None
    # Root units, not dimensions: pint holds a byte for dimensionless, and 5 MB is no accuracy.
    if source.units != target.units:
        raise ValueError(f"{unit!r} is no unit of {wanted!r}")
    return float(source.magnitude / target.magnitude)


def _quantity(text: str, wanted: str, whole: str) -> float:
    parts = _QUANTITY.fullmatch(text.strip())
    if parts is None:
        raise StudyError(f"cannot read {text!r} in the limit {whole!r}; {FORM}")
    number = _number(parts["number"], whole)
    unit = (parts["unit"] or "").strip()
    if not unit:
        return number
    try:
        return convert(number, unit, wanted)
    except ValueError as error:
        raise StudyError(
            f"unit {unit!r} in {whole!r} does not fit: the metric is in {wanted}; "
            f"write a unit of the same kind, or the number alone for {wanted}"
        ) from error


def _meant(bound: str) -> str | None:
    """A bound against the baseline as it must be written; None where it names no baseline.

    Empty where it names one in a way that nobody can guess.

    >>> _meant("0.9 x baseline"), _meant("90 % of the basline"), _meant("40 MB")
    ('0.9 * baseline', '0.9 * baseline', None)
    """
    words = re.findall(r"[A-Za-z]+", bound)
    named = next((w for w in words if nearest(w.lower(), ["baseline"]) and len(w) > 5), None)
    if named is None:
        return None
    before, _, after = bound.partition(named)
    number = re.search(_NUMBER, before)
    behind = None if number else re.match(rf"\s*[*x\u00d7]\s*({_NUMBER})\s*", after)
    factor = number[0] if number else behind[1] if behind else "1"
    rest = after[behind.end() :] if behind else after
    if number and "%" in before:
        factor = f"{float(factor.replace('_', '')) / 100:g}"
    meant = " ".join(f"{factor} * baseline {rest}".split()).removeprefix("1 * ")
    return meant if _RELATIVE.fullmatch(meant) else ""


def _number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise StudyError(f"{text!r} in {whole!r} is no number; {FORM}") from error


def _refuse_impossible(limit: Limit, unit: str) -> None:
    highest = 1.0 if unit == "fraction" else math.inf
    lowest = 0.0 if unit == "fraction" or _has_dimension(unit) else -math.inf
    beyond = limit.bound < lowest if limit.upper else limit.bound > highest
    edge = limit.bound == (lowest if limit.upper else highest) and limit.operator in ("<", ">")
    if beyond or edge:
        raise StudyError(
            f"nothing can keep {limit.text!r}: {limit.metric} ({unit}) lies between "
            f"{lowest:g} and {highest:g}"
        )


def _has_dimension(unit: str) -> bool:
    """Amounts of something physical are never negative; scores without a dimension may be."""
    if unit in _KNOWN:
        return _KNOWN[unit][0] != ""
    try:
        return str(_in_root_units(unit).units) != "dimensionless"
    except ValueError:
        return False


def _in_root_units(unit: str) -> PlainQuantity[float]:
    from pint import PintError

    registry = unit_registry()
    try:
        # `%` is an operator in pint's grammar.
        return registry.Quantity(1.0, unit.replace("%", "percent")).to_root_units()
    except (PintError, AttributeError, TypeError, AssertionError) as error:
        raise ValueError(f"{unit!r} is no unit") from error
