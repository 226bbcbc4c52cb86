"""Runs beside each other: how much of the common ground each one's front holds, and who beats whom.

All fronts are measured from one reference point in one box: from the best figure that any front has
to a tenth beyond the worst, each objective linear between them. So a hypervolume is a share of that
box, and comparable within one comparison only.

Runs of one study that differ by seed only are also told together: what at least one, half and all
of them attain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Final

import numpy as np

from ..errors import BadRequest, UnknownName
from ..evaluators.catalogue import metrics
from ..evaluators.tasks.spec import SPLITS
from ..search.against import own_repeat
from ..search.doubts import doubts_between
from ..search.front import front_of, sign, stored_metrics
from ..search.pareto import Array, attainment, hypervolume, just_beyond, non_dominated
from ..search.records import Record
from ..search.run import Run
from .words import listed

SAME: Final = ("model", "task", "workload", "constraints")
"""What should agree, or figures are not of the same thing; see `_told`."""

UNLED: Final = ("seed", "confirm", "engine", "trial", "deploy")
"""Sections of a study that do not lead its search, apart from the seed."""

ATTAINED_IN: Final = (2, 3)
"""Numbers of objectives for which attained fronts are computed."""


@dataclass(frozen=True)
class Standing:
    """One run's front among others.

    Args:
        run: its folder. trials: judged in full, the baseline apart. hours: of work.
        points: on its front; of these, the ones that are compared.
        left_out: points of its front that were not confirmed, where test figures are compared.
        hypervolume: share of the common box that it dominates.
        among_all: how many of its points are on the front of all runs together.
        beaten_by: share of its points that some point of another run beats, by run.
        best: the best figure on each objective.
    """

    run: str
    trials: int
    hours: float
    points: int
    left_out: int
    hypervolume: float
    among_all: int
    beaten_by: Mapping[str, float]
    best: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**vars(self), "beaten_by": dict(self.beaten_by), "best": dict(self.best)}


def compare(
    runs: Sequence[Run], objectives: Sequence[str] | None = None, *, tested: bool = False
) -> dict[str, Any]:
    """How the fronts of several runs stand to each other.

    Args:
        runs: at least two.
        objectives: metrics that all of them stored; None: the objectives that they share.
        tested: the fronts that the searches found, by their figures on the test split where they
            were confirmed: nothing was chosen by those.

    Returns:
        `objectives`, `split`, `reference` and `ideal` by objective, `differ`: sections of the
        studies that are not the same, `warnings`: why figures do not compare, `runs`: rows of
        `Standing`, and `over_seeds` where the runs differ by seed only; see `_over_seeds`.

    Raises:
        BadRequest: fewer than two different runs, no common objective, other data, figures that are
            modelled in one run and measured in another, or a run without points.
        UnknownName: an objective that a run did not store.
    """
    if len({run.folder.resolve() for run in runs}) < max(2, len(runs)):
        told = listed([str(run.folder) for run in runs])
        raise BadRequest(f"{told}: give at least two run folders, each once")
    names = _objectives(runs, objectives)
    split = "test" if tested else "validation"
    _refuse_other_data(runs, names, split)
    records = {_name(run): _records(run, names, tested) for run in runs}
    _refuse_other_sources(names, records)
    signs = np.array([sign(runs[0], name) for name in names])
    fronts = {name: _losses(found, names, signs) for name, found in records.items()}
    together = np.vstack(list(fronts.values()))
    ideal, reference = together.min(axis=0), just_beyond(together)
    standings = [_standing(run, fronts, signs, names) for run in runs]
    seeds = _differ_by_seed_only(runs)
    volumes = [standing.hypervolume for standing in standings]
    return {
        "objectives": list(names),
        "split": split,
        "reference": dict(zip(names, (signs * reference).tolist(), strict=True)),
        "ideal": dict(zip(names, (signs * ideal).tolist(), strict=True)),
        "differ": [section for section in SAME if len(_told(runs, section)) > 1],
        "warnings": doubts_between(runs, names),
        "runs": [standing.to_json() for standing in standings],
        **({"over_seeds": _over_seeds(list(fronts.values()), volumes, signs)} if seeds else {}),
    }


def rows(compared: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`compare` as flat rows for the terminal."""
    return [
        {
            "run": row["run"],
            "trials": row["trials"],
            "hours": round(row["hours"], 2),
            "front": row["points"],
            "hypervolume": f"{row['hypervolume']:.3f}",
            "on the common front": row["among_all"],
            "beaten by": ", ".join(
                f"{other} {share:.0%}" for other, share in row["beaten_by"].items() if share
            ),
        }
        for row in compared["runs"]
    ]


