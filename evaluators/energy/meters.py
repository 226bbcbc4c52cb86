"""Choosing between the meters that a machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ...spaces.device import CPU
from ...spaces.paper import Workload
from ..devices.here import gpu_of, processor
from ..devices.table import device_row
from .meter import Meter, NoMeter
from .model import UtilisationModel
from .nvml import nvml_meter
from .rapl import POWERCAP, RaplMeter, rapl_domains

NAME_IT: Final = "set `settings.device` to the row that stands for it (`paretune devices`)"


def find_meter(
    workload: Workload, *, device: str | None = None, powercap: Path = POWERCAP
) -> Meter:
    """The best meter that this machine has for a workload: counters before a model before none.

    Args:
        workload: its `device` is `here` (the CPU), `cuda` or `cuda:N`, or a row of the device
            table.
        device: the row of the device table that stands for this machine; None: its processor's.
        powercap: where the kernel shows RAPL counters.
    """
    if workload.torch_device != CPU:
        gpu = gpu_of(workload.device)
        return NoMeter(f"no GPU {workload.device} here") if gpu is None else nvml_meter(gpu)
    name = processor()
    row = device_row(device or name)
    if workload.device != "here" and (row is None or row.name != workload.device):
        return NoMeter(f"the workload is for {workload.device}, this machine is {name}; {NAME_IT}")
    domains = rapl_domains(powercap)
    if domains:
        return RaplMeter(domains)
    if row is not None:
        return UtilisationModel(row, workload.threads)
    return NoMeter(
        f"no readable RAPL counters in {powercap}, no row of the device table for {name}; {NAME_IT}"
    )
