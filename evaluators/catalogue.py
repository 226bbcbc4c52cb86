"""The table of metrics: the families' rows, and those that entry points add.

An entry point of the group `paretune.metrics` names a `Metric`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from itertools import chain

from ..errors import BadRequest, UnknownName
from .communication import training as communication
from .compute import flops, latency, training
from .energy import use as energy
from .memory import peak, size
from .metric import Metric
from .money import cost
from .quality import classification, language

FAMILIES = (
    classification.METRICS,
    language.METRICS,
    flops.METRICS,
    latency.METRICS,
    training.METRICS,
    size.METRICS,
    peak.METRICS,
    energy.METRICS,
    cost.METRICS,
    communication.METRICS,
)


@cache
def metrics() -> Mapping[str, Metric]:
    """Every metric by name: quality first, then by resource.

    Raises:
        BadRequest: an entry point that is no Metric, or takes a name that exists.
    """
    rows = {row.name: row for row in chain.from_iterable(FAMILIES)}
    for entry in entry_points(group="paretune.metrics"):
        row = entry.load()
        if not isinstance(row, Metric):
            raise BadRequest(f"entry point {entry.value} is no Metric; see CONTRIBUTING.md")
        if row.name in rows:
            raise BadRequest(f"entry point {entry.value} calls itself {row.name!r}, which exists")
        rows[row.name] = row
    return rows


def followed(names: Sequence[str], energy_is_time: bool) -> dict[str, str]:
    """Metrics that are a fixed multiple of another of these, and of which; the first named stays.

    Args:
        names: of the catalogue.
        energy_is_time: energy is modelled as watts times the seconds that pass.
    """
    found: dict[str, str] = {}
    leaders: dict[str, str] = {}
    for name in names:
        root = _root(name, energy_is_time)
        if leaders.setdefault(root, name) != name:
            found[name] = leaders[root]
    return found


def _root(name: str, energy_is_time: bool) -> str:
    follows = metrics()[name].follows
    if follows is None or (name == "energy" and not energy_is_time):
        return name
    return _root(follows, energy_is_time)


def metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        UnknownName: no such row.
    """
    if name not in metrics():
        raise UnknownName("metric", name, metrics())
    return metrics()[name]
