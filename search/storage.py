"""StudyStorage: a run's records on an Optuna study, the single truth for every engine.

Only the driver opens it. Every change is one transaction, in an order that survives a kill between
any two: a trial appears whole (parameters and record together); a finished record is stored before
anything that is derived from it (scalars, constraints, values), and `open` finishes what was begun.

SQLite in the run folder by default. Measured per trial of 15 parameters and 10 scalars:
write-ahead log 33 ms (`synchronous=NORMAL`) and 52 ms (`FULL`), rollback journal 51 ms, Optuna's
journal file 5 ms. Trials last seconds, so the safest is taken: write-ahead log (readers never block
the driver) with `FULL` (a power cut loses nothing). The journal file has no compare-and-swap, so no
safe lease.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState, create_trial
from sqlalchemy import create_engine
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ..errors import BadRequest, RunError, StorageFailed
from ..spaces.configuration import Configuration, Scalar
from .desk import NAME as DESK
from .desk import Desk
from .lease import Lease, spent_seconds
from .records import Record
from .run import (
    FORMAT,
    LOCAL_STORAGE,
    NOT_BEGUN,
    Header,
    read_about,
    storage_stamp,
    write_json,
    write_snapshot,
)

MAY_CHANGE: Final = frozenset({"budget", "confirm", "engine", "trial"})
"""Sections of the study that a resumed run may change; all else makes it another study."""


@dataclass(frozen=True)
class Draft:
    """A configuration drawn on the desk, not stored yet."""

    number: int
    configuration: Configuration


class StudyStorage:
    """The records of one run, open for the one driver that may write them.

    `records` holds every trial by number, `confirmations` the repeats by trial number, `notes` the
    study-level facts (`reference`, `refused`, `enqueued`, `tariff`, `judge`, `data`, `libraries`).
    """

    def __init__(
        self, folder: Path, header: Header, disk: RDBStorage, study_id: int, lease: Lease
    ) -> None:
        self.folder = folder
        self.header = header
        self.records: dict[int, Record] = {}
        self.confirmations: dict[int, tuple[Record, ...]] = {}
        self.notes: dict[str, Any] = {}
        self._disk = disk
        self._study_id = study_id
        self._lease = lease
        self._desk = Desk(disk.get_study_directions(study_id))
        self._ids: dict[int, int] = {}
        self._told: set[int] = set()
        self._load()

    @staticmethod
    def open(
        folder: Path,
        header: Header,
        url: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> StudyStorage:
        """Creates a run, or opens it again where it stands.

        Args:
            folder: the run's; made where there is none.
            header: what the run is about.
            url: a database that SQLAlchemy can open; None: `study.db` in the folder, or where the
                run already lies.
            clock: unix time.

        Raises:
            RunError: the folder holds another study, or another driver holds the run.
            StorageFailed: the folder or the database cannot be written.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # ours says what happens
        with guarded(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "samples").mkdir(exist_ok=True)
            about = _about(folder, header, url)
            disk = connect(folder, about["storage"])
            study_id = _study(disk, about["name"], header)
            lease = Lease(disk.engine, study_id, clock)
            lease.take()
            _renew_header(disk, study_id, header)
            return StudyStorage(folder, header, disk, study_id, lease)

    def draw(
        self,
        suggest: Callable[[Trial], Configuration],
        sampler: BaseSampler,
        parameters: Mapping[str, Scalar] | None = None,
    ) -> Draft:
        """Draws a configuration on the desk; `admit` stores it, `discard` forgets it.

        Args:
            suggest: calls `trial.suggest_*` and returns what came out.
            sampler: draws; it sees the desk.
            parameters: values that are given instead of drawn.

        Raises:
            NothingLeft: by a sampler that has nothing to give; the desk is as before.
        """
        study = optuna.load_study(study_name=DESK, storage=self._desk, sampler=sampler)
        number = len(self._desk.get_all_trials(self._desk.study_id, deepcopy=False))
        try:
            if parameters is not None:
                study.enqueue_trial(dict(parameters))
            return Draft(number, suggest(study.ask()))
        except Exception:
            if len(self._desk.get_all_trials(self._desk.study_id, deepcopy=False)) > number:
                self._desk.take_back(number)
            raise

    def discard(self, draft: Draft) -> None:
        """Forgets a draft: it never becomes a trial."""
        self._desk.take_back(draft.number)

    def admit(self, record: Record) -> None:
        """Stores a draft as a trial, whole, with its record."""
        drawn = self._desk.get_trial(record.number)
        system = self._desk.system_attributes()
        with guarded(self.folder):
            known = self._disk.get_study_system_attrs(self._study_id)
            for key in sorted(key for key, value in system.items() if known.get(key) != value):
                self._disk.set_study_system_attr(self._study_id, key, system[key])
            template = create_trial(
                state=TrialState.RUNNING,
                params=drawn.params,
                distributions=drawn.distributions,
                system_attrs=drawn.system_attrs,
                user_attrs={"record": record.to_json()},
            )
            self._create(record.number, template)
        self._desk.set_trial_user_attr(record.number, "record", record.to_json())
        self.records[record.number] = record

    def add(self, record: Record) -> None:
        """Stores a trial that was not drawn: it has no Optuna parameters."""
        attributes = {"record": record.to_json()}
        template = create_trial(state=TrialState.RUNNING, user_attrs=attributes)
        with guarded(self.folder):
            self._create(record.number, template)
        self._desk.put(template)
        self.records[record.number] = record

    def update(self, record: Record) -> None:
        """Stores the new state of a trial that goes on."""
        data = record.to_json()
        with guarded(self.folder):
            self._disk.set_trial_user_attr(self._ids[record.number], "record", data)
        self._desk.set_trial_user_attr(record.number, "record", data)
        self.records[record.number] = record

    def finish(self, record: Record, violations: Mapping[str, float]) -> None:
        """Stores a trial that is final or has failed, then tells Optuna.

        Args:
            record: told COMPLETE where every objective has a figure, else FAIL.
            violations: by limit, above 0 where it is broken.
        """
        if self.records[record.number] != record:
            self.update(record)
        values = [record.value(row.name) for row in self.header.objectives]
        complete = record.state == "final" and None not in values
        figures = {name: m.value for name, m in record.measurements.items() if m.value is not None}
        study_name = self._disk.get_study_name_from_id(self._study_id)
        with guarded(self.folder):
            number = self._ids[record.number]
            for name, value in figures.items():
                self._disk.set_trial_user_attr(number, name, value)
            if record.failure is not None:
                self._disk.set_trial_user_attr(number, "failure", record.failure.kind)
            _constrain(self._disk, study_name, number, violations)
            if complete:
                self._tell(record.number, TrialState.COMPLETE, [v for v in values if v is not None])
            else:
                self._tell(record.number, TrialState.FAIL)
        _constrain(self._desk, DESK, record.number, violations)
        if complete and record.purpose == "search":
            told = [v for v in values if v is not None]
            self._desk.set_trial_state_values(record.number, TrialState.COMPLETE, told)
        else:
            self._desk.set_trial_state_values(record.number, TrialState.FAIL)

    def retire(self, number: int) -> None:
        """Tells a paused trial as pruned: the study has ended and it will not go on."""
        with guarded(self.folder):
            self._tell(number, TrialState.PRUNED)
        self._desk.set_trial_state_values(number, TrialState.PRUNED)

    def unsettled(self) -> list[Record]:
        """Records that are final or failed but were not told yet."""
        return [
            record
            for number, record in sorted(self.records.items())
            if number not in self._told and record.state in ("final", "failed")
        ]

    def going_on(self, number: int) -> bool:
        """The trial has not been told: it can still change."""
        return number not in self._told

    def confirm(self, record: Record) -> None:
        """Stores a repeat of a trial; the trial itself stays as it was told."""
        repeats = self.confirmations.get(record.number, ())
        key = f"confirmation:{record.number}:{len(repeats)}"
        with guarded(self.folder):
            self._disk.set_study_user_attr(self._study_id, key, record.to_json())
        self.confirmations[record.number] = (*repeats, record)

    def note(self, name: str, value: Any) -> None:
        """Stores a fact about the study as a whole, JSON-ready."""
        if self.notes.get(name) == value:
            return
        with guarded(self.folder):
            self._disk.set_study_user_attr(self._study_id, f"note:{name}", value)
        self._desk.set_study_user_attr(self._desk.study_id, name, value)
        self.notes[name] = value

    def beat(self) -> None:
        """Says that the driver lives; cheap, to be called often."""
        with guarded(self.folder):
            self._lease.beat()

    def spent_seconds(self) -> float:
        """Wall time that drivers have held this run, all resumes together."""
        return self._lease.spent_seconds()

    def close(self) -> None:
        """Gives the run back, leaves one plain file and a snapshot for readers."""
        about = read_about(self.folder)
        with guarded(self.folder):
            self._lease.release()
            snapshot = _snapshot(self._disk, self._study_id)
            self._disk.remove_session()
            self._disk.engine.dispose()
            if about["storage"] == LOCAL_STORAGE:
                _leave_plain(self.folder / "study.db")
        stamp = storage_stamp(self.folder, about)
        write_snapshot(self.folder, {"stamp": stamp, **snapshot})

    def _create(self, number: int, template: optuna.trial.FrozenTrial) -> None:
        self._ids[number] = self._disk.create_new_trial(self._study_id, template)
        stored = self._disk.get_trial(self._ids[number]).number
        if stored != number:
            raise RunError(
                f"trial {number} was stored as {stored}: something else writes to this study; "
                "stop it and resume"
            )

    def _tell(self, number: int, state: TrialState, values: list[float] | None = None) -> None:
        self._disk.set_trial_state_values(self._ids[number], state, values)
        self._told.add(number)

    def _load(self) -> None:
        for key, value in self._disk.get_study_system_attrs(self._study_id).items():
            self._desk.set_study_system_attr(self._desk.study_id, key, value)
        attributes = self._disk.get_study_user_attrs(self._study_id)
        self.notes, self.confirmations = _notes(attributes), _confirmations(attributes)
        for name, value in self.notes.items():
            self._desk.set_study_user_attr(self._desk.study_id, name, value)
        for trial in self._disk.get_all_trials(self._study_id, deepcopy=False):
            self._ids[trial.number] = trial._trial_id
            self._desk.put(trial)
            if trial.state.is_finished():
                self._told.add(trial.number)
            self.records[trial.number] = Record.from_json(trial.user_attrs["record"])


