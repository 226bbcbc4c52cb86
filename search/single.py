"""One model measured as it is, without a search."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..spaces.configuration import Configuration
from .records import Ask
from .stages import StageStore, cache_root
from .study import Study, load_study
from .subject import load_material
from .trial import Laboratory, figures


def evaluate_model(model: str, task: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Every figure that can be had of one model: on the test split, eager, nothing changed.

    Args:
        model: hub id or folder.
        task: as a study file names it.
        overrides: further lines of a study, `a.b=value`: `workload.batch=8`, `task.max_length=64`.

    Returns:
        Metric name to Measurement, JSON-ready.

    Raises:
        BadRequest: the model or the data cannot be used.
    """
    study = single_study(model, task, overrides)
    store = StageStore(cache_root())
    material = load_material(study, store.root / "data")
    with store.reading(), tempfile.TemporaryDirectory() as scratch:
        laboratory = Laboratory(study, material, store, Path(scratch), uuid.uuid4().hex)
        ask = Ask(0, Configuration(), 0, study.seed, "confirm")
        graph, artifact, shop = laboratory.make(ask, 0, _silent)
        gatherer = laboratory.gatherer(_silent)
        evidence, _ = gatherer.gather(graph, artifact, shop.costs(), "test", 1.0)
        evidence = replace(evidence, peak=gatherer.peak(artifact))
    return {name: figure.to_json() for name, figure in figures(evidence, "test").items()}


def single_study(model: str, task: str, overrides: Sequence[str] = ()) -> Study:
    """A study about one model, for what is computed without a search."""
    data = {"model": model, "task": {"name": task}, "objectives": ["parameters"]}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "study.yaml"
        path.write_text(json.dumps(data))  # JSON is YAML
        return load_study(path, overrides)


def _silent(what: str, done: int, total: int) -> None:
    pass
