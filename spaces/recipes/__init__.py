"""The table of the `recipes` folder: one row a technique."""

from __future__ import annotations

from typing import Final

from ..technique import Technique

OFF: Final = "plain"
TABLE: dict[str, Technique] = {}
