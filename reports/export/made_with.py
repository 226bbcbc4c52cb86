"""Where bits are comparable: the versions and the processor that a proof was made with."""

from __future__ import annotations

from ...evaluators.devices.here import device_name
from ...search.subject import environment_pairs
from ...spaces.paper import Workload


def made_with(workload: Workload) -> dict[str, str]:
    """Versions of the libraries, threads and processor (or GPU) of a proof made here and now."""
    threads, device = workload.threads, workload.device
    return {**dict(environment_pairs(threads, device)), "processor": device_name(device)}
