"""The sections of the study file, one strict model each.

A model checks what can be checked alone; names in tables and what several sections must agree on is
`study_checks.py`'s work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ..evaluators.tasks import TaskSpec
from ..evaluators.tasks.spec import DEFAULT_SHARES
from ..spaces.paper import Workload
from ..spaces.task import TaskKind
from .budget import Budget
from .fidelity import PROMOTED
from .limits import convert

Split = Literal["train", "calibration", "validation", "test"]
Carved = Literal["calibration", "validation", "test"]
Positive = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(gt=0)]
_QUANTITY = re.compile(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]+)\s*")


class Section(BaseModel):
    """What all sections share: frozen, no unknown keys, no silent conversions."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


def quantity(text: str, unit: str) -> float:
    """A number with its unit as a figure in another unit.

    Raises:
        ValueError: not of the form, a unit of another kind, or not above 0.

    >>> quantity("5 min", "second")
    300.0
    """
    parts = _QUANTITY.fullmatch(text)
    example = {"second": "5 min", "byte": "4 GB"}[unit]
    if parts is None:
        raise ValueError(f"{text!r} is no number with a unit; write for example {example!r}")
    try:
        value = convert(float(parts[1]), parts[2], unit)
    except ValueError as error:
        raise ValueError(f"{error}; write for example {example!r}") from error
    if value <= 0:
        raise ValueError(f"{text!r} must be above 0")
    return value


def _duration(text: str) -> str:
    quantity(text, "second")
    return text


def _size(text: str) -> str:
    quantity(text, "byte")
    return text


def _listed(value: object) -> object:
    """One name alone is a list of one."""
    return (value,) if isinstance(value, str) else value


Duration = Annotated[str, AfterValidator(_duration)]
Size = Annotated[str, AfterValidator(_size)]
Columns = Annotated[
    tuple[str, ...], Field(strict=False, max_length=2), BeforeValidator(_listed, str | list[str])
]


class TaskSection(Section):
    """What the model is for: which data, and how it is split."""

    name: Annotated[str, Field(min_length=1)]
    """`docstrings`, a csv, tsv, jsonl or txt file (.gz too), a folder of split files,
    `hub:NAME[:CONFIG]`, `module:function`, or an added task."""
    max_length: Annotated[int, Field(ge=2)] = 32
    """Tokens per item."""
    kind: TaskKind | None = None
    """Left out: classification where there is a label column, else language modelling."""
    text: Columns = ()
    """The text column, or two for sentence pairs; left out: `text`, else `sentence`."""
    label: str | None = None
    """The label column; left out: `label`."""
    group: str | None = None
    """Rows that share this column's value never land in two splits."""
    split: str | None = None
    """The column that names each row's split; left out: `split`, where there is one."""
    files: dict[Split, str] = Field(default_factory=dict)
    """One file for each split; `name` is then only a title."""
    shares: dict[Carved, Annotated[float, Field(gt=0, lt=1)]] = Field(default_factory=dict)
    """Shares of the train rows for splits that the data does not bring."""
    limits: dict[Split, Positive] = Field(default_factory=dict)
    """Most items of a split."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the splits and the order of the items."""

    def spec(self) -> TaskSpec:
        """The same as the loader of tasks wants it."""
        shares: dict[str, float] = dict(DEFAULT_SHARES)
        for split, share in self.shares.items():
            shares[split] = share
        return TaskSpec(
            name=self.name,
            max_length=self.max_length,
            kind=self.kind,
            text=self.text,
            label=self.label,
            group=self.group,
            split=self.split,
            files=tuple(self.files.items()),
            shares=tuple(shares.items()),
            limits=tuple(self.limits.items()),
            seed=self.seed,
        )


class WorkloadSection(Section):
    """The use for which speed and memory are judged."""

    batch: Positive = 1
    """Texts answered together."""
    prompt_tokens: Positive = 32
    """Tokens read per text."""
    output_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens written per text; 0 for encoders."""
    concurrency: Positive = 1
    """Requests in flight."""
    threads: Positive = 1
    """CPU threads of one instance."""
    device: str = "here"
    """What trains and answers: `here` (the CPU), `cuda`, `cuda:N`, or the row of the device table
    that stands for this CPU."""

    def spec(self) -> Workload:
        """The same as metrics want it."""
        return Workload(**self.model_dump())


class FidelitySection(Section):
    """How far candidates are trained and judged before the better ones go on."""

    rungs: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = (1.0,)
    """Shares of what `of` says, ascending, the last 1.0."""
    of: Literal["steps and items", "items"] = "steps and items"
    """What a lower rung has less of: steps of the recipe and validation items, or items alone;
    then every training is whole, as suits candidates that share one."""
    promote: Annotated[float, Field(gt=0, le=1)] = PROMOTED
    """Share of the trials that have finished a rung that go on to the next."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if list(self.rungs) != sorted(set(self.rungs)) or self.rungs[-1] != 1.0:
            raise ValueError(f"rungs {list(self.rungs)} must ascend and end with 1.0")
        return self

    @property
    def step_shares(self) -> tuple[float, ...]:
        """Share of the recipe's steps at each rung."""
        return self.rungs if self.of == "steps and items" else (1.0,) * len(self.rungs)


