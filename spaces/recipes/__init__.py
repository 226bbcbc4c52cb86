"""The table of the `recipes` folder: one row a technique."""

from __future__ import annotations

from typing import Final

from ..technique import Technique
from .plain import Plain

OFF: Final = "default"
TABLE: dict[str, Technique] = {row.name: row for row in (Plain(),)}
