"""The table of the `recovery` folder: one row a technique."""

from __future__ import annotations

from typing import Final

from ..technique import Technique
from .distil import Distil
from .distil_layers import DistilLayers
from .distil_relations import DistilRelations
from .finetune import Finetune

OFF: Final = "none"
TABLE: dict[str, Technique] = {
    row.name: row for row in (Finetune(), Distil(), DistilLayers(), DistilRelations())
}
