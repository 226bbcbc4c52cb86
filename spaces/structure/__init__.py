"""The table of the `structure` folder: one row a technique."""

from __future__ import annotations

from typing import Final

from ..technique import Technique
from .ffn import Ffn
from .heads import Heads
from .layers import Layers
from .low_rank import LowRank
from .mixed import Mixed
from .sparsity import Sparsity
from .vocabulary import Vocabulary
from .width import Width

OFF: Final = "none"
TABLE: dict[str, Technique] = {
    row.name: row
    for row in (Heads(), Ffn(), Width(), Layers(), Vocabulary(), Mixed(), LowRank(), Sparsity())
}
