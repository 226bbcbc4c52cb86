"""The study file as data whose every key remembers its line; overrides; writing it back."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import StudyError

Way = tuple[str | int, ...]
"""The way to a value: keys of mappings and places in lists, from the top."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with a study: where, and what to say about it."""

    path: Way
    message: str


@dataclass(frozen=True)
class Document:
    """A study file, read.

    Args:
        data: plain mappings, lists and scalars.
        name: of the file, for errors; empty for data that no file holds.
        lines: line of each key and list item, counted from 1.
        overrides: by path, what the command line put there, as it was written.
    """

    data: dict[str, Any]
    name: str = ""
    lines: Mapping[Way, int] = field(default_factory=dict)
    overrides: Mapping[Way, str] = field(default_factory=dict)

    def where(self, path: Way) -> str:
        """The place of a value in words, ending in a colon; of what holds it when it is missing."""
        dotted = ".".join(str(part) for part in path)
        holders = [path[:end] for end in range(len(path), 0, -1)]
        # what an override replaced is not in the file any more, whatever lines it had there
        over = next((self.overrides[way] for way in holders if way in self.overrides), None)
        if over is not None:
            return f"--set {over}: {dotted}:"
        line = next((f" line {self.lines[way]}" for way in holders if way in self.lines), "")
        inside = [text for way, text in self.overrides.items() if way[: len(path)] == path]
        with_ = " with --set " + ", --set ".join(inside) if inside else ""
        return f"{self.name}{line}{with_}: {dotted}:" if self.name else f"{dotted}:"

    def refuse(self, problems: Sequence[Problem]) -> None:
        """Passes when there are none.

        Raises:
            StudyError: every problem with its place, in the order of the file.
        """
        if problems:
            ordered = sorted(problems, key=lambda problem: self._line(problem.path))
            raise StudyError(*(f"{self.where(p.path)} {p.message}" for p in ordered))

    def _line(self, path: Way) -> float:
        known = (self.lines.get(path[:end]) for end in range(len(path), 0, -1))
        return next((line for line in known if line is not None), math.inf)


def read_study_file(path: Path, overrides: Sequence[str] = ()) -> Document:
    """A study file with overrides applied; YAML 1.2, one document, no anchors' tags.

    Args:
        overrides: `a.b=value` each, the value in YAML.

    Raises:
        StudyError: not there, not YAML, a key twice, not a mapping, or an override of no such form.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(
            f"cannot read the study file {path}: {error}; `paretune init` writes one"
        ) from error
    loaded = _parsed(text, path.name)
    if not isinstance(loaded, dict) or not loaded:
        raise StudyError(f"{path.name} is no mapping of keys; `paretune init` writes an example")
    lines: dict[Way, int] = {}
    data = _plain(loaded, (), lines, path.name)
    document = Document(data, path.name, lines, {})
    for override in overrides:
        document = _overridden(document, override)
    return document


def write_yaml(data: Mapping[str, Any]) -> str:
    """Plain data as YAML that `read_study_file` reads back."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None  # the innermost lists and mappings on one line
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 100
    stream = io.StringIO()
    yaml.dump(dict(data), stream)
    return stream.getvalue()


def _parsed(text: str, name: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return YAML(typ="rt", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}" if mark else ""
        problem = str(error.problem).splitlines()[0]
        raise StudyError(f"{name}{line}: {problem}; the file must be YAML") from error
    except YAMLError as error:
        raise StudyError(f"{name}: {str(error).splitlines()[0]}; the file must be YAML") from error


def _plain(value: Any, path: Way, lines: dict[Way, int], name: str) -> Any:
    """Plain Python data of what ruamel made, noting lines on the way."""
    marks: Any = getattr(value, "lc", None)
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise StudyError(f"{name}: the key {key!r} of {_dotted(path)} is no text")
            lines[(*path, key)] = marks.key(key)[0] + 1
        return {str(k): _plain(v, (*path, str(k)), lines, name) for k, v in value.items()}
    if isinstance(value, list):
        for i in range(len(value)):
            lines[(*path, i)] = marks.item(i)[0] + 1
        return [_plain(item, (*path, i), lines, name) for i, item in enumerate(value)]
    # ruamel's scalars remember how they were written; ours need not.
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return bool(value) if type(value).__name__ == "ScalarBoolean" else kind(value)
    line = lines.get(path, 1)
    raise StudyError(f"{name} line {line}: {_dotted(path)} is neither text nor number; put quotes")


def _overridden(document: Document, override: str) -> Document:
    way, sign, written = override.partition("=")
    keys: Way = tuple(way.strip().split("."))
    if not sign or not all(keys):
        raise StudyError(f"--set {override}: write key=value, such as --set budget.trials=10")
    value = _plain(_parsed(written, f"--set {override}"), keys, {}, f"--set {override}")
    data = _with(document.data, [str(key) for key in keys], value, override)
    return Document(data, document.name, document.lines, {**document.overrides, keys: override})


def _with(data: Any, keys: Sequence[str], value: Any, override: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise StudyError(f"--set {override}: {keys[0]!r} has no place in {data!r}")
    if len(keys) == 1:
        return {**data, keys[0]: value}
    return {**data, keys[0]: _with(data.get(keys[0], {}), keys[1:], value, override)}


def _dotted(path: Way) -> str:
    return ".".join(str(part) for part in path) or "the file"
