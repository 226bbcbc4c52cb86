"""The table of the `precision` folder: one row a technique."""

from __future__ import annotations

from typing import Final

from ..technique import Technique
from .awq import Awq
from .bf16 import Bf16
from .fp16 import Fp16
from .gptq import Gptq
from .hqq import Hqq
from .int3 import Int3
from .int4 import Int4
from .int8 import Int8
from .int8_static import Int8Static
from .mixed_bits import MixedBits
from .smoothquant import SmoothQuant

OFF: Final = "fp32"
TABLE: dict[str, Technique] = {
    row.name: row
    for row in (
        Bf16(),
        Fp16(),
        Int8(),
        Int8Static(),
        SmoothQuant(),
        Int4(),
        Int3(),
        Gptq(),
        Awq(),
        Hqq(),
        MixedBits(),
    )
}