class BudgetSection(Section):
    """When the search ends: whichever limit is reached first."""

    trials: Positive | None = None
    """Configurations that may be begun, the baseline among them: 45 are 44 trials and it."""
    minutes: Amount | None = None
    """Wall time."""
    trainings: Positive | None = None
    """Long trainings; when they are spent, only configurations that need no new one."""
    kwh: Amount | None = None
    """Energy of the search itself."""
    usd: Amount | None = None
    """Money for the search itself."""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if not self.model_dump(exclude_none=True):
            raise ValueError("a budget needs at least one of trials, minutes, trainings, kwh, usd")
        return self

    def spec(self) -> Budget:
        """The same as the driver counts it."""
        return Budget(self.trials, self.minutes, self.trainings, self.kwh, self.usd)


class TrialSection(Section):
    """Limits of one trial."""

    timeout: Duration = "30 min"
    """A trial that works longer is stopped, stored as a timeout; waiting for others is not work."""
    memory: Size | None = None
    """A trial whose process grows beyond is stopped and stored as out of memory."""

    @property
    def timeout_seconds(self) -> float:
        """The timeout in seconds."""
        return quantity(self.timeout, "second")

    @property
    def memory_bytes(self) -> int | None:
        """The memory limit in bytes, None for no limit."""
        return None if self.memory is None else round(quantity(self.memory, "byte"))


class ConfirmSection(Section):
    """How the finished front is confirmed."""

    seeds: Annotated[int, Field(ge=0)] = 1
    """Further seeds under which the recommended point is made again; its trainings too."""
    points: Positive = 12
    """Most front points that are judged on the test split; of a larger front, those that add most
    hypervolume."""
    near_ties: Annotated[int, Field(ge=0)] = 0
    """Most repeats under further seeds, trainings included, of points whose place on the front or
    as the recommended one is not settled; spent one at a time where a repeat settles most."""


class PerTrial(Section):
    """What Ray sets aside for a trial."""

    cpu: Amount = 1.0
    gpu: Annotated[float, Field(ge=0)] = 0.0


class EngineSection(Section):
    """What runs the trials."""

    kind: Literal["optuna", "ray"] = "optuna"
    """Processes of this machine, or a Ray cluster."""
    workers: Positive = 1
    """Trials at a time."""
    address: str | None = None
    """Of the Ray cluster; left out: Ray starts on this machine."""
    per_trial: PerTrial | None = None
    """What Ray sets aside for a trial."""

    @model_validator(mode="after")
    def _only_ray(self) -> Self:
        given = [name for name in ("address", "per_trial") if getattr(self, name) is not None]
        if self.kind != "ray" and given:
            raise ValueError(f"{given[0]} means something only with kind: ray")
        return self


class SettingsSection(Section):
    """What metrics assume about the surroundings; left out: the tables' own figures."""

    region: str | None = None
    """Whose electricity: a row of the grid table, such as `FRA`."""
    pue: Annotated[float, Field(ge=1)] | None = None
    """Energy of the data centre per energy of the machine."""
    device: str | None = None
    """The row of the device table that stands for this machine."""
    usd_per_hour: Annotated[float, Field(ge=0)] | None = None
    """Rent of the serving instance."""
    usd_per_kwh: Annotated[float, Field(ge=0)] | None = None
    """Price of electricity, where it is paid beside the rent."""

    def given(self) -> Mapping[str, Any]:
        """Only what was set, by name."""
        return self.model_dump(exclude_none=True)


class CustomMetric(Section):
    """A figure that a function of the user's returns."""

    direction: Literal["minimize", "maximize"]
    """Which way is better."""
    unit: str = "dimensionless"
    """As pint reads it."""
    definition: str = ""
    """One sentence, for the report."""
