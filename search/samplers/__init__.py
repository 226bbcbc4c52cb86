"""The table of samplers: one row a way to choose what is tried next.

Entry points of the group `paretune.samplers` add rows: a `Sampler`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final

from ...errors import BadRequest, UnknownName
from .problem import Problem

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@dataclass(frozen=True)
class Sampler:
    """One row.

    Args:
        name: as the study file writes it.
        make: what may be known and a seed, to an Optuna sampler that is a pure function of seed
            and history.
        reads_records: it learns from lower rungs; without it there is full fidelity only.
        source: where it comes from.
    """

    name: str
    make: Callable[[Problem, int], BaseSampler]
    reads_records: bool
    source: str


def _greybox(problem: Problem, seed: int) -> BaseSampler:
    from .greybox import GreyBoxSampler

    return GreyBoxSampler(problem, seed)


def _optuna(name: str) -> Callable[[Problem, int], BaseSampler]:
    def make(_: Problem, seed: int) -> BaseSampler:
        from .fresh import fresh

        return fresh(name, seed)

    return make


TABLE: Final[dict[str, Sampler]] = {
    row.name: row
    for row in (
        Sampler("greybox", _greybox, True, "docs/log.md; EHVI over a pool, features on paper"),
        Sampler("random", _optuna("random"), False, "Optuna RandomSampler"),
        Sampler("tpe", _optuna("tpe"), False, "Optuna TPESampler; MOTPE, Ozaki et al. 2022"),
        Sampler(
            "tpe-multivariate",
            _optuna("tpe-multivariate"),
            False,
            "Optuna TPESampler, multivariate, by groups of conditions",
        ),
        Sampler("nsga2", _optuna("nsga2"), False, "Optuna NSGAIISampler; Deb et al. 2002"),
        Sampler("nsga3", _optuna("nsga3"), False, "Optuna NSGAIIISampler; Deb & Jain 2014"),
        Sampler(
            "gp",
            _optuna("gp"),
            False,
            "Optuna GPSampler; random on knobs that are not always active",
        ),
    )
}


def sampler(name: str) -> Sampler:
    """The row of that name, built in or added by an entry point.

    Raises:
        UnknownName: no such row.
    """
    added = {entry.name: entry for entry in entry_points(group="paretune.samplers")}
    if name in TABLE:
        return TABLE[name]
    if name not in added:
        raise UnknownName("sampler", name, [*TABLE, *added])
    row = added[name].load()
    if not isinstance(row, Sampler):
        raise BadRequest(f"entry point {added[name].value} is no Sampler; see CONTRIBUTING.md")
    return row
