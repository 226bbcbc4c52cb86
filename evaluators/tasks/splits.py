"""Rows to examples: columns chosen, four splits carved, limits applied, labels numbered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import DataError
from ...spaces.task import TaskKind
from .rows import Row, Rows
from .spec import SPLITS, TaskSpec, place


@dataclass(frozen=True)
class Example:
    """One item before encoding: a text or a pair; `label` is None for language modelling."""

    texts: tuple[str, ...]
    label: str | int | None
    group: str


@dataclass(frozen=True)
class Examples:
    """The four splits of a task.

    Args:
        kind: what is judged.
        labels: class names in the order of their ids.
        splits: items by split.
        notes: what was left out of the data, a sentence each.
    """

    kind: TaskKind
    labels: tuple[str, ...]
    splits: Mapping[str, Sequence[Example]]
    notes: tuple[str, ...] = ()


def examples(rows: Rows, spec: TaskSpec) -> Examples:
    """The four splits that a spec asks for.

    A split that the data does not bring is carved out of train: a row goes where the hash of its
    group (or text) and the seed sends it, so the outcome depends on neither order nor machine. Of
    splits that it does bring, the earlier loses the rows that a later one has too. Items of a
    classification split stand in a pseudo-random order: a leading share of them is a fair sample.

    Raises:
        DataError: an unknown column, a row without text, an empty split, one whose rows all are in
            later ones too, fewer than two classes, or a label that train does not have.
    """
    columns = _Columns.of(rows, spec)
    kind: TaskKind = "language-modelling" if columns.label is None else "classification"
    splits = {split: [columns.example(row) for row in part] for split, part in rows.splits.items()}
    notes: list[str] = []
    if not rows.whole:
        splits, notes = _apart(splits, columns)
        splits = _carved(splits, spec)
    if kind == "classification":
        splits = {split: _shuffled(part, spec.seed) for split, part in splits.items()}
        limits = dict(spec.limits)
        splits = {split: part[: limits.get(split)] for split, part in splits.items()}
    _refuse_empty(splits, rows.origin)
    labels: tuple[str, ...] = ()
    if kind == "classification":
        labels, splits = _numbered(splits, rows)
    return Examples(kind, labels, splits, tuple(notes))


@dataclass(frozen=True)
class _Columns:
    origin: str
    text: tuple[str, ...]
    label: str | None
    group: str | None

    @staticmethod
    def of(rows: Rows, spec: TaskSpec) -> _Columns:
        known = list(next((part[0] for part in rows.splits.values() if part), {}))
        if not known:
            raise DataError(f"{rows.origin} holds no rows")
        default = "sentence" if "sentence" in known and "text" not in known else "text"
        text = spec.text or (default,)
        label: str | None = spec.label or "label"
        if spec.kind == "language-modelling" or (
            spec.kind is None and spec.label is None and label not in known
        ):
            label = None
        for column in (*text, label, spec.group):
            if column is not None and column not in known:
                raise DataError(
                    f"{rows.origin} has no column {column!r}; its columns: {', '.join(known)}. "
                    "Name the right ones as text, label or group of the task"
                )
        return _Columns(rows.origin, text, label, spec.group)

    def example(self, row: Row) -> Example:
        texts = tuple(self._text(row, column) for column in self.text)
        label = self._value(row, self.label) if self.label else None
        if self.label and (label is None or label == ""):
            raise DataError(f"{self.origin}: a row has no {self.label!r}: {texts[0][:60]!r}")
        group = str(self._value(row, self.group)) if self.group else "\n".join(texts)
        return Example(texts, label, group)

    def names(self, example: Example) -> set[tuple[str, str]]:
        """What an example shares with no later split: its group, and its text where it has a label.

        Lines of running text repeat, so without labels only a group column counts.
        """
        found = {("group", example.group)} if self.group else set()
        return found | ({("text", _text(example))} if self.label else set())

    def _text(self, row: Row, column: str) -> str:
        text = self._value(row, column)
        if not isinstance(text, str):
            raise DataError(
                f"{self.origin}: column {column!r} holds {text!r} ({type(text).__name__}), not text"
            )
        return text

    def _value(self, row: Row, column: str) -> Any:
        if column not in row:
            raise DataError(
                f"{self.origin}: a row lacks the column {column!r}; it has {', '.join(row)}"
            )
        return row[column]


def _apart(
    given: Mapping[str, Sequence[Example]], columns: _Columns
) -> tuple[dict[str, list[Example]], list[str]]:
    """Given splits without rows whose group, or text, a later one has too; what went, in words."""
    kept: dict[str, list[Example]] = {}
    notes: list[str] = []
    seen: set[tuple[str, str]] = set()
    for split in reversed([split for split in SPLITS if split in given]):
        rows = [(example, columns.names(example)) for example in given[split]]
        kept[split] = [example for example, names in rows if not names & seen]
        lost, later = len(rows) - len(kept[split]), " or ".join(list(kept)[-2::-1])
        seen.update(name for _, names in rows for name in names)
        if lost and not kept[split]:
            raise DataError(
                f"{columns.origin}: every one of the {lost} {split} rows has a text or group that "
                f"{later} has too; give splits that share none"
            )
        if lost:
            notes.append(
                f"{lost:,} of {len(rows):,} {split} rows have a text or group that {later} has "
                "too, and were left out"
            )
    return kept, notes


def _carved(given: Mapping[str, Sequence[Example]], spec: TaskSpec) -> dict[str, list[Example]]:
    """Train rows dealt to the splits that are missing, the others as they were given."""
    shares = dict(spec.shares)
    missing = [split for split in SPLITS if split not in given and split != "train"]
    splits: dict[str, list[Example]] = {split: list(given.get(split, ())) for split in SPLITS}
    splits["train"] = []
    for example in given.get("train", ()):
        point = place(example.group, spec.seed)
        target = "train"
        for split in missing:
            point -= shares.get(split, 0.0)
            if point < 0:
                target = split
                break
        splits[target].append(example)
    return splits


def _shuffled(part: Sequence[Example], seed: int) -> list[Example]:
    # A stable sort: equal texts keep the order in which they came.
    return sorted(part, key=lambda example: place(_text(example), seed + 1))


def _text(example: Example) -> str:
    return "\n".join(example.texts)


def _refuse_empty(splits: Mapping[str, Sequence[Example]], origin: str) -> None:
    for split in SPLITS:
        if not any(text.strip() for example in splits.get(split, ()) for text in example.texts):
            sizes = ", ".join(f"{name} {len(splits.get(name, ()))}" for name in SPLITS)
            raise DataError(
                f"{origin}: the {split} split holds no text (rows: {sizes}); give a file for it, a "
                "larger share, a limit above 0 or more data"
            )


def _numbered(
    splits: Mapping[str, Sequence[Example]], rows: Rows
) -> tuple[tuple[str, ...], dict[str, list[Example]]]:
    names = {split: {_name(e.label, rows) for e in part} for split, part in splits.items()}
    for split in SPLITS:
        strange = sorted(names[split] - names["train"])
        if strange:
            raise DataError(
                f"{rows.origin}: {split} has labels that train does not have: {', '.join(strange)};"
                f" train has {', '.join(sorted(names['train']))}"
            )
    if len(names["train"]) < 2:
        raise DataError(
            f"{rows.origin}: every label is {min(names['train'])!r}; classification needs two "
            "classes"
        )
    order = {name: i for i, name in enumerate(rows.classes)}
    labels = tuple(sorted(names["train"], key=lambda n: (order.get(n, 0), *_natural(n))))
    ids = {name: i for i, name in enumerate(labels)}
    numbered = {
        split: [Example(e.texts, ids[_name(e.label, rows)], e.group) for e in part]
        for split, part in splits.items()
    }
    return labels, numbered


def _name(label: str | int | None, rows: Rows) -> str:
    if isinstance(label, int) and 0 <= label < len(rows.classes):
        return rows.classes[label]
    return str(label)


def _natural(name: str) -> tuple[int, str]:
    """Sorts whole numbers by size, names by spelling."""
    return (int(name), "") if name.lstrip("-").isdecimal() else (0, name)
