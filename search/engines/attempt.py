"""Attempt: the work of one ask, done here and now; whatever goes wrong comes back as data.

But for a full or read-only disk: that is nobody's failure, and would be every further trial's.
"""

from __future__ import annotations

import errno
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from ...errors import FailureKind, StepFailed, StorageFailed, ran_out_of_memory
from ...evaluators.waits import WAITS
from ..events import Report, paced
from ..records import Ask, Failure, Record

FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""A disk that takes nothing more."""

Work = Callable[[Ask, Record | None, Report], Record]
"""Makes and judges one configuration; runs in a worker, so it must be picklable.

It gets the ask, the trial's record so far, and where to report progress. It returns the record with
a further rung, or with a failure; the driver decides the state."""


def attempt(work: Work, ask: Ask, prior: Record | None, report: Report) -> Record:
    """What came of an ask.

    Args:
        work: what is to be done.
        ask: for which configuration.
        prior: the trial's record so far.
        report: told about progress.

    Raises:
        StorageFailed: the disk is full or cannot be written; the ask stays unanswered.
    """
    started, before = time.time(), WAITS.seconds()

    def fell(kind: FailureKind, message: str) -> Record:
        return failed(ask, prior, kind, message, started, WAITS.seconds() - before)

    try:
        record = work(ask, prior, paced(report))
    except StepFailed as error:
        return fell(error.kind, str(error))
    except StorageFailed:
        raise
    except OSError as error:
        if error.errno in FULL:
            raise StorageFailed(
                f"cannot write {error.filename or 'a file'}: {error.strerror}; free space there, "
                "then resume: what was under way is made again"
            ) from error
        return fell("crashed", traceback.format_exc(limit=-8))
    except Exception as error:  # the trial's failure is data; the search goes on
        if ran_out_of_memory(error):
            return fell("out_of_memory", str(error) or "out of memory")
        return fell("crashed", traceback.format_exc(limit=-8))
    if record.number != ask.number or not (record.rungs or record.failure):
        said = "another trial" if record.number != ask.number else "neither a figure nor a failure"
        return fell("crashed", f"the work returned {said}")
    return record


def failed(
    ask: Ask,
    prior: Record | None,
    kind: FailureKind,
    message: str,
    started: float,
    waited: float = 0.0,
) -> Record:
    """The record of an ask that failed.

    Args:
        ask: what was asked.
        prior: the trial's record so far.
        kind: of the failure.
        message: for a person.
        started: unix time at which this attempt began.
        waited: seconds since then in which it waited for others.
    """
    now = time.time()
    before = prior or Record(ask.number, ask.configuration, "running", ask.seed, ask.purpose)
    return replace(
        before,
        state="failed",
        failure=Failure(kind, message),
        seconds=before.seconds + now - started - waited,
        started=before.started or started,
        finished=now,
    )
