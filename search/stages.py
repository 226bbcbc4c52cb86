"""The stage store: what trials share, made once, found by key.

    ROOT/stages/KEY/        the files of a stage, and stage.json (step, sizes, seconds)
    ROOT/costs/KEY.json     what it cost; kept when the stage is evicted
    ROOT/locks/KEY.lock     held by the one process that makes it
    ROOT/locks/KEY.readers  held together by those who read it: it is not evicted
    ROOT/making/            half-written stages, named HOST-PID-ID; swept when their maker is gone

A stage is written beside and renamed into place, so a half-written one is never found. Losing a
stage loses time, never results: everything can be made again from its key's graph.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shutil
import socket
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import BadRequest, StorageFailed
from ..evaluators.waits import WAITS
from ..spaces.steps import Key

DEFAULT_LIMIT_BYTES: Final = 20_000_000_000
POLL_SECONDS: Final = 0.05
DAY_SECONDS: Final = 86400.0
ABANDONED_SECONDS: Final = 2 * DAY_SECONDS
"""A stage in the making for longer than this is swept, whoever makes it."""


@dataclass(frozen=True)
class StageNote:
    """What is known of a stage: its step, what it cost, what it holds.

    Args:
        key, step: its name and the step that made it.
        seconds: wall time of that step alone.
        trains: gradients flowed. training: the long training it is part of, if any.
        sizes: bytes of each file, by relative name; empty once evicted.
    """

    key: Key
    step: str
    seconds: float
    trains: bool
    training: str | None
    sizes: tuple[tuple[str, int], ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes of all files together."""
        return sum(size for _, size in self.sizes)


