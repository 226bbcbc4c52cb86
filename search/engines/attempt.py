"""Attempt: the work of one ask, done here and now; whatever goes wrong comes back as data."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import replace

from ...errors import FailureKind, StepFailed
from ..events import Report
from ..records import Ask, Failure, Record

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
    """
    started = time.time()
    try:
        record = work(ask, prior, report)
    except StepFailed as error:
        return failed(ask, prior, error.kind, str(error), started)
    except MemoryError as error:
        return failed(ask, prior, "out_of_memory", str(error) or "out of memory", started)
    except Exception:  # the trial's failure is data; the search goes on
        return failed(ask, prior, "crashed", traceback.format_exc(limit=-8), started)
    if record.number != ask.number or not (record.rungs or record.failure):
        said = "another trial" if record.number != ask.number else "neither a figure nor a failure"
        return failed(ask, prior, "crashed", f"the work returned {said}", started)
    return record


def failed(
    ask: Ask, prior: Record | None, kind: FailureKind, message: str, started: float
) -> Record:
    """The record of an ask that failed.

    Args:
        ask: what was asked.
        prior: the trial's record so far.
        kind: of the failure.
        message: for a person.
        started: unix time at which this attempt began.
    """
    now = time.time()
    before = prior or Record(ask.number, ask.configuration, "running", ask.seed, ask.purpose)
    return replace(
        before,
        state="failed",
        failure=Failure(kind, message),
        seconds=before.seconds + now - started,
        started=before.started or started,
        finished=now,
    )
