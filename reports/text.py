"""Plain text for the terminal: rows as a table, a mapping as lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def render(value: Any) -> str:
    """A value as a person reads it.

    Args:
        value: rows (a sequence of mappings), a mapping, or anything that prints.

    >>> print(render([{"name": "a", "bytes": 12}, {"name": "bb", "bytes": None}]))
    name  bytes
    a        12
    bb        -
    """
    if isinstance(value, Mapping):
        return _lines(value)
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        if isinstance(value[0], Mapping):
            return _table(value)
        return "\n".join(render(item) for item in value)
    return _cell(value) if not isinstance(value, Sequence) or isinstance(value, str) else "(none)"


def _lines(value: Mapping[str, Any]) -> str:
    parts = []
    for key, item in value.items():
        nested = isinstance(item, Mapping | list | tuple) and bool(item)
        if nested and not _is_plain_list(item):
            inner = "\n".join(f"  {line}" for line in render(item).splitlines())
            parts.append(f"{key}:\n{inner}")
        else:
            parts.append(f"{key}: {_cell(item)}")
    return "\n".join(parts)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in [names, *cells]) for i in range(len(names))]
    right = [all(_is_number(row.get(name)) for row in rows) for name in names]
    lines = [names, *cells]
    return "\n".join(_line(line, widths, right) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    parts = [
        cell.rjust(width) if number else cell.ljust(width)
        for cell, width, number in zip(cells, widths, right, strict=True)
    ]
    return "  ".join(parts).rstrip()


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
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value) or "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={_cell(v)}" for k, v in value.items()) or "-"
    return str(value)
