"""Rows: what a source of data hands over, whatever it read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import DataError
from .spec import SPLIT_NAMES, SPLITS

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Rows:
    """Raw rows by split.

    Args:
        splits: `train` at least; the splits that the data brings. Columns by name.
        origin: where they come from, as an error should say it.
        classes: the names behind integer labels, where the source knows them.
        whole: the splits are as they should be; nothing is carved out of train.
    """

    splits: Mapping[str, Sequence[Row]]
    origin: str
    classes: tuple[str, ...] = ()
    whole: bool = False


def split_name(name: str, origin: str) -> str:
    """The split that a data set means by a name.

    Raises:
        DataError: no such split.

    >>> split_name("Dev", "data.csv")
    'validation'
    """
    known = SPLIT_NAMES.get(str(name).strip().lower())
    if known is None:
        raise DataError(
            f"{origin}: {name!r} is no split; splits are {', '.join(SPLITS)} (also dev, valid, val)"
        )
    return known


def by_split_column(rows: Sequence[Row], column: str | None, origin: str) -> Rows:
    """Rows sorted into splits by a column; without the column all of them are train rows.

    Args:
        column: None: `split`, where the rows have it.

    Raises:
        DataError: no rows, a column that was asked for and is not there, a name that is no split.
    """
    if not rows:
        raise DataError(f"{origin} holds no rows")
    chosen = column or "split"
    if chosen not in rows[0]:
        if column is not None:
            raise DataError(f"{origin} has no column {column!r}; its columns: {', '.join(rows[0])}")
        return Rows({"train": rows}, origin)
    splits: dict[str, list[Row]] = {}
    for row in rows:
        splits.setdefault(split_name(row[chosen], origin), []).append(row)
    return Rows(splits, origin)
