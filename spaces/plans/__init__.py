"""The table of the `plans` folder: one row a technique."""

from __future__ import annotations

from typing import Final

from ..technique import Technique

OFF: Final = "single"
TABLE: dict[str, Technique] = {}
