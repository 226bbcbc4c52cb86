"""Data sets of the Hugging Face hub as rows, through `datasets`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...errors import DataError
from .rows import Row, Rows
from .spec import SPLIT_NAMES, TaskSpec

if TYPE_CHECKING:
    from datasets import DatasetDict


def hub_rows(spec: TaskSpec) -> Rows:
    """Rows of a hub data set.

    A test split without answers (every label -1) is left out: the validation split then takes its
    place, and validation is carved out of train.

    Raises:
        DataError: `datasets` is missing, the hub cannot be reached, or it has no such data set.
    """
    name, _, config = spec.name.removeprefix("hub:").partition(":")
    data = _loaded(name, config or None)
    splits: dict[str, Sequence[Row]] = {}
    for key, part in data.items():
        if key in SPLIT_NAMES:
            splits[SPLIT_NAMES[key]] = [dict(row) for row in part]
    if "train" not in splits:
        raise DataError(f"hub data set {name} has no train split; its splits: {', '.join(data)}")
    label = spec.label or "label"
    if _unanswered(splits.get("test", ()), label):
        splits.pop("test")
        if "validation" in splits:
            splits["test"] = splits.pop("validation")
    return Rows(splits, f"hub data set {name}", _class_names(data, label))


def _loaded(name: str, config: str | None) -> DatasetDict:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"hub data sets need the datasets package: pip install 'paretune[eval]' (for {name})"
        ) from error
    failures = (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError)
    try:
        data = datasets.load_dataset(name, config)
    except failures as error:  # offline and unknown are OSError, a wrong configuration ValueError
        raise DataError(_help(name, error)) from error
    if not isinstance(data, datasets.DatasetDict):
        raise DataError(f"hub data set {name} has no named splits; save it as local files")
    return data


def _help(name: str, error: Exception) -> str:
    reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return (
        f"hub data set {name!r} cannot be loaded ({reason}). Check its name and configuration "
        "(hub:NAME:CONFIG) and the connection (HF_HUB_OFFLINE is set on machines without one), "
        "fetch it once on a connected machine and copy the HF_HOME folder, or give local files: "
        "task: {name: my-data, files: {train: train.csv, test: test.csv}}"
    )


def _unanswered(rows: Sequence[Row], label: str) -> bool:
    return bool(rows) and all(row.get(label) == -1 for row in rows)


def _class_names(data: Any, label: str) -> tuple[str, ...]:
    feature = data["train"].features.get(label) if "train" in data else None
    return tuple(getattr(feature, "names", None) or ())
