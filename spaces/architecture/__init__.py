"""The table of the `architecture` folder: one row a technique."""

from __future__ import annotations

from typing import Final

from ..technique import Technique
from .subnet import Subnet
from .subnet_free import SubnetFree

OFF: Final = "given"
TABLE: dict[str, Technique] = {row.name: row for row in (Subnet(), SubnetFree())}
