"""Run: what a run folder holds, read back for reports, selection and export.

RUN/study.yaml        the study as resolved
RUN/study.db          the Optuna study (another storage: its URL stands in run.json)
RUN/run.json          the study's name in the storage, the storage's URL, format version, run's id
RUN/snapshot.json     derived from the storage, so that reading needs no Optuna; safe to delete
RUN/prior.json        what the runs of `warm_start` taught, where there were any
RUN/environment.json  versions, hardware, meters found
RUN/samples/          raw samples and per-item predictions, by digest
RUN/log.jsonl         what happened, one event a line
RUN/report.html       the page
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from ..errors import RunError, StorageFailed
from .budget import Tariff, bill
from .holder import alive
from .records import Purpose, Record

FORMAT: Final = 2
"""Version of what a run folder and its study hold; another version is refused, never guessed."""

DAMAGED: Final = "it must hold `format`, `name` and `storage`; put it back from a copy of the run"

NOT_BEGUN: Final = "died before it began; give its study to `paretune search` again"

LOCAL_STORAGE: Final = "sqlite:///study.db"
"""The storage's URL as run.json writes it when the study lies in the run folder."""


def sign_of(direction: str) -> float:
    """What makes a figure of a metric a loss: -1 where more is better, else 1.

    >>> sign_of("maximize"), sign_of("minimize")
    (-1.0, 1.0)
    """
    return -1.0 if direction == "maximize" else 1.0


@dataclass(frozen=True)
class ObjectiveRow:
    """One objective of a run: a metric with its direction and unit, as the catalogue has it."""

    name: str
    unit: str
    direction: str

    @property
    def sign(self) -> float:
        """What makes a figure a loss; see `sign_of`."""
        return sign_of(self.direction)


@dataclass(frozen=True)
class Header:
    """What a run is about; a resume changes only what it may change of the study.

    Args:
        name: the study's name.
        study: the resolved study file, as data.
        objectives: in the study's order.
        metrics: unit, direction, resource, definition of every metric with a figure, by name.
        constraints: as the study file writes them.
    """

    name: str
    study: Mapping[str, Any]
    objectives: tuple[ObjectiveRow, ...]
    metrics: Mapping[str, Mapping[str, str]]
    constraints: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form; `from_json` is its inverse."""
        return {
            "name": self.name,
            "study": dict(self.study),
            "objectives": [asdict(row) for row in self.objectives],
            "metrics": {name: dict(row) for name, row in self.metrics.items()},
            "constraints": list(self.constraints),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Header:
        """A header from what `to_json` wrote."""
        return Header(
            name=data["name"],
            study=data["study"],
            objectives=tuple(ObjectiveRow(**row) for row in data["objectives"]),
            metrics=data["metrics"],
            constraints=tuple(data["constraints"]),
        )


@dataclass(frozen=True)
class Run:
    """A run, read.

    Args:
        folder: where it lies.
        name: the study's name.
        study: the resolved study file, as data.
        objectives: in the study's order.
        metrics: unit, direction, resource, definition of every metric with a figure, by name.
        constraints: as the study file writes them.
        records: every search trial, in the order of their numbers.
        baseline: trial 0, None before it ended.
        confirmations: repeats and test-split records of front points, by trial number.
        reference: the hypervolume's reference point, frozen; None before the initial design ended.
        environment: versions, hardware, meters found.
        bill: hours, kWh, kg CO2e, money of the search so far, each a Measurement in JSON.
        refused: draws that never became trials, by reason.
        standing: `ended: ` and why, `under way`, or `stopped` where its driver is gone.
        data: digests of the `model` and of each split's tokens, by name; empty: not known.
        near_ties: repeats of trials whose place was not settled, judged on validation, by number.
    """

    folder: Path
    name: str
    study: Mapping[str, Any]
    objectives: tuple[ObjectiveRow, ...]
    metrics: Mapping[str, Mapping[str, str]]
    constraints: tuple[str, ...]
    records: tuple[Record, ...]
    baseline: Record | None
    confirmations: Mapping[int, tuple[Record, ...]]
    reference: Mapping[str, float] | None
    environment: Mapping[str, Any]
    bill: Mapping[str, Any]
    refused: Mapping[str, int]
    standing: str = "under way"
    data: Mapping[str, str] = field(default_factory=dict)
    near_ties: Mapping[int, tuple[Record, ...]] = field(default_factory=dict)


def read_run(folder: Path) -> Run:
    """A run from its folder, whether it is going on, ended or was killed.

    Answers from `snapshot.json` while that is fresh, without importing Optuna; else reads the
    storage and leaves a new snapshot, where the folder can be written.

    Raises:
        RunError: no run there, or one of another format.
        StorageFailed: the storage cannot be read.
    """
    folder = Path(folder)
    about = read_about(folder)
    stamp = storage_stamp(folder, about)
    snapshot = _fresh_snapshot(folder, stamp)
    if snapshot is None:
        from .storage import read_snapshot

        snapshot = {"stamp": stamp, **read_snapshot(folder, about)}
        write_snapshot(folder, snapshot)
    return _run(folder, snapshot)


def read_about(folder: Path) -> dict[str, Any]:
    """What `run.json` says: `format`, `id`, `name` (of the study in the storage), `storage` (URL).

    Raises:
        RunError: not a run folder, or of another format.
    """
    path = folder / "run.json"
    if not path.is_file():
        raise RunError(
            f"{folder} is no run: it has no run.json; give the folder that `paretune search` made"
        )
    about = _read_mapping(path)
    if about is None:
        raise RunError(f"{path} is damaged: {DAMAGED}")
    if about.get("format") != FORMAT:
        raise RunError(
            f"{folder} has format {about.get('format')!r}, this version reads {FORMAT}; "
            "open it with the version of paretune that wrote it"
        )
    if not all(isinstance(about.get(key), str) for key in ("name", "storage")):
        raise RunError(f"{path} is damaged: {DAMAGED}")
    return about


def run_id(folder: Path) -> str:
    """A name that no other run has, and that stays wherever the run's study is moved."""
    about = read_about(folder)
    return str(about.get("id", folder.resolve()))


