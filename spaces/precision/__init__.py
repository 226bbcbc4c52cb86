"""The table of the `precision` folder: one row a technique."""

from __future__ import annotations

from typing import Final

from ..technique import Technique
from .bf16 import Bf16
from .int4 import Int4
from .int8 import Int8

OFF: Final = "fp32"
TABLE: dict[str, Technique] = {row.name: row for row in (Bf16(), Int8(), Int4())}