def connect(folder: Path, url: str) -> RDBStorage:
    """The database of a run, for its driver."""
    if url != LOCAL_STORAGE:
        refuse_unusable(url)
        return RDBStorage(url)
    return RDBStorage(
        f"sqlite:///{folder.resolve() / 'study.db'}",
        engine_kwargs={"connect_args": {"factory": _DurableConnection, "timeout": 60.0}},
    )


def refuse_unusable(url: str) -> None:
    """Passes when something is installed that opens this URL; whether it answers is not tried.

    Raises:
        BadRequest: no database URL, or its driver is not installed.
    """
    try:
        create_engine(url).dispose()
    except ArgumentError as error:
        raise BadRequest(
            f"{url!r} is no database URL ({error}); write it as in sqlite:////folder/study.db or "
            "postgresql://user@host/name"
        ) from error
    except ImportError as error:
        raise BadRequest(
            f"nothing here opens {url!r}: {error}; install the database's driver"
        ) from error


def read_snapshot(folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a study holds, as `read_run` wants it; nothing is written.

    Raises:
        RunError: the study is not in its storage.
        StorageFailed: the storage cannot be read.
    """
    local = about["storage"] == LOCAL_STORAGE
    url = f"sqlite:///{folder.resolve() / 'study.db'}" if local else about["storage"]
    if local and not (folder / "study.db").is_file():
        raise RunError(f"{folder} has lost its study.db; put it back or search anew")
    refuse_unusable(url)
    with guarded(folder):
        disk = RDBStorage(url, skip_table_creation=True)
        try:
            return _snapshot(disk, disk.get_study_id_from_name(about["name"]))
        except KeyError as error:
            said = f"{folder} {NOT_BEGUN}" if local else f"{url} holds no study {about['name']!r}"
            raise RunError(said) from error
        finally:
            disk.remove_session()
            disk.engine.dispose()


def move(folder: Path, url: str) -> None:
    """Copies a run's study to another database, which holds the run from then on.

    Raises:
        RunError: a driver holds the run, or the run already lies there.
        BadRequest: the URL cannot be read, or its driver is not installed.
        StorageFailed: either database cannot be used.
    """
    about = read_about(folder)
    if about["storage"] == url:
        raise RunError(f"{folder} already lies in {url}; resume it without --storage")
    refuse_unusable(url)
    snapshot = read_snapshot(folder, about)
    storage = StudyStorage.open(folder, Header.from_json(snapshot["header"]))
    storage.close()  # nobody else held it, and what a killed driver had begun is complete
    name = _unique(snapshot["header"]["name"])
    with guarded(folder):
        target = RDBStorage(url)
        optuna.copy_study(
            from_study_name=about["name"],
            from_storage=connect(folder, about["storage"]),
            to_storage=target,
            to_study_name=name,
        )
        target.remove_session()
        target.engine.dispose()
        write_json(folder / "run.json", {**about, "name": name, "storage": url})


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Turns what a full disk or a lost database raises into an error that says what to do.

    Raises:
        StorageFailed: in place of the library's error.
    """
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, sqlite3.Error, OSError) as error:
        cause = getattr(error.__cause__ or error, "orig", None) or error.__cause__ or error
        raise StorageFailed(
            f"the records of {folder} cannot be written or read: {cause}; free some space or make "
            f"it writable, then `paretune resume {folder}`: what was stored so far is kept"
        ) from error


