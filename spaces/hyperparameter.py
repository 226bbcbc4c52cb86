"""Hyper-parameters of a technique: what a knob may be turned to.

Plain data without a library: `space.py` turns them into ConfigSpace objects, the search into
Optuna distributions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .configuration import Scalar


@dataclass(frozen=True)
class Integer:
    """A whole number in `[low, high]`; `log` draws evenly on a logarithmic scale.

    `still`, of any kind of knob: it stays at its default unless a study names it.
    """

    name: str
    low: int
    high: int
    default: int
    log: bool = False
    still: bool = False


@dataclass(frozen=True)
class Real:
    """A real number in `[low, high]`; `log` draws evenly on a logarithmic scale."""

    name: str
    low: float
    high: float
    default: float
    log: bool = False
    still: bool = False


@dataclass(frozen=True)
class OneOf:
    """One of a few values.

    `ordered`: the order means something (neighbours are closer). `same`: values that may be written
    too, each with the one of `values` that means the same for the given model.
    """

    name: str
    values: tuple[Scalar, ...]
    default: Scalar
    ordered: bool = False
    still: bool = False
    same: tuple[tuple[Scalar, Scalar], ...] = field(default=(), repr=False)


Hyperparameter = Integer | Real | OneOf


def narrow(knob: Hyperparameter, wanted: object) -> Hyperparameter:
    """A knob narrowed to what a study file asks for.

    Args:
        knob: as its technique declares it.
        wanted: one value (the knob is fixed), `[low, high]` for a number, a list for a `OneOf`,
            or `{"values": [...]}` for exactly these values of any knob.

    Raises:
        ValueError: outside what the knob allows; the message says what is allowed.

    >>> narrow(Integer("rank", 1, 64, 8, log=True), [2, 16])
    Integer(name='rank', low=2, high=16, default=8, log=True, still=False)
    >>> narrow(Integer("rank", 1, 64, 8), 4)
    OneOf(name='rank', values=(4,), default=4, ordered=True, still=False)
    """
    if isinstance(wanted, dict):
        if set(wanted) != {"values"} or not wanted["values"]:
            raise ValueError(f"{knob.name}: write {{values: [...]}}, not {wanted!r}")
        return _pick(knob, wanted["values"])
    if not isinstance(wanted, list | tuple):
        return _pick(knob, [wanted])
    if isinstance(knob, OneOf):
        return _pick(knob, wanted)
    if len(wanted) != 2:
        raise ValueError(f"{knob.name}: a range is [low, high], not {list(wanted)}")
    low, high = (_checked(knob, value) for value in wanted)
    if low > high:
        raise ValueError(f"{knob.name}: the range [{low}, {high}] is upside down")
    default = min(max(knob.default, low), high)
    return replace(knob, low=low, high=high, default=default, still=False)


def unnamed(knob: Hyperparameter) -> Hyperparameter:
    """A knob that a study does not name: as it is declared, or fixed where it is `still`.

    >>> unnamed(Integer("random", 1, 4, 2, still=True)).values
    (2,)
    """
    if not knob.still:
        return knob
    return OneOf(knob.name, (knob.default,), knob.default, ordered=True)


def settle(knob: Hyperparameter, value: object) -> Scalar:
    """A value of a knob, written the one way in which the knob offers it.

    Raises:
        ValueError: outside what the knob allows; the message says what is allowed.

    >>> settle(OneOf("depth", (0.5, 0.875), 0.875, same=((0.75, 0.875),)), 0.75)
    0.875
    """
    settled: Scalar = _checked(knob, value)
    return settled


def allowed(knob: Hyperparameter) -> str:
    """What a knob may be, in words.

    >>> allowed(Integer("rank", 1, 64, 8))
    'a whole number from 1 to 64'
    """
    if isinstance(knob, OneOf):
        return "one of " + ", ".join(str(value) for value in knob.values)
    kind = "a whole number" if isinstance(knob, Integer) else "a number"
    return f"{kind} from {knob.low:g} to {knob.high:g}"


def _pick(knob: Hyperparameter, values: Sequence[object]) -> OneOf:
    picked = tuple(dict.fromkeys(_checked(knob, value) for value in values))
    default = knob.default if knob.default in picked else picked[0]
    same = tuple(pair for pair in getattr(knob, "same", ()) if pair[1] in picked)
    return OneOf(knob.name, picked, default, ordered=getattr(knob, "ordered", True), same=same)


def _checked(knob: Hyperparameter, value: Any) -> Any:
    if isinstance(knob, OneOf):
        value = next((offered for written, offered in knob.same if written == value), value)
        fits = value in knob.values and type(value) in {type(v) for v in knob.values}
    elif isinstance(value, bool) or not isinstance(value, int | float):
        fits = False
    else:
        fits = knob.low <= value <= knob.high
        fits = fits and (isinstance(knob, Real) or value == int(value))
    if not fits:
        raise ValueError(f"{knob.name} is {value!r}; allowed: {allowed(knob)}")
    return float(value) if isinstance(knob, Real) else value
