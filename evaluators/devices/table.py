"""Devices and grid regions as data: what a processor draws and costs, how clean electricity is.

Every row says where its figures come from and of which year they are. They are assumptions, so
whatever is computed from them is `modelled`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from ...errors import UnknownName

DEFAULT_REGION: Final = "world"


@dataclass(frozen=True)
class Device:
    """One row of the device table: figures per unit of the device.

    Args:
        name: of the row.
        per: what one unit is (`hardware thread`); a workload's `threads` says how many it uses.
        matches: parts of the processor names that the row stands for.
        idle_watts, peak_watts: draw of one unit when nothing runs and at full load.
        usd_per_hour: rent of one unit.
        power_source, power_date, price_source, price_date: where the figures come from; of when
            they are, or when they were read.
    """

    name: str
    per: str
    matches: tuple[str, ...]
    idle_watts: float
    peak_watts: float
    power_source: str
    power_date: str
    usd_per_hour: float
    price_source: str
    price_date: str

    def watts(self, busy: float) -> float:
        """Draw of one unit that is busy for a share of the time, in [0, 1].

        P = P_idle + u (P_max - P_idle); thermal design power alone would be an upper bound.
        """
        return self.idle_watts + busy * (self.peak_watts - self.idle_watts)


@dataclass(frozen=True)
class Grid:
    """Carbon intensity of a region's electricity.

    Args:
        region: `world` or an ISO 3166 alpha-3 code.
        gco2e_per_kwh: yearly average, life cycle, location based.
    """

    region: str
    name: str
    gco2e_per_kwh: float
    year: int
    source: str


@cache
def devices() -> Mapping[str, Device]:
    """The device table, by row name."""
    rows = _data("devices.json")["rows"]
    return {row["name"]: Device(**{**row, "matches": tuple(row["matches"])}) for row in rows}


def device_row(processor: str) -> Device | None:
    """The row that stands for a processor, by its own name or the row's; None: there is none.

    >>> device_row("AMD EPYC 7763 64-Core Processor").name
    'server-cpu-thread'
    >>> device_row("an abacus") is None
    True
    """
    for row in devices().values():
        if processor == row.name or any(part in processor for part in row.matches):
            return row
    return None


@cache
def grids() -> Mapping[str, Grid]:
    """The grid table, by region."""
    data = _data("grids.json")
    rows = [Grid(**{"source": data["source"], **row}) for row in data["rows"]]
    return {row.region: row for row in rows}


def grid(region: str = DEFAULT_REGION) -> Grid:
    """The grid of a region.

    Raises:
        UnknownName: no row of the table.
    """
    if region not in grids():
        raise UnknownName("grid region", region, grids())
    return grids()[region]


@cache
def pue() -> float:
    """Power usage effectiveness of an average data centre: all its energy per the machines'."""
    return float(_data("devices.json")["pue"]["value"])


def _data(name: str) -> Any:
    return json.loads(files(__package__).joinpath(name).read_text(encoding="utf-8"))
