"""The table of the `finetuning` folder: one row a technique."""

from __future__ import annotations

from typing import Final

from ..technique import Technique

OFF: Final = "none"
TABLE: dict[str, Technique] = {}
