"""Curves of peers, kept between runs: a peer of one version, asked in one way, answers the same.

A file a curve, named by all that it depends on. Ours are never kept: they are what changes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..search.run import write_json


def remembered(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a file holds; made and written where there is none.

    Args:
        path: a JSON file; its folder is made.

    Raises:
        DataError: the file is there and is no JSON object.
    """
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise DataError(f"{path} is damaged; delete it to have it made again")
        return found
    made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, made)
    return made


def file_of(folder: Path, *parts: object) -> Path:
    """The file that is named by parts.

    >>> file_of(Path("cache"), "hwgpt:s:a100", "optuna-tpe", 5).as_posix()
    'cache/hwgpt-s-a100/optuna-tpe_5.json'
    """
    first, *rest = (str(part).replace(":", "-") for part in parts)
    return folder / first / f"{'_'.join(rest)}.json"
