"""The table of the `architecture` folder: one row a technique."""

from __future__ import annotations

from typing import Final

from ..technique import Technique

OFF: Final = "given"
TABLE: dict[str, Technique] = {}
