"""The table of the `precision` folder: one row a technique."""

from __future__ import annotations

from typing import Final

from ..technique import Technique

OFF: Final = "fp32"
TABLE: dict[str, Technique] = {}
