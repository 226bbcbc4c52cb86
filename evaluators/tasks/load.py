"""From a TaskSpec to a Task: picks the source by name, then splits and encodes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ...errors import DataError, UnknownName
from ...spaces.task import Task
from .docstrings import PACKAGES, PER_CLASS, docstring_rows
from .encode import check_length, encode
from .hub import hub_rows
from .local import is_local, local_rows
from .rows import Row, Rows, by_split_column, split_name
from .spec import SPLITS, TaskSpec
from .splits import examples

GROUP = "paretune.tasks"
"""Entry points of this group are functions without arguments that return rows."""


def load_task(spec: TaskSpec, tokenizer_folder: Path, cache: Path) -> Task:
    """A task, read, split and encoded.

    Args:
        spec: which data, and how it is split.
        tokenizer_folder: the model's folder; its tokenizer encodes the text.
        cache: folder for what takes long to make; may be shared by runs.

    Raises:
        DataError: the data cannot be used as it was given; nothing was written.
        UnknownName: no source of that name.
    """
    _check_spec(spec)
    check_length(spec.max_length, tokenizer_folder)
    return encode(examples(_rows(spec, cache), spec), spec, tokenizer_folder, cache)


def describe_task(spec: TaskSpec) -> dict[str, Any]:
    """What a spec means, JSON-ready, without reading any data.

    Returns:
        `source` in words, `kind` (None: found out from the columns), `max_length`, `splits` (where
        each comes from, in words).
    """
    limits = dict(spec.limits)
    shares = dict(spec.shares)
    if spec.name == "docstrings":
        splits = {s: f"{PER_CLASS[s] * len(PACKAGES)} items" for s in SPLITS}
    else:
        splits = {s: f"given, else {shares.get(s, 0):.0%} of train" for s in SPLITS[1:]}
        splits = {"train": "given", **splits}
    for split, most in limits.items():
        splits[split] += f", at most {most}"
    return {
        "name": spec.name,
        "source": _source(spec),
        "kind": "classification" if spec.name == "docstrings" else spec.kind,
        "max_length": spec.max_length,
        "splits": splits,
    }


def _source(spec: TaskSpec) -> str:
    if spec.files:
        return "local files: " + ", ".join(f"{split} {path}" for split, path in spec.files)
    if spec.name == "docstrings":
        return f"docstrings of {', '.join(PACKAGES)}: which package is it? (built in)"
    if is_local(spec.name):
        return f"local {'folder' if Path(spec.name).is_dir() else 'file'} {spec.name}"
    if spec.name.startswith("hub:") or "/" in spec.name:
        return f"data set {spec.name.removeprefix('hub:')} of the Hugging Face hub"
    return f"rows of the function {spec.name}"


def _rows(spec: TaskSpec, cache: Path) -> Rows:
    if spec.files or is_local(spec.name):
        return local_rows(spec)
    if spec.name == "docstrings":
        return docstring_rows(spec, cache)
    if spec.name.startswith("hub:") or "/" in spec.name:
        return hub_rows(spec)
    return _called(_function(spec.name), spec)


def _function(name: str) -> Callable[[], Any]:
    module, _, function = name.partition(":")
    if not function:
        return _entry_point(name)
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise DataError(
            f"task {name!r}: {error}; it must be module:function, importable from here "
            "(set PYTHONPATH to the folder that holds the module)"
        ) from error
    if not callable(found):
        raise DataError(f"task {name!r} is a {type(found).__name__}, not a function of rows")
    loaded: Callable[[], Any] = found
    return loaded


def _entry_point(name: str) -> Callable[[], Any]:
    added = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in added:
        forms = ["docstrings", *added, "FILE.csv", "FILE.jsonl", "FILE.txt", "FOLDER/", "hub:NAME"]
        raise UnknownName("task", name, [*forms, "module:function"])
    loaded: Callable[[], Any] = added[name].load()
    return loaded


def _called(function: Callable[[], Any], spec: TaskSpec) -> Rows:
    origin = f"task {spec.name}"
    found = function()
    if isinstance(found, Mapping):
        return Rows(
            {split_name(s, origin): _listed(part, origin) for s, part in found.items()}, origin
        )
    return by_split_column(_listed(found, origin), spec.split, origin)


def _listed(part: Iterable[Row], origin: str) -> list[Row]:
    if isinstance(part, Iterable):
        rows = list(part)
        if all(isinstance(row, Mapping) for row in rows):
            return rows
    raise DataError(
        f"{origin} must return rows: mappings such as {{'text': ..., 'label': ...}}, or a mapping "
        "of split names to such rows"
    )


def _check_spec(spec: TaskSpec) -> None:
    for what, pairs in (("shares", spec.shares), ("limits", spec.limits)):
        for split, value in pairs:
            if split not in SPLITS:
                raise UnknownName(f"split in the task's {what}", split, SPLITS)
            if value <= 0:
                raise DataError(f"{what}: {split} is {value}; it must be above 0")
    if (carved := sum(share for split, share in spec.shares if split != "train")) >= 1:
        raise DataError(f"shares: {carved:.2f} of train would be carved out; it must be below 1")
    if len(spec.text) > 2:
        raise DataError(f"text names {len(spec.text)} columns; one, or two for sentence pairs")
