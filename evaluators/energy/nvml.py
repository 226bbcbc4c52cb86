"""NVML: the energy counter of NVIDIA GPUs, in millijoules since the driver was loaded."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from ..devices.cuda import Gpu
from .meter import Facts, Meter, MeterSource, NoMeter

IDLE_SECONDS: Final = 2.0
"""The driver refreshes the counter every 20 to 100 ms."""


class NvmlMeter:
    """Joules of one GPU's board.

    Args:
        nvml: the `pynvml` module, initialised.
        handle: of the GPU.
        sleep, clock: how to wait while the idle draw is taken.
    """

    name = "nvml"
    source: MeterSource | None = "measured"
    reason: str | None = None
    block_s = 0.5  # it refreshes every 100 ms

    def __init__(
        self,
        nvml: Any,
        handle: Any,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nvml = nvml
        self._handle = handle
        self._sleep = sleep
        self._clock = clock
        self._started_mj = self._millijoules()

    def joules(self) -> float:
        """Energy of the board since the meter was made."""
        return (self._millijoules() - self._started_mj) / 1e3

    def idle_watts(self) -> float:
        """Draw while this process sleeps; whatever else runs on the GPU is in it."""
        before, started = self.joules(), self._clock()
        self._sleep(IDLE_SECONDS)
        return (self.joules() - before) / (self._clock() - started)

    def assumptions(self) -> Facts:
        """None: it is the board's own counter."""
        return ()

    def _millijoules(self) -> int:
        return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))


def nvml_meter(gpu: Gpu) -> Meter:
    """The meter of a GPU, or why there is none."""
    try:
        import pynvml
    except ImportError:
        return NoMeter("pynvml is not installed; install paretune[energy]")
    try:
        pynvml.nvmlInit()
        return NvmlMeter(pynvml, pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid))
    except pynvml.NVMLError as error:
        return NoMeter(f"NVML cannot read {gpu.name}, cuda:{gpu.index}: {error}")
