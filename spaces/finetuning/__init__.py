"""The table of the `finetuning` folder: one row a technique."""

from __future__ import annotations

from typing import Final

from ..technique import Technique
from .bitfit import BitFit
from .full import Full
from .head import OnlyHead
from .ia3 import Ia3
from .last_layers import LastLayers
from .layernorm import LayerNorm
from .lora import Lora

OFF: Final = "none"
TABLE: dict[str, Technique] = {
    row.name: row
    for row in (Full(), OnlyHead(), BitFit(), LayerNorm(), LastLayers(), Lora(), Ia3())
}
