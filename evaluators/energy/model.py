"""A model of the processor's draw, for machines whose counters cannot be read."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..devices.table import Device
from .meter import Facts, MeterSource


class UtilisationModel:
    """Energy as the processor's data sheet and the load tell it: P = P_idle + u (P_max - P_idle).

    The load is this process's CPU time, so what other processes do is not billed.

    Args:
        device: a row of the device table.
        threads: hardware threads whose idle draw belongs to the workload.
        clock, cpu_clock: seconds that pass, and seconds that this process computes.
    """

    name = "utilisation model"
    source: MeterSource | None = "modelled"
    reason: str | None = None
    block_s = 0.02  # it reads clocks, which have no refresh to wait for

    def __init__(
        self,
        device: Device,
        threads: int,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self._device = device
        self._threads = threads
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._started = clock()
        self._cpu_started = cpu_clock()

    def joules(self) -> float:
        """Modelled energy of the workload's threads since the meter was made."""
        seconds = self._clock() - self._started
        busy = self._cpu_clock() - self._cpu_started
        dynamic = self._device.peak_watts - self._device.idle_watts
        return self.idle_watts() * seconds + dynamic * busy

    def idle_watts(self) -> float:
        """Idle draw of the workload's threads."""
        return self._device.idle_watts * self._threads

    def assumptions(self) -> Facts:
        """The row of the device table, and its two figures."""
        row = self._device
        return (
            ("device_row", row.name),
            ("idle_watts_per_thread", row.idle_watts),
            ("peak_watts_per_thread", row.peak_watts),
            ("power_source", f"{row.power_source}, {row.power_date}"),
        )
