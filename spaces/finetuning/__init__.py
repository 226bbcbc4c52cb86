"""The table of the `finetuning` folder: one row a technique."""

from __future__ import annotations

from typing import Final

from ..technique import Technique
from .bitfit import BitFit
from .bottleneck import Bottleneck
from .dora import Dora
from .fish import Fish
from .full import Full
from .head import OnlyHead
from .ia3 import Ia3
from .last_layers import LastLayers
from .layernorm import LayerNorm
from .loha import LoHa
from .lokr import LoKr
from .lora import Lora
from .oft import Oft
from .rslora import RsLora
from .vera import Vera

OFF: Final = "none"
_ROWS: Final[tuple[Technique, ...]] = (
    Full(),
    OnlyHead(),
    BitFit(),
    LayerNorm(),
    LastLayers(),
    Fish(),
    Lora(),
    RsLora(),
    Dora(),
    Vera(),
    LoHa(),
    LoKr(),
    Oft(),
    Ia3(),
    Bottleneck(),
)
TABLE: dict[str, Technique] = {row.name: row for row in _ROWS}