class _DurableConnection(sqlite3.Connection):
    """SQLite as the driver wants it; see the top of this file."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.execute("PRAGMA journal_mode=WAL")
        self.execute("PRAGMA synchronous=FULL")


def _leave_plain(path: Path) -> None:
    """Folds the write-ahead log in: an archived run must open where nothing can be written."""
    connection = sqlite3.connect(path, timeout=1.0)
    try:
        connection.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.OperationalError as error:
        # a reader that is looking right now keeps the log where it is; that is no failure
        if "locked" not in str(error):
            raise
    finally:
        connection.close()


def _about(folder: Path, header: Header, url: str | None) -> dict[str, Any]:
    """What run.json says; written first, so that a run that dies early is found again."""
    if (folder / "run.json").is_file():
        about = read_about(folder)
        if url is not None and url != about["storage"]:
            raise RunError(
                f"{folder} lies in {about['storage']}, not in {url}; resume it there, or move it "
                f"with `paretune resume {folder} --storage {url}`"
            )
        return about
    about = {"format": FORMAT, "id": uuid.uuid4().hex, "name": header.name}
    about["storage"] = url or LOCAL_STORAGE
    if url is not None:
        about["name"] = _unique(header.name)
    write_json(folder / "run.json", about)
    return about


def _unique(name: str) -> str:
    """A name for a database that holds other people's studies too."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