def note(compared: Mapping[str, Any]) -> str:
    """What must be known to read the rows."""
    told = [
        f"{listed(compared['objectives'])} on the {compared['split']} split",
        "hypervolume is a share of the box from the best figures to a tenth beyond the worst",
    ]
    for row in compared["runs"]:
        if row["left_out"]:
            total = row["points"] + row["left_out"]
            told.append(f"{row['run']}: {row['points']} of {total} points were confirmed")
    told += _over_seeds_in_words(compared)
    if compared["differ"]:
        told.append(f"the studies differ in {listed(compared['differ'])}")
    return "; ".join([*told, *compared["warnings"]])


def _differ_by_seed_only(runs: Sequence[Run]) -> bool:
    """Every run has a seed of its own, and all else that leads a search is the same."""
    seeds = {run.study.get("seed") for run in runs}
    led = [{k: v for k, v in run.study.items() if k not in UNLED} for run in runs]
    return len(seeds) == len(runs) and all(one == led[0] for one in led)


def _over_seeds(fronts: Sequence[Array], volumes: Sequence[float], signs: Array) -> dict[str, Any]:
    """What runs that differ by seed only have in common.

    Args:
        fronts: `(n_i, m)` losses each. volumes: their hypervolumes.

    Returns:
        `mean` and `deviation` (over runs) of the hypervolume, and for two or three objectives
        `attained`: by `best` (at least one run), `median` (half of them) and `worst` (all) the
        `front` of what so many dominate or reach, in the objectives' units, and its `hypervolume`.
    """
    told: dict[str, Any] = {"mean": fmean(volumes), "deviation": stdev(volumes)}
    if len(signs) not in ATTAINED_IN:
        return told
    together = np.vstack(fronts)
    low, high = together.min(axis=0), just_beyond(together)
    shares = {"best": 1.0 / len(fronts), "median": 0.5, "worst": 1.0}
    surfaces = {name: attainment(fronts, share) for name, share in shares.items()}
    told["attained"] = {
        name: {
            "hypervolume": hypervolume((rows - low) / (high - low), np.ones(len(signs))),
            "front": (signs * rows).tolist(),
        }
        for name, rows in surfaces.items()
    }
    return told


def _over_seeds_in_words(compared: Mapping[str, Any]) -> list[str]:
    found = compared.get("over_seeds")
    if found is None:
        return []
    told = (
        f"{len(compared['runs'])} runs that differ by seed: hypervolume {found['mean']:.3f} on "
        f"average, standard deviation {found['deviation']:.3f}"
    )
    by = {"best": "at least one", "median": "half", "worst": "all"}
    parts = [
        f"{row['hypervolume']:.3f} by {by[name]}" for name, row in found.get("attained", {}).items()
    ]
    return [f"{told}; attained {', '.join(parts)}" if parts else told]


def _objectives(runs: Sequence[Run], wanted: Sequence[str] | None) -> tuple[str, ...]:
    stored = [set(stored_metrics(run)) for run in runs]
    for name in wanted or ():
        for known in stored:
            if name not in known:
                raise UnknownName("metric of these runs", name, sorted(set.intersection(*stored)))
    names = wanted or [row.name for row in runs[0].objectives]
    shared = [n for n in names if wanted or all(n in _asked(run) for run in runs)]
    if not shared:
        raise BadRequest(
            "the runs share no objective; choose with --objectives of "
            f"{listed(sorted(set.intersection(*stored)))}"
        )
    return tuple(shared)


