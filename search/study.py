"""The study file: everything that a search is told, strict, frozen, JSON both ways."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from ..evaluators.tasks.local import is_local
from .limits import Limit, parse_limit
from .run import ObjectiveRow
from .study_checks import problems
from .study_faults import beside, in_words
from .study_sections import (
    BudgetSection,
    ConfirmSection,
    CustomMetric,
    EngineSection,
    FidelitySection,
    Section,
    SettingsSection,
    TaskSection,
    TrialSection,
    WorkloadSection,
)
from .study_yaml import Document, read_study_file, write_yaml


class Study(Section):
    """A study; made by `load_study` or `Study.from_dict`, which check what one section cannot."""

    model: Annotated[str, Field(min_length=1)]
    """Hub id, local folder, or `scratch`."""
    task: TaskSection
    """What the model is for."""
    workload: WorkloadSection = WorkloadSection()
    """The use for which speed and memory are judged."""
    objectives: Annotated[tuple[str, ...], Field(min_length=1)]
    """Metrics whose trade-off is searched; their directions are in the catalogue."""
    constraints: tuple[str, ...] = ()
    """Limits such as `model_bytes <= 40 MB` or `accuracy >= 0.95 * baseline`."""
    space: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Slot to `{methods: [names], METHOD: {knob: [low, high] | value | {values: [...]}}}`; a slot
    that is left out stays as it is."""
    fidelity: FidelitySection = FidelitySection()
    """Rungs."""
    budget: BudgetSection = BudgetSection(trials=40)
    """When the search ends."""
    confirm: ConfirmSection = ConfirmSection()
    """How the finished front is confirmed."""
    trial: TrialSection = TrialSection()
    """Limits of one trial."""
    engine: EngineSection = EngineSection()
    """What runs the trials."""
    sampler: str = "greybox"
    """Which configuration is tried next."""
    enqueue: tuple[dict[str, Any], ...] = ()
    """Known configurations to try first: slot to `{method: NAME, knob: value}`."""
    warm_start: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Folders of earlier runs, of any model, device or task, whose figures guide the first trials;
    left out: nothing is taken from other runs."""
    deploy: tuple[str, ...] = ()
    """Export formats that must be able to hold every result."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of everything that draws."""
    settings: SettingsSection = SettingsSection()
    """Region, prices and overheads for modelled metrics."""
    custom_metrics: dict[str, CustomMetric] = Field(default_factory=dict)
    """Figures that the function given as `evaluate` returns."""
    allow_pickle: bool = False
    """Also take weights from `pytorch_model.bin`."""
    trust_remote_code: bool = False
    """Let the model's own code run."""

    @staticmethod
    def from_dict(data: Mapping[str, Any], folder: Path | None = None) -> Study:
        """A study from plain data, as `to_json` gives it.

        Args:
            data: sections by name.
            folder: paths that exist in it become absolute, as in `load_study`; None: all stay.

        Raises:
            StudyError: as for `load_study`; without lines.
        """
        return _checked(Document(dict(data)), folder)

    def to_json(self) -> dict[str, Any]:
        """The study as resolved, JSON-ready; `from_dict` reads it back."""
        data: dict[str, Any] = self.model_dump(mode="json", exclude_none=True)
        return data

    def dump_yaml(self) -> str:
        """The study as resolved, as a study file."""
        return write_yaml(self.to_json())

    def units(self) -> dict[str, str]:
        """Unit of every metric that the study may name."""
        from ..evaluators.catalogue import metrics

        own = {name: row.unit for name, row in self.custom_metrics.items()}
        return {**{name: row.unit for name, row in metrics().items()}, **own}

    def limits(self) -> tuple[Limit, ...]:
        """The constraints, parsed."""
        units = self.units()
        return tuple(parse_limit(text, units) for text in self.constraints)

    def asked(self) -> tuple[str, ...]:
        """Metrics that every trial needs a figure of: the objectives, then what is limited."""
        return (*self.objectives, *(limit.metric for limit in self.limits()))

    def objective_rows(self) -> tuple[ObjectiveRow, ...]:
        """Name, unit and direction of the objectives, in their order."""
        from ..evaluators.catalogue import metrics

        return tuple(
            ObjectiveRow(name, row.unit, row.direction)
            for name in self.objectives
            for row in (self.custom_metrics.get(name) or metrics()[name],)
        )


def load_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """A study file, checked as far as it can be without the model and the data.

    Paths in it that exist beside the file, or else in the current folder, become absolute.

    Args:
        path: the YAML file.
        overrides: `a.b=value` each, the value in YAML; they win over the file.

    Raises:
        StudyError: everything that is wrong, each with its line, what is allowed and the nearest
            spelling.
    """
    document = read_study_file(path, overrides)
    return _checked(document, path.parent)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the study file, with the metrics and slots of this installation."""
    from ..evaluators.catalogue import metrics
    from ..spaces.slots import slots

    schema = Study.model_json_schema()
    fields = schema["properties"]
    fields["objectives"]["examples"] = [list(metrics())]
    fields["space"]["propertyNames"] = {"enum": list(slots())}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _checked(document: Document, folder: Path | None = None) -> Study:
    data = document.data if folder is None else _anchored(document.data, folder)
    try:
        study = _validated(data)
    except ValidationError as error:
        found = [in_words(details, Study) for details in error.errors()]
        document.refuse([*found, *beside(data, error, _validated)])
        raise
    document.refuse(problems(study))
    return study


def _validated(data: Mapping[str, Any]) -> Study:
    # Through JSON: lists become tuples there without giving up strictness elsewhere.
    return Study.model_validate_json(json.dumps(data))


def _anchored(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Local paths made absolute, so that a run can be resumed from anywhere."""
    data = dict(data)
    if isinstance(data.get("model"), str):
        data["model"] = _absolute(data["model"], folder)
    task = data.get("task")
    if isinstance(task, dict):
        task = dict(task)
        name, files = task.get("name"), task.get("files")
        if isinstance(name, str) and not files and (is_local(name) or "/" in name):
            task["name"] = _absolute(name, folder)
        if isinstance(files, dict):
            task["files"] = {
                k: _absolute(v, folder) if isinstance(v, str) else v for k, v in files.items()
            }
        data["task"] = task
    if isinstance(data.get("warm_start"), list):
        runs = data["warm_start"]
        data["warm_start"] = [_absolute(r, folder) if isinstance(r, str) else r for r in runs]
    return data


def _absolute(name: str, folder: Path) -> str:
    places = (folder / Path(name).expanduser(), Path(name).expanduser())
    return next((str(place.resolve()) for place in places if place.exists()), name)
