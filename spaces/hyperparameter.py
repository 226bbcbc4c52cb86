"""Hyper-parameters of a technique: what a knob may be turned to.

Plain data without a library: `space.py` turns them into ConfigSpace objects, the search into
Optuna distributions.
"""

from __future__ import annotations

from dataclasses import dataclass

from .configuration import Scalar


@dataclass(frozen=True)
class Integer:
    """A whole number in `[low, high]`; `log` draws evenly on a logarithmic scale."""

    name: str
    low: int
    high: int
    default: int
    log: bool = False


@dataclass(frozen=True)
class Real:
    """A real number in `[low, high]`; `log` draws evenly on a logarithmic scale."""

    name: str
    low: float
    high: float
    default: float
    log: bool = False


@dataclass(frozen=True)
class OneOf:
    """One of a few values. `ordered`: the order means something (neighbours are closer)."""

    name: str
    values: tuple[Scalar, ...]
    default: Scalar
    ordered: bool = False


Hyperparameter = Integer | Real | OneOf
