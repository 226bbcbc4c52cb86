"""The table of the `runtimes` folder: one row a technique."""

from __future__ import annotations

from typing import Final

from ..technique import Technique

OFF: Final = "eager"
TABLE: dict[str, Technique] = {}
