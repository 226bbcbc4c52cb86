"""Every error that paretune raises for a person to read, as one tree.

    ParetuneError
    ├── BadRequest            the request was wrong; nothing ran            (exit 2)
    │   ├── UnknownName       a name that no table holds; says the nearest
    │   ├── StudyError        the study file: a key, a unit, a limit
    │   ├── ModelError        a model folder or hub id that cannot be used
    │   ├── DataError         a data set that cannot be used
    │   └── RunError          a run folder: missing, another study's, in use
    └── WorkFailed            the request was right, the work was not        (exit 1)
        ├── StepFailed        one step of one configuration, with its kind
        ├── StorageFailed     disk full, read-only, a broken database
        └── VerificationFailed  an artifact that is not what it claims

A message says what is wrong, the value, what is allowed and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Final, Literal

FailureKind = Literal["out_of_memory", "timeout", "diverged", "crashed", "illegal"]

LIKE: Final = 0.5
"""Share of letters in common from which a name is taken for a misspelling of another."""


class ParetuneError(Exception):
    """Any failure that paretune explains itself; `exit_code` is what the command line returns.

    Its arguments are what is wrong, a text each: one, or all the faults of one request.
    """

    exit_code = 1

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class BadRequest(ParetuneError):
    """The request was wrong: nothing was started."""

    exit_code = 2


class UnknownName(BadRequest):
    """A name that no table holds.

    Args:
        what: the kind of name, such as "technique" or "metric".
        name: what was given.
        known: every name that would have been accepted, the usual ones first: of two that are
            equally near, the first is suggested.

    >>> str(UnknownName("metric", "acuracy", ["accuracy", "flops"]))
    "unknown metric 'acuracy'; did you mean 'accuracy'? known: accuracy, flops"
    """

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        names = list(known)
        near = nearest(name, names)
        hint = f"; did you mean {near!r}?" if near else ";"
        super().__init__(f"unknown {what} {name!r}{hint} known: {', '.join(sorted(names))}")


class StudyError(BadRequest):
    """The study file asks for something that cannot be."""


class ModelError(BadRequest):
    """The model cannot be used as it was given."""


class DataError(BadRequest):
    """The data cannot be used as it was given."""


class RunError(BadRequest):
    """The run folder is missing, belongs to another study, or is in use."""


class WorkFailed(ParetuneError):
    """The request was right, the work was not."""


class StepFailed(WorkFailed):
    """One step of one configuration failed; `kind` decides whether it is ever asked again."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind

    def __reduce__(self) -> tuple[type[StepFailed], tuple[FailureKind, str]]:
        return (StepFailed, (self.kind, str(self)))


class StorageFailed(WorkFailed):
    """A record or a stage could not be written or read back."""


class VerificationFailed(WorkFailed):
    """An artifact is not what its description claims."""


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name that is most like one, the first of several; None where none is like it.

    >>> nearest("latency", ["latency_p50", "latency_p95"]), nearest("xyz", ["latency_p50"])
    ('latency_p50', None)
    """
    alike = difflib.SequenceMatcher(b=name)

    def likeness(one: str) -> float:
        alike.set_seq1(one)
        return alike.ratio()

    best = max(known, key=likeness, default="")
    return best if likeness(best) >= LIKE else None


_NO_MEMORY: Final = ("allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, the machine's or a GPU's, whoever raised it.

    >>> ran_out_of_memory(RuntimeError("CUDA error: out of memory")), ran_out_of_memory(KeyError())
    (True, False)
    """
    # torch is not imported for its class, and its CPU allocator and CUDA's libraries raise others
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or any(words in str(error) for words in _NO_MEMORY)
