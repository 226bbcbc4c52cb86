"""Warm start: what earlier runs teach a new study; read once, kept in the new run's folder.

RUN/prior.json  configurations, features on paper and figures of the earlier runs' final trials

What an earlier trial is comes from its own model on paper; its totals are moved as from that given
model to the new one, so that half of either is half. A resume reads `prior.json` alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import BadRequest, RunError, StudyError
from ..evaluators.catalogue import metrics
from ..spaces.configuration import Configuration, digest
from ..spaces.lower import Subject, walk
from ..spaces.paper_features import FEATURES, paper_features
from .foresight import known_on_paper
from .records import Record
from .run import Run, read_run, write_json
from .samplers.prior import Lesson
from .storage import StudyStorage, guarded
from .study import Study
from .subject import Material, material_on_paper

NAME: Final = "prior.json"

FEWEST: Final = 3
"""Final trials with a figure below which an earlier run teaches nothing."""


def earlier_runs(
    study: Study, material: Material, cache: Path, folder: Path | None, *, judged: bool
) -> tuple[Lesson, ...]:
    """What the study's `warm_start` teaches; empty where it has none.

    Args:
        study, material: as loaded.
        cache: where data sets keep what they extracted.
        folder: the new run's; where it was begun, its own copy is read. None: there is no run.
        judged: a function of the user's gives the figures, so that paper tells none of them.

    Raises:
        RunError: an earlier run, or the copy, cannot be read.
        StudyError: an earlier run's model cannot be loaded, or it has too little to teach.
    """
    if study.warm_start is None:
        return ()
    if folder is not None and (folder / NAME).is_file():
        return _kept(folder / NAME)
    wanted = measured_objectives(study, judged=judged)
    return tuple(_taught(Path(path), material, cache, wanted) for path in study.warm_start)


def keep(storage: StudyStorage, lessons: Sequence[Lesson]) -> None:
    """Stores what earlier runs teach beside the run's records.

    Raises:
        RunError: the run was begun with something else.
    """
    if not lessons:
        return
    data = [_to_json(lesson) for lesson in lessons]
    here = digest(data)
    if storage.notes.get("prior", here) != here:
        raise RunError(
            f"the earlier runs changed since {storage.folder} was begun, and its {NAME} is gone or "
            "another; put that file back, or search in another folder"
        )
    with guarded(storage.folder):
        write_json(storage.folder / NAME, data)
    storage.note("prior", here)


def measured_objectives(study: Study, *, judged: bool) -> tuple[str, ...]:
    """The objectives that paper does not tell exactly, in the study's order."""
    table = {} if judged else metrics()
    return tuple(n for n in study.objectives if n not in table or not known_on_paper(table[n]))


def in_words(lessons: Sequence[Lesson], wanted: Sequence[str]) -> list[str]:
    """One line on what a warm start brings; none where there is none.

    Args:
        wanted: as `measured_objectives` gives them.
    """
    if not lessons:
        return []
    counts = {n: sum(_count(s.figures[n]) for s in lessons if n in s.figures) for n in wanted}
    told = ", ".join(f"{name} ({count})" for name, count in counts.items() if count)
    silent = [name for name, count in counts.items() if not count]
    runs = "1 run" if len(lessons) == 1 else f"{len(lessons)} runs"
    trials = sum(len(lesson.configurations) for lesson in lessons)
    nothing = f"; nothing of {', '.join(silent)}" if silent else ""
    return [f"warm start: {trials} trials of {runs}, with figures of {told}{nothing}"]


def _taught(path: Path, material: Material, cache: Path, wanted: Sequence[str]) -> Lesson:
    run = read_run(path)
    subject = _subject(run, cache)
    records = [record for record in (run.baseline, *run.records) if record is not None]
    final = [record for record in records if record.state == "final"]
    walks = [(record, walk(record.configuration, subject)) for record in final]
    legal = [(record, path.paper) for record, path in walks if not path.objections]
    figures = _figures([record for record, _ in legal], wanted)
    if not figures:
        known = sorted({name for record in final for name in record.measurements})
        raise StudyError(
            f"warm_start: {path} cannot teach: of {len(final)} final trials, fewer than {FEWEST} "
            f"have a figure of an objective that is measured here ({', '.join(wanted) or 'none'}); "
            f"figures there: {', '.join(known) or 'none'}; leave it out"
        )
    move = _given(material.subject) - _given(subject)
    rows = [paper_features(record.configuration, paper) + move for record, paper in legal]
    return Lesson(
        name=str(path),
        configurations=tuple(record.configuration for record, _ in legal),
        features=np.array(rows),
        figures=figures,
    )


def _subject(run: Run, cache: Path) -> Subject:
    """What an earlier run's trials were made from, on paper."""
    model = run.study.get("model")
    try:
        material = material_on_paper(Study.from_dict(run.study), cache)
    except BadRequest as error:
        raise StudyError(
            f"warm_start: what {run.folder} was made from ({model}) cannot be loaded any more, and "
            f"its trials say nothing without: {error}; put it back, or leave the run out"
        ) from error
    if run.data.get("model", material.source.digest) != material.source.digest:
        raise StudyError(
            f"warm_start: {model} is another model than when {run.folder} was made; put back what "
            "was there, or leave the run out"
        )
    return material.subject


def _given(subject: Subject) -> NDArray[np.float64]:
    """Features of the model as given."""
    return paper_features(Configuration.of(), subject.paper)


def _figures(records: Sequence[Record], wanted: Sequence[str]) -> Mapping[str, NDArray[np.float64]]:
    rows = {n: [record.value(n) for record in records] for n in wanted}
    found = {n: np.array(row, dtype=np.float64) for n, row in rows.items()}
    return {name: row for name, row in found.items() if _count(row) >= FEWEST}


def _count(figures: NDArray[np.float64]) -> int:
    return int(np.isfinite(figures).sum())


def _to_json(lesson: Lesson) -> dict[str, Any]:
    figures = {
        name: [value if np.isfinite(value) else None for value in row.tolist()]
        for name, row in lesson.figures.items()
    }
    return {
        "name": lesson.name,
        "configurations": [one.to_json() for one in lesson.configurations],
        "features": dict(zip(FEATURES, lesson.features.T.tolist(), strict=True)),
        "figures": figures,
    }


def _kept(path: Path) -> tuple[Lesson, ...]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        known = all(row["features"].keys() == set(FEATURES) for row in rows)
        lessons = tuple(_from_json(row) for row in rows) if known else ()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} is damaged: {error}; put it back, or remove it to read the earlier runs again"
        ) from error
    if not known:
        raise RunError(
            f"{path} was written by a version of paretune with other features; remove it to read "
            "the earlier runs again in another folder, or go on with that version"
        )
    return lessons


def _from_json(data: Mapping[str, Any]) -> Lesson:
    return Lesson(
        name=data["name"],
        configurations=tuple(Configuration.from_json(one) for one in data["configurations"]),
        features=np.array([data["features"][name] for name in FEATURES], dtype=np.float64).T,
        figures={name: np.array(row, dtype=np.float64) for name, row in data["figures"].items()},
    )
