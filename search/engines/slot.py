"""Slot: one place for work, a process of its own that may die without taking the search along.

The process is spawned, never forked (threads, CUDA), starts with one thread per library, ignores
Ctrl-C (its parent decides), and is killed with all its children when a trial exceeds its limits.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from ctypes import Array, c_double
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Final

import psutil

from ...errors import FailureKind, StorageFailed, WorkFailed
from ...evaluators.waits import WAITS, Waits
from ..events import Event
from ..records import Ask, Record
from .attempt import Work, attempt, failed

THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_POLL_SECONDS: Final = 0.5

WEIGH_SECONDS: Final = 0.5
"""How often a worker's memory is looked at: reading the table of processes takes milliseconds."""


@dataclass(frozen=True)
class Limits:
    """What one trial may use; None: no limit.

    Args:
        seconds: wall time of one ask, less what it waited for others.
        memory_bytes: resident memory of the worker and its children.
        threads: CPU threads of the numerical libraries.
    """

    seconds: float | None = None
    memory_bytes: int | None = None
    threads: int = 1


@dataclass(frozen=True)
class _Job:
    ask: Ask
    prior: Record | None
    started: float
    waited: float  # by the process, before this job


class Slot:
    """A worker process, started when it is first needed and again after every death.

    Args:
        work: pickled `Work`, unpickled once per process.
        limits: of every trial.
    """

    def __init__(self, work: bytes, limits: Limits) -> None:
        self._work = work
        self._limits = limits
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._job: _Job | None = None
        self._waits = Waits()  # the process's
        self._served = False
        self._weighed = -math.inf

    @property
    def busy(self) -> bool:
        """It has an ask that was not answered yet."""
        return self._job is not None

    def handles(self) -> list[Connection | int]:
        """What becomes ready when there is news, for `multiprocessing.connection.wait`."""
        if self._process is None or self._connection is None:
            return []
        return [self._connection, self._process.sentinel]

    def give(self, ask: Ask, prior: Record | None) -> None:
        """Starts on an ask; the slot must be free."""
        if self._process is None or not self._process.is_alive():
            self._start()
        assert self._connection is not None
        self._job = _Job(ask, prior, time.time(), self._waits.seconds())
        # if it died between two trials, `news` finds out
        with suppress(BrokenPipeError, ConnectionResetError):
            self._connection.send((ask, prior))

    def news(self) -> Iterator[Event | Record]:
        """What has come in since: progress, and the record when the ask is answered.

        Raises:
            WorkFailed: the process cannot start at all.
            StorageFailed: it could not write; the ask stays unanswered.
        """
        job = self._job
        if job is None or self._connection is None or self._process is None:
            return
        dead = not self._process.is_alive()  # before reading: its last words count
        for message in _messages(self._connection):
            self._served = True
            if isinstance(message, StorageFailed):
                raise message
            if isinstance(message, Record):
                self._job = None
            if message is not None:
                yield message
        if self._job is None:
            return
        ending = self._died() if dead else self._exceeded(job)
        if ending is not None:
            self.stop()
            self._job = None
            yield failed(job.ask, job.prior, *ending, job.started, self._waited(job))

    def stop(self) -> None:
        """Kills the process and its children, now. An unanswered ask stays unanswered."""
        if self._process is not None:
            _kill(self._process)
        if self._connection is not None:
            self._connection.close()
        self._process, self._connection = None, None

    def _start(self) -> None:
        self.stop()
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        cells = context.RawArray(c_double, 2)
        process = context.Process(target=serve, args=(theirs, self._work, cells), daemon=True)
        variables = {name: str(self._limits.threads) for name in THREAD_VARIABLES}
        with _environment(variables), _importable_main():
            process.start()
        theirs.close()
        self._process, self._connection, self._served = process, ours, False
        self._waits = Waits(cells)

    def _died(self) -> tuple[FailureKind, str]:
        assert self._process is not None
        self._process.join()
        code = self._process.exitcode
        if not self._served:
            raise WorkFailed(
                f"a worker process ended with {code} before it began: see its message above; a "
                "script that searches must do so under `if __name__ == '__main__':`, and a "
                "function that it evaluates must be importable"
            )
        how = f"signal {signal.Signals(-code).name}" if code and code < 0 else f"exit code {code}"
        return "crashed", f"the worker process ended with {how}"

    def _waited(self, job: _Job) -> float:
        return self._waits.seconds() - job.waited

    def _exceeded(self, job: _Job) -> tuple[FailureKind, str] | None:
        assert self._process is not None
        now, limit = time.time(), self._limits.seconds
        if limit is not None and now - job.started - self._waited(job) > limit:
            return "timeout", f"not done after {limit:g} s of its own; raise `trial.timeout`"
        memory = self._limits.memory_bytes
        if memory is None or now - self._weighed < WEIGH_SECONDS:
            return None
        self._weighed = now
        used = resident_bytes(self._process.pid)
        if used > memory:
            return "out_of_memory", (
                f"the worker held {used / 1e9:.2f} GB of {memory / 1e9:.2f}; raise `trial.memory`"
            )
        return None


def serve(connection: Connection, work: bytes, cells: Array[c_double]) -> None:
    """The worker process: answers asks until its parent is gone.

    Args:
        connection: to the parent; asks come in, events and records go out.
        work: pickled `Work`.
        cells: where the parent reads what this process waits.
    """
    WAITS.cells = cells
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, args=(os.getppid(),), daemon=True).start()
    todo: Work = pickle.loads(work)
    connection.send(None)  # it has begun: whatever happens from here on is the trial's doing
    while True:
        try:
            ask, prior = connection.recv()
        except (EOFError, ConnectionResetError):
            return

        def report(what: str, done: int, total: int, number: int = ask.number) -> None:
            connection.send(Event("step", what, number, done, total))

        try:
            connection.send(attempt(todo, ask, prior, report))
        except StorageFailed as error:
            connection.send(error)


def resident_bytes(pid: int | None) -> int:
    """Resident memory of a process and its children; 0 when it is gone."""
    total = 0
    for process in _family(pid):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def _family(pid: int | None) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return []


def _kill(process: BaseProcess) -> None:
    for member in _family(process.pid):
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.join()


def _messages(connection: Connection) -> Iterator[Event | Record | StorageFailed | None]:
    try:
        while connection.poll():
            yield connection.recv()
    except (EOFError, OSError):  # OSError: it died in the middle of a message
        return


def _die_with_parent(parent: int) -> None:
    """A driver that is killed cannot stop its workers, so they watch for it."""
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(1)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets variables for processes that are started inside; libraries read them on import."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _importable_main() -> Iterator[None]:
    """Keeps a spawned process from importing a main module that was not read from a file of ours.

    A Ray worker's own script would be imported again: 10 s for nothing.
    """
    main = sys.modules["__main__"]
    if not str(getattr(main, "__file__", "")).endswith("default_worker.py"):
        yield
        return
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