def storage_stamp(folder: Path, about: Mapping[str, Any]) -> list[list[int]] | None:
    """What changes whenever the study does: sizes and times of its files.

    None for a database elsewhere, whose changes cannot be seen from outside: never fresh.
    """
    if about["storage"] != LOCAL_STORAGE:
        return None
    files = [folder / name for name in ("study.db", "study.db-wal")]
    states = [path.stat() for path in files if path.is_file()]
    # an empty write-ahead log says nothing: readers leave one behind
    return [[state.st_size, state.st_mtime_ns] for state in states if state.st_size]


def write_json(path: Path, data: Any) -> None:
    """Writes a JSON file that is either whole or not there, whenever the process dies.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with scratch.open("w", encoding="utf-8") as file:
        json.dump(data, file, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


def write_snapshot(folder: Path, snapshot: Mapping[str, Any]) -> None:
    """Leaves a snapshot for the next reader; does nothing where the folder cannot be written.

    Raises:
        StorageFailed: the folder can be written, but not this file.
    """
    try:
        write_json(folder / "snapshot.json", snapshot)
    except OSError as error:
        # an archived run is read-only, and reading it is not a failure
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StorageFailed(
                f"cannot write {folder / 'snapshot.json'}: {error}; free some space and read again"
            ) from error


def _fresh_snapshot(folder: Path, stamp: list[list[int]] | None) -> dict[str, Any] | None:
    path = folder / "snapshot.json"
    if stamp is None or not path.is_file():
        return None
    snapshot = _read_mapping(path) or {}  # a damaged one is as good as none
    fresh = snapshot.get("stamp") == stamp and snapshot.get("format") == FORMAT
    return snapshot if fresh else None


def _read_mapping(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file, None where the file holds none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def _run(folder: Path, snapshot: Mapping[str, Any]) -> Run:
    header, notes = Header.from_json(snapshot["header"]), snapshot["notes"]
    records = [Record.from_json(data) for data in snapshot["records"]]
    baseline = [r for r in records if r.purpose == "baseline" and r.state in ("final", "failed")]
    again = [Record.from_json(r) for rows in snapshot["confirmations"].values() for r in rows]
    everything = [*records, *again]
    tariff = Tariff.from_json(notes["tariff"]) if "tariff" in notes else Tariff()
    costs = bill(everything, snapshot["spent_seconds"], tariff)
    environment = folder / "environment.json"
    return Run(
        folder=folder,
        name=header.name,
        study=header.study,
        objectives=header.objectives,
        metrics=header.metrics,
        constraints=header.constraints,
        records=tuple(record for record in records if record.purpose == "search"),
        baseline=baseline[0] if baseline else None,
        confirmations=_by_number(again, "confirm"),
        reference=notes.get("reference"),
        environment=json.loads(environment.read_text()) if environment.is_file() else {},
        bill={name: figure.to_json() for name, figure in costs.items()},
        refused=notes.get("refused", {}),
        standing=_standing(notes.get("ended"), snapshot.get("held")),
        data=notes.get("data", {}),
        near_ties=_by_number(again, "repeat"),
    )


def _by_number(again: Sequence[Record], purpose: Purpose) -> dict[int, tuple[Record, ...]]:
    numbers = dict.fromkeys(r.number for r in again if r.purpose == purpose)
    return {n: tuple(r for r in again if (r.number, r.purpose) == (n, purpose)) for n in numbers}


def _standing(ended: str | None, held: Mapping[str, Any] | None) -> str:
    if held is not None and alive(held, time.time()):
        return "under way"
    return "stopped" if ended is None else f"ended: {ended}"