def cache_root() -> Path:
    """Where stages lie: `$PARETUNE_CACHE`, else the user's cache folder."""
    given = os.environ.get("PARETUNE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(given) if given else Path(base) / "paretune"


class StageStore:
    """Finds stages or makes them, one maker a key, shared by every run of this user.

    Args:
        root: the store's folder, made if missing.
        limit_bytes: above this the stages least worth their room are evicted; None:
            `$PARETUNE_CACHE_LIMIT_GB`, else 20 GB.

    Raises:
        BadRequest: the root is no folder, or the limit no size.
        StorageFailed: the folder cannot be written.
    """

    def __init__(self, root: Path, limit_bytes: int | None = None) -> None:
        self.root = root
        self.limit_bytes = _given_limit() if limit_bytes is None else limit_bytes
        with _storage_errors(root):
            for name in ("stages", "costs", "locks", "making"):
                _make_folder(root / name)
        self._read: dict[Key, int] = {}
        weakref.finalize(self, _close_all, self._read)

    def find(self, key: Key) -> Path | None:
        """The folder of a stage, which stays until `release`; None where it is not (any more)."""
        self._hold(key)
        folder, note = self.root / "stages" / key, self._note(key)
        if note is None or any(_size(folder / name) != size for name, size in note.sizes):
            os.close(self._read.pop(key))
            return None
        os.utime(folder / "stage.json")
        return folder

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Releases at the end what was found or made inside."""
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Lets stages be evicted again that were found or made through this object."""
        _close_all(self._read)

    def cost(self, key: Key) -> StageNote | None:
        """What a stage cost when it was made, also after eviction; None: never made here."""
        path = self._cost_file(key)
        return _read_note(path) if path.is_file() else None

    def made_since(self, key: Key, moment: float) -> bool:
        """Whether a stage was made, for the first time or again, at or after a unix time."""
        path = self._cost_file(key)
        return path.is_file() and path.stat().st_mtime >= moment

    def make(
        self,
        key: Key,
        step: str,
        write: Callable[[Path], StageCostFacts],
        waiting: Callable[[], object] = lambda: None,
    ) -> tuple[Path, StageNote, bool]:
        """Finds a stage, or makes it; a second process that wants it waits for the first.

        Args:
            key, step: what is to be made, and by which step.
            write: fills an empty folder; returns what it cost.
            waiting: called again and again while another process makes it; whoever holds the host
                must give its turn there, or a measurement and a maker wait for each other.

        Returns:
            The stage's folder, which stays until `release`; its note; and whether it was found
            (True) or made here (False).

        Raises:
            StorageFailed: the disk is full or read-only.
        """
        with self._maker(key, waiting):
            found = self.find(key)
            if found is not None:
                note = self._note(key)
                assert note is not None
                return found, note, True
            with _storage_errors(self.root):
                note = self._write(key, step, write)
            self._hold(key)
        self.evict()
        return self.root / "stages" / key, note, False

    def record(self, key: Key, step: str, facts: StageCostFacts) -> StageNote:
        """Keeps what a stage cost that is not worth storing: it is made again when needed."""
        note = StageNote(key, step, facts.seconds, facts.trains, facts.training)
        with _storage_errors(self.root):
            _replace_json(self._cost_file(key), _note_json(note))
        return note

    def entries(self) -> list[StageNote]:
        """Every stage that is there, the one least worth its room first.

        A stage is worth the seconds that a byte of it took to make, half as much for every day that
        nobody used it (after GreedyDual-Size, Cao and Irani 1997): a training outlives the hundreds
        of artifacts that are written from it in a second each. Of equals the one used longest ago.
        """
        found, now = [], time.time()
        for path in (self.root / "stages").glob("*/stage.json"):
            with suppress(FileNotFoundError):  # another process evicted it just now
                used, note = path.stat().st_mtime, _read_note(path)
                fresh = 0.5 ** (max(0.0, now - used) / DAY_SECONDS)
                found.append((fresh * note.seconds / max(1, note.bytes), used, note))
        return [note for *_, note in sorted(found, key=lambda row: row[:2])]

    def evict(self, limit_bytes: int | None = None) -> list[Key]:
        """Removes stages that nobody reads, the least worth its room first, until the rest fits.

        Args:
            limit_bytes: of all stages; None: the store's own.

        Returns:
            The keys of those removed.
        """
        limit = self.limit_bytes if limit_bytes is None else limit_bytes
        entries = self.entries()
        total, gone = sum(note.bytes for note in entries), list[Key]()
        for note in entries:
            if total <= limit:
                break
            if not self._remove(note.key):
                continue
            total -= note.bytes
            gone.append(note.key)
        return gone

    def sweep(self) -> None:
        """Removes what makers that are gone left half-written.

        The root may be shared between hosts, and only this one's processes can be seen from here.
        """
        for path in (self.root / "making").iterdir():
            with suppress(FileNotFoundError):
                if _abandoned(path):
                    shutil.rmtree(path, ignore_errors=True)

    def _cost_file(self, key: Key) -> Path:
        return self.root / "costs" / f"{key}.json"

    def _hold(self, key: Key) -> None:
        if key not in self._read:
            path = self.root / "locks" / f"{key}.readers"
            self._read[key] = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
            fcntl.flock(self._read[key], fcntl.LOCK_SH)  # waits only while it is being removed

    def _remove(self, key: Key) -> bool:
        """Removes a stage unless somebody makes or reads it, this very store among them."""
        lock = self.root / "locks" / f"{key}.lock"
        with lock.open("w") as maker, lock.with_suffix(".readers").open("w") as readers:
            try:
                for handle in (maker, readers):
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            grave = self.root / "making" / _own_name()
            with suppress(FileNotFoundError):  # another process evicted it just now
                (self.root / "stages" / key).rename(grave)
            shutil.rmtree(grave, ignore_errors=True)
        return True

    def _write(self, key: Key, step: str, write: Callable[[Path], StageCostFacts]) -> StageNote:
        folder = self.root / "making" / _own_name()
        folder.mkdir()
        try:
            facts = write(folder)
            sizes = tuple(
                (str(path.relative_to(folder)), path.stat().st_size)
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            )
            note = StageNote(key, step, facts.seconds, facts.trains, facts.training, sizes)
            _replace_json(folder / "stage.json", _note_json(note))
            _replace_json(self._cost_file(key), _note_json(note))
            target = self.root / "stages" / key
            if target.exists():  # damaged: `find` refused it
                shutil.rmtree(target)
            folder.rename(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return note

    def _note(self, key: Key) -> StageNote | None:
        path = self.root / "stages" / key / "stage.json"
        return _read_note(path) if path.is_file() else None

    @contextmanager
    def _maker(self, key: Key, waiting: Callable[[], object]) -> Iterator[None]:
        with (self.root / "locks" / f"{key}.lock").open("w") as handle:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    waiting()
                    with WAITS.waiting():
                        time.sleep(POLL_SECONDS)
            yield


@dataclass(frozen=True)
class StageCostFacts:
    """What making a stage cost: seconds of its own step, and what kind of work it was."""

    seconds: float
    trains: bool = False
    training: str | None = None


@contextmanager
def _storage_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT}:
            raise
        raise StorageFailed(
            f"cannot write stages under {root}: {error.strerror}; free space there, or set "
            "PARETUNE_CACHE to a folder on another disk and resume"
        ) from error


def _close_all(handles: dict[Key, int]) -> None:
    while handles:
        os.close(handles.popitem()[1])


def _note_json(note: StageNote) -> str:
    return json.dumps(vars(note))


def _read_note(path: Path) -> StageNote:
    data = json.loads(path.read_text())
    sizes = tuple((name, size) for name, size in data["sizes"])
    return StageNote(
        data["key"], data["step"], data["seconds"], data["trains"], data["training"], sizes
    )


def _replace_json(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    part.replace(path)


def _given_limit() -> int:
    given = os.environ.get("PARETUNE_CACHE_LIMIT_GB")
    if not given:
        return DEFAULT_LIMIT_BYTES
    try:
        gigabytes = float(given)
    except ValueError:
        gigabytes = math.nan
    if not 0 <= gigabytes < math.inf:
        raise BadRequest(
            f"PARETUNE_CACHE_LIMIT_GB is {given!r}; it takes gigabytes, a number of at least 0 "
            "such as 20 or 0.5; correct it or unset it"
        )
    return int(gigabytes * 1e9)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise BadRequest(
            f"stages cannot lie in {folder.parent}: it is, or is inside, a file; set "
            "PARETUNE_CACHE to a folder, there already or not"
        ) from error


def _own_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"


def _abandoned(path: Path) -> bool:
    if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
        return True
    host, _, pid = path.name.rpartition("-")[0].rpartition("-")
    return host == socket.gethostname() and not _alive(int(pid))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