def _study(disk: RDBStorage, name: str, header: Header) -> int:
    directions = [
        StudyDirection.MAXIMIZE if row.direction == "maximize" else StudyDirection.MINIMIZE
        for row in header.objectives
    ]
    try:
        study_id = disk.get_study_id_from_name(name)
    except KeyError:
        study_id = disk.create_new_study(directions, name)
    stored = disk.get_study_user_attrs(study_id).get("header")
    if stored is None:
        disk.set_study_user_attr(study_id, "header", header.to_json())
        return study_id
    # through text: JSON has no tuples
    told = differences(_identity(stored), _identity(json.loads(json.dumps(header.to_json()))))
    if told:
        raise RunError(
            f"this run is of another study: {'; '.join(told)}; give another folder, "
            "or the study that it was made with"
        )
    return study_id


def _renew_header(disk: RDBStorage, study_id: int, header: Header) -> None:
    """Stores the parts that this resume has changed; only by the driver that holds the run."""
    stored = disk.get_study_user_attrs(study_id)["header"]
    study = json.loads(json.dumps(header.to_json()["study"]))
    if stored["study"] != study:
        disk.set_study_user_attr(study_id, "header", {**stored, "study": study})


def _identity(header: Mapping[str, Any]) -> dict[str, Any]:
    study = {key: part for key, part in header["study"].items() if key not in MAY_CHANGE}
    return {"study": study, "objectives": [list(row.values()) for row in header["objectives"]]}


def differences(there: Any, here: Any, path: str = "") -> list[str]:
    """Where two JSON values differ, as `path: this there, that here`.

    >>> differences({"seed": 0, "task": {"name": "a"}}, {"seed": 1, "task": {"name": "a"}})
    ['seed: 0 there, 1 here']
    """
    if there == here:
        return []
    if not (isinstance(there, Mapping) and isinstance(here, Mapping)):
        return [f"{path}: {there!r} there, {here!r} here"]
    found = []
    for key in sorted({*there, *here}):
        inner = f"{path}.{key}" if path else str(key)
        found += differences(there.get(key), here.get(key), inner)
    return found


def _constrain(
    storage: BaseStorage, name: str, trial_id: int, violations: Mapping[str, float]
) -> None:
    if violations:
        study = optuna.load_study(study_name=name, storage=storage, sampler=RandomSampler())
        trial = Trial(study, trial_id)
        known = trial.constraints  # a driver that died may have set some
        for limit in sorted(set(violations) - set(known)):
            trial.set_constraint(limit, violations[limit])


def _snapshot(disk: RDBStorage, study_id: int) -> dict[str, Any]:
    attributes = disk.get_study_user_attrs(study_id)
    if "header" not in attributes:
        raise RunError(f"this run {NOT_BEGUN}")
    trials = disk.get_all_trials(study_id, deepcopy=False)
    repeats = _confirmations(attributes)
    return {
        "format": FORMAT,
        "header": attributes["header"],
        "notes": _notes(attributes),
        "records": [trial.user_attrs["record"] for trial in trials],
        "confirmations": {n: [r.to_json() for r in rows] for n, rows in repeats.items()},
        "spent_seconds": spent_seconds(attributes.get("lease")),
        "held": attributes.get("lease"),
    }


def _notes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {k.removeprefix("note:"): v for k, v in attributes.items() if k.startswith("note:")}


def _confirmations(attributes: Mapping[str, Any]) -> dict[int, tuple[Record, ...]]:
    found: dict[int, list[tuple[int, Record]]] = {}
    for key, data in attributes.items():
        if key.startswith("confirmation:"):
            _, number, repeat = key.split(":")
            found.setdefault(int(number), []).append((int(repeat), Record.from_json(data)))
    ordered = {n: sorted(rows, key=lambda row: row[0]) for n, rows in found.items()}
    return {n: tuple(record for _, record in rows) for n, rows in ordered.items()}
