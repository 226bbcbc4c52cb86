"""Measurement: one figure with its unit, its spread and where it comes from.

What was not measured is a Measurement with no value and a reason. Never zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

Source = Literal["measured", "modelled", "exact"]
Over = Literal["items", "seeds", "repeats"]


@dataclass(frozen=True)
class Measurement:
    """One figure.

    Args:
        value: None where it could not be had; then `reason` says why.
        unit: as the metric's row says.
        source: `exact` (counted), `measured`, or `modelled` (computed from assumptions).
        stderr: standard error of the value, None where it has no meaning.
        n: how many `over` it was taken.
        over: items, seeds or repeats.
        conditions: what one must know to repeat it, as sorted pairs.
        reason: why there is no value.
    """

    value: float | None
    unit: str
    source: Source | None = None
    stderr: float | None = None
    n: int | None = None
    over: Over | None = None
    conditions: tuple[tuple[str, Any], ...] = ()
    reason: str | None = None

    def __post_init__(self) -> None:
        if (self.value is None) != (self.reason is not None):
            raise ValueError("a measurement has either a value or a reason for having none")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a measured value must be finite, not {self.value}")
        if self.value is not None and self.source is None:
            raise ValueError("a value needs its source: exact, measured or modelled")

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form; fields that say nothing are left out."""
        if self.value is None:
            return {"value": None, "unit": self.unit, "reason": self.reason}
        data: dict[str, Any] = {"value": self.value, "unit": self.unit, "source": self.source}
        for name in ("stderr", "n", "over"):
            if getattr(self, name) is not None:
                data[name] = getattr(self, name)
        if self.conditions:
            data["conditions"] = dict(self.conditions)
        return data

    @staticmethod
    def from_json(data: dict[str, Any]) -> Measurement:
        """The inverse of `to_json`."""
        conditions = tuple(sorted(data.get("conditions", {}).items()))
        return Measurement(**{**data, "conditions": conditions})


def missing(unit: str, reason: str) -> Measurement:
    """A figure that could not be had, and why."""
    return Measurement(value=None, unit=unit, reason=reason)
