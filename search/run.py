"""Run: what a run folder holds, read back for reports, selection and export.

RUN/study.yaml        the study as resolved
RUN/study.db          the Optuna study (another storage: its URL stands in run.json)
RUN/run.json          study name, storage URL, format version
RUN/environment.json  versions, hardware, meters found
RUN/samples/          raw samples and per-item predictions, by digest
RUN/log.jsonl         what happened, one event a line
RUN/report.html       the page
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .records import Record


@dataclass(frozen=True)
class ObjectiveRow:
    """One objective of a run: a metric with its direction and unit, as the catalogue has it."""

    name: str
    unit: str
    direction: str


@dataclass(frozen=True)
class Run:
    """A run, read.

    Args:
        folder: where it lies.
        name: the study's name.
        study: the resolved study file, as data.
        objectives: in the study's order.
        metrics: unit, direction, resource, definition of every metric with a figure, by name.
        constraints: as the study file writes them, resolved against the baseline where needed.
        records: every search trial, in the order of their numbers.
        baseline: trial 0, None before it ended.
        confirmations: repeats and test-split records of front points, by trial number.
        reference: the hypervolume's reference point, frozen; None before the initial design ended.
        environment: versions, hardware, meters found.
        bill: hours, kWh, kg CO2e, money of the search so far, each a Measurement in JSON.
        refused: draws that never became trials, by reason.
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
