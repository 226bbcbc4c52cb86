"""The table of the `structure` folder: one row a technique."""

from __future__ import annotations

from typing import Final

from ..technique import Technique
from .ffn import Ffn
from .heads import Heads
from .layers import Layers
from .mixed import Mixed

OFF: Final = "none"
TABLE: dict[str, Technique] = {row.name: row for row in (Heads(), Ffn(), Layers(), Mixed())}
