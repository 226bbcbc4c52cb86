"""Plain text for the terminal: rows as a table, a mapping as lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from textwrap import wrap
from typing import Any, Final

GAP: Final = "  "
INDENT: Final = "  "
NARROWEST: Final = 12
"""Columns that a table's column keeps, however narrow the terminal."""

GROUPED: Final = 10_000
"""From here on whole numbers are grouped in threes; years and counts are not."""


def render(value: Any, width: int | None = None) -> str:
    """A value as a person reads it.

    Args:
        value: rows (a sequence of mappings), a mapping, or anything that prints.
        width: columns of the terminal, in which tables are fitted by breaking their widest cells
            into lines; None: as wide as it comes.

    >>> print(render([{"name": "a", "bytes": 12}, {"name": "bb", "bytes": None}]))
    name  bytes
    a        12
    bb        -
    """
    if isinstance(value, Mapping):
        return _lines(value, width)
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        if isinstance(value[0], Mapping):
            return _table(value, width)
        return "\n".join(render(item, width) for item in value)
    return _cell(value) if not isinstance(value, Sequence) or isinstance(value, str) else "(none)"


def _lines(value: Mapping[str, Any], width: int | None) -> str:
    parts = []
    for key, item in value.items():
        nested = isinstance(item, Mapping | list | tuple) and bool(item)
        if nested and not _is_plain_list(item):
            inside = render(item, None if width is None else width - len(INDENT)).splitlines()
            parts.append(f"{key}:\n" + "\n".join(f"{INDENT}{line}" for line in inside))
        else:
            parts.append(f"{key}: {_cell(item)}")
    return "\n".join(parts)


def _table(rows: Sequence[Mapping[str, Any]], width: int | None) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    if width is not None:
        widths = _fitted(widths, width - len(GAP) * (len(names) - 1))
    right = [all(_is_number(row.get(name)) for row in rows) for name in names]
    return "\n".join(_row(line, widths, right) for line in cells)


def _fitted(widths: Sequence[int], room: int) -> list[int]:
    """Column widths that fit a room: the widest give way, none below `NARROWEST`."""
    fitted = list(widths)
    while sum(fitted) > room and max(fitted) > NARROWEST:
        fitted[fitted.index(max(fitted))] -= 1
    return fitted


def _row(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    broken = [wrap(cell, width) or [""] for cell, width in zip(cells, widths, strict=True)]
    lines = zip_longest(*broken, fillvalue="")
    return "\n".join(_line(line, widths, right) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    parts = [
        cell.rjust(width) if number else cell.ljust(width)
        for cell, width, number in zip(cells, widths, right, strict=True)
    ]
    return GAP.join(parts).rstrip()


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_plain_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and not any(
        isinstance(item, Mapping | list | tuple) for item in value
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) >= GROUPED:
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value) or "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={_cell(v)}" for k, v in value.items()) or "-"
    return str(value)
