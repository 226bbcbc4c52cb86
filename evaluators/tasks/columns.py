"""Which columns of a local table hold the text and the label, guessed for whoever starts a study.

By name first; failing that, by what the first rows hold. What was guessed is written into the study
file, where a person sees it: loading a task guesses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from ...errors import DataError
from .local import read_file, split_files
from .rows import Row

LOOK: Final = 10_000
"""Rows that are looked at."""

TEXTS: Final = (
    "text", "sentence", "review", "content", "body", "comment", "message", "document", "question",
    "utterance", "tweet", "description", "abstract", "headline", "title",
)  # fmt: skip
"""Names that columns of text usually have, the likeliest first."""

LABELS: Final = (
    "label", "labels", "class", "category", "target", "sentiment", "intent", "topic", "y", "stars",
    "rating",
)  # fmt: skip
"""Names that columns of labels usually have, the likeliest first."""

MOST_CLASSES: Final = 100
"""A column of more distinct values than this is not taken for a label by what it holds."""


@dataclass(frozen=True)
class Columns:
    """The columns of a table.

    Args:
        known: all of them, in the file's order.
        text: the one that is read.
        label: the class; None: there is none, the text itself is to be modelled.
    """

    known: tuple[str, ...]
    text: str
    label: str | None


def find_columns(path: Path) -> Columns | None:
    """Text and label column of a csv, tsv or jsonl file, or of the train file of a folder.

    Returns:
        None where nothing lies there, or what lies there is plain text.

    Raises:
        DataError: it cannot be read, is empty, or no column can be taken for the text.
    """
    if path.is_dir():
        train = [file for split, file in split_files(path) if split == "train"]
        path = train[0] if train else path
    if not path.is_file() or path.name.removesuffix(".gz").endswith(".txt"):
        return None
    rows = list(islice(read_file(path), LOOK))
    if not rows:
        raise DataError(f"{path} holds no rows below its header; give a file with data")
    known = tuple(rows[0])
    label = _named(known, LABELS)
    text = _named(known, TEXTS) or _wordiest(rows, [name for name in known if name != label])
    if text is None:
        raise DataError(
            f"no column of {path} holds text to read; its columns: {', '.join(known)}; give a "
            "table with a header, one column of text and, to classify, one of labels"
        )
    return Columns(known, text, label or _classes(rows, [name for name in known if name != text]))


def _named(known: Sequence[str], usual: Sequence[str]) -> str | None:
    lower = {name.strip().lower(): name for name in reversed(known)}
    return next((lower[name] for name in usual if name in lower), None)


def _wordiest(rows: Sequence[Row], names: Sequence[str]) -> str | None:
    """The column with most words a row; None where none has two."""
    words = {name: sum(_words(row.get(name)) for row in rows) / len(rows) for name in names}
    best = max(words, key=lambda name: words[name], default=None)
    return best if best is not None and words[best] >= 2 else None


def _words(value: object) -> int:
    return len(value.split()) if isinstance(value, str) else 0


def _classes(rows: Sequence[Row], names: Sequence[str]) -> str | None:
    """The column with fewest distinct values, at least two, each twice or more on average."""
    counts = {name: len({str(row.get(name)) for row in rows}) for name in names}
    few = [n for n in names if 2 <= counts[n] <= min(MOST_CLASSES, len(rows) // 2)]
    few = [name for name in few if name.strip().lower() != "split"]
    return min(few, key=lambda name: counts[name], default=None)
