"""Local files as rows: csv, tsv, jsonl, txt, each also gzipped; one file, a folder, or a list."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO, cast

from ...errors import DataError
from .rows import Row, Rows, by_split_column, split_name
from .spec import SPLIT_NAMES, TaskSpec

SUFFIXES = (".csv", ".tsv", ".jsonl", ".txt")
PIECE = 2_000
"""Characters after which a plain text is cut at the next blank line; twice that: at any line."""


def is_local(name: str) -> bool:
    """Whether a task's name means a file or folder (it need not exist).

    >>> is_local("data/reviews.csv.gz"), is_local("./reviews"), is_local("stanfordnlp/sst2")
    (True, True, False)
    """
    path = name.removesuffix(".gz")
    written_as_path = name.startswith((".", "/", "~")) or path.endswith(SUFFIXES)
    return written_as_path or Path(name).is_dir()


def local_rows(spec: TaskSpec) -> Rows:
    """Rows of the file, the folder or the files that a spec names.

    Raises:
        DataError: a file that is missing, empty or cannot be parsed, or that no split belongs to.
    """
    if spec.files:
        named = [(split_name(split, "files"), Path(path)) for split, path in spec.files]
        return _from_files(named, spec.name)
    path = Path(spec.name).expanduser()
    if path.is_dir():
        return _from_files(list(split_files(path)), str(path))
    rows = list(read_file(path))
    return by_split_column(rows, spec.split, str(path))


def read_file(path: Path) -> Iterator[Row]:
    """The rows of one file; a plain text gives pieces of whole lines as `{"text": ...}`.

    Raises:
        DataError: missing, of another kind, not UTF-8, or a line that cannot be parsed.
    """
    path = path.expanduser()
    if not path.is_file():
        raise DataError(f"no file {path}; give an existing {', '.join(SUFFIXES)} file (.gz too)")
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix not in SUFFIXES:
        raise DataError(
            f"{path}: {suffix or 'no suffix'} cannot be read; use {', '.join(SUFFIXES)}"
        )
    try:
        with _opened(path) as stream:
            yield from _parsed(stream, suffix, path)
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as UTF-8 {suffix} text: {error}") from error


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")


def _parsed(stream: TextIO, suffix: str, path: Path) -> Iterator[Row]:
    if suffix == ".txt":
        return ({"text": piece} for piece in pieces(stream))
    if suffix == ".jsonl":
        return _json_lines(stream, path)
    return _table(stream, "\t" if suffix == ".tsv" else ",", path)


def _table(stream: TextIO, delimiter: str, path: Path) -> Iterator[Row]:
    reader = csv.DictReader(stream, delimiter=delimiter)
    for row in reader:
        if None in row or None in row.values():
            raise DataError(
                f"{path} line {reader.line_num}: not one value for each of the columns "
                f"{', '.join(reader.fieldnames or ())}; quote values that hold a {delimiter!r}"
            )
        yield row


def _json_lines(stream: TextIO, path: Path) -> Iterator[Row]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path} line {number} is not JSON: {error.msg}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path} line {number} is no JSON object but a {type(row).__name__}")
        yield row


def pieces(lines: Iterable[str]) -> Iterator[str]:
    """A text cut into pieces of whole lines, about `PIECE` characters each."""
    held: list[str] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= 2 * PIECE or (size >= PIECE and not line.strip()):
            yield "".join(held)
            held, size = [], 0
    if held:
        yield "".join(held)


def split_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files whose name ends in a split's name: `train.csv`, `reviews_dev.jsonl.gz`."""
    for path in sorted(folder.iterdir()):
        stem = path.name.removesuffix(".gz")
        if path.is_file() and stem.endswith(SUFFIXES):
            last = re.split(r"[-_.]", Path(stem).stem)[-1].lower()
            if last in SPLIT_NAMES:
                yield SPLIT_NAMES[last], path


def _from_files(named: Sequence[tuple[str, Path]], origin: str) -> Rows:
    splits: dict[str, list[Row]] = {}
    for split, path in named:
        if split in splits:
            raise DataError(f"{origin}: two files for {split}; the second is {path}")
        splits[split] = list(read_file(path))
    if "train" not in splits:
        found = ", ".join(str(path) for _, path in named) or "no split file"
        raise DataError(
            f"{origin}: no file for train (found {found}); name it train.csv or use files"
        )
    return Rows(splits, origin)
