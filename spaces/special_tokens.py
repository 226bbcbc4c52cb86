"""Special tokens: which ids a tokenizer's own files call special.

Read from JSON without making a tokenizer, which takes longer than loading a small model.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import ModelError


def special_tokens(folder: Path) -> tuple[int, ...]:
    """Ids of special tokens, ascending; empty where no file in the folder names any.

    Args:
        folder: holds `tokenizer.json`, or `tokenizer_config.json` alone.

    Raises:
        ModelError: the file is not what a tokenizer writes.
    """
    for name in ("tokenizer.json", "tokenizer_config.json"):
        file = folder / name
        if file.is_file():
            stat = file.stat()
            return _named(file, stat.st_size, stat.st_mtime_ns)
    return ()


@lru_cache(maxsize=16)
def _named(file: Path, size: int, modified_ns: int) -> tuple[int, ...]:
    """Those of a file that has this size and time, read once: some have 100,000 lines."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        listed = found.get("added_tokens") or [
            {**token, "id": number}
            for number, token in (found.get("added_tokens_decoder") or {}).items()
        ]
        return tuple(sorted(int(token["id"]) for token in listed if token.get("special")))
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ModelError(
            f"{file} is not what a tokenizer writes: {error}; download it again"
        ) from error