def _asked(run: Run) -> list[str]:
    return [row.name for row in run.objectives]


def _told(runs: Sequence[Run], section: str, *splits: str) -> set[str]:
    """All that the runs say of a section: by digests of what was read, else in the study's words.

    The data's digests are of tokens, which another model's tokenizer cuts otherwise: between models
    the study's words must do, as for runs without digests.

    Args:
        runs: which. section: of the study.
        splits: of the task; none: all of them.
    """
    models = {run.data.get("model", "") for run in runs}
    if section == "model" and "" not in models:
        return models
    if section == "task" and "" not in models and len(models) == 1:
        return {repr([run.data.get(name) for name in splits or SPLITS]) for run in runs}
    return {repr(run.study.get(section)) for run in runs}


def _refuse_other_data(runs: Sequence[Run], names: Sequence[str], split: str) -> None:
    table = metrics()
    judged = [n for n in names if n in table and table[n].resource == "quality"]
    if judged and len(_told(runs, "task", split)) > 1:
        raise BadRequest(
            f"the runs' {split} data differ, so that {listed(judged)} is of other items; compare "
            "runs of one task, or choose --objectives without quality"
        )


def _name(run: Run) -> str:
    return str(run.folder)


def _records(run: Run, names: Sequence[str], tested: bool) -> tuple[Record, ...]:
    """A run's own front; in test figures, of those points that have them."""
    found = front_of(run, names).records
    if tested:
        again = (own_repeat(run, record.number) for record in found)
        found = tuple(r for r in again if r and all(r.value(n) is not None for n in names))
    if not found:
        what = "confirmed point" if tested else "trial"
        raise BadRequest(f"{run.folder} has no {what} with {listed(names)}; leave it out")
    return found


def _refuse_other_sources(names: Sequence[str], records: Mapping[str, Sequence[Record]]) -> None:
    for name in names:
        sources = {r.measurements[name].source for found in records.values() for r in found}
        if {"measured", "modelled"} <= sources:
            raise BadRequest(
                f"{name} is measured in one run and modelled in another; compare runs of one "
                "meter, or choose other --objectives"
            )


def _losses(records: Sequence[Record], names: Sequence[str], signs: Array) -> Array:
    """`(n, m)`, lower is better."""
    figures = [[r.measurements[name].value for name in names] for r in records]
    return np.array(figures, dtype=np.float64) * signs


def _standing(
    run: Run, fronts: Mapping[str, Array], signs: Array, names: Sequence[str]
) -> Standing:
    mine = fronts[_name(run)]
    together = np.vstack(list(fronts.values()))
    others = {name: front for name, front in fronts.items() if name != _name(run)}
    low, high = together.min(axis=0), just_beyond(together)
    common = together[non_dominated(together)]
    best = signs * mine.min(axis=0)
    return Standing(
        run=_name(run),
        trials=sum(record.state == "final" for record in run.records),
        hours=sum(record.seconds for record in (*run.records, *_baseline(run))) / 3600.0,
        points=len(mine),
        left_out=len(front_of(run, names).records) - len(mine),
        hypervolume=hypervolume((mine - low) / (high - low), np.ones(len(names))),
        among_all=sum(bool((common == row).all(axis=1).any()) for row in mine),
        beaten_by={name: _beaten(mine, front) for name, front in others.items()},
        best=dict(zip(names, best.tolist(), strict=True)),
    )


def _baseline(run: Run) -> tuple[Record, ...]:
    return () if run.baseline is None else (run.baseline,)


def _beaten(mine: Array, theirs: Array) -> float:
    """Share of my rows that one of theirs is no worse than anywhere, and better somewhere."""
    no_worse = (theirs[:, None] <= mine[None]).all(axis=2)
    better = (theirs[:, None] < mine[None]).any(axis=2)
    return float((no_worse & better).any(axis=0).mean())
