"""The table of the `finetuning` folder: one row a technique."""

from __future__ import annotations

from typing import Final

from ..technique import Technique
from .adalora import AdaLora
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
from .p_tuning import PTuning
from .prefix import Prefix
from .prompt import Prompt
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
    AdaLora(),
    Vera(),
    LoHa(),
    LoKr(),
    Oft(),
    Ia3(),
    Bottleneck(),
    Prefix(),
    Prompt(),
    PTuning(),
)
TABLE: dict[str, Technique] = {row.name: row for row in _ROWS}
