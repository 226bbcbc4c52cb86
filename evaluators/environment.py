"""What this machine is and what can be measured on it, asked without importing torch."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

from ..spaces.paper import Workload
from .devices.cuda import Gpu
from .devices.here import device_problem, gpus, memory_bytes, processor, threads
from .devices.table import DEFAULT_REGION, device_row, grid, pue
from .energy.meters import find_meter

PACKAGES: Final = (
    "paretune",
    "torch",
    "transformers",
    "peft",
    "onnx",
    "onnxruntime",
    "optuna",
    "numpy",
    "scipy",
    "ray",
    "datasets",
    "nvidia-ml-py",
)


@dataclass(frozen=True)
class Finding:
    """One row of `paretune doctor`.

    Args:
        what: the kind of figure, or the library.
        how: `measured` or `modelled` for figures, `present` for what is there, else `absent`.
        detail: by what means, or what would help.
    """

    what: str
    how: Literal["measured", "modelled", "present", "absent"]
    detail: str


def environment(device: str | None = None) -> dict[str, Any]:
    """Versions, hardware and meters, JSON-ready: what a run stores beside its figures.

    Args:
        device: the row of the device table that stands for this machine; None: its processor's.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "processor": processor(),
        "threads": threads(),
        "memory_bytes": memory_bytes(),
        "gpus": [
            {"index": gpu.index, "name": gpu.name, "memory_bytes": gpu.memory_bytes}
            for gpu in gpus()
        ],
        "meters": {name: _meter(name, device) for name in _devices()},
    }


def doctor() -> Sequence[Finding]:
    """What can be measured here and how, what cannot and why."""
    return (
        Finding("latency", "measured", f"{processor()}, {threads()} threads, monotonic clock"),
        *_gpus(),
        _peak(),
        *(_energy(device) for device in _devices()),
        _carbon(),
        _money(),
        Finding("disk", "present", f"{shutil.disk_usage(Path.cwd()).free / 1e9:.0f} GB free here"),
        *(_package(name) for name in PACKAGES[1:]),
    )


def _devices() -> tuple[str, ...]:
    return ("here", *(f"cuda:{gpu.index}" for gpu in gpus()))


def _gpus() -> Sequence[Finding]:
    if not gpus():
        return (Finding("GPU", "absent", "no CUDA GPU that a driver shows; the CPU computes"),)
    return tuple(_gpu(gpu) for gpu in gpus())


def _gpu(gpu: Gpu) -> Finding:
    device = f"cuda:{gpu.index}"
    problem = device_problem(device)
    detail = f"{gpu.name}, {gpu.memory_bytes / 1e9:.0f} GB"
    if problem is not None:
        return Finding(device, "absent", f"{detail}: {problem}")
    return Finding(device, "present", f"{detail}; set `workload.device: {device}`")


def _meter(name: str, device: str | None) -> dict[str, Any]:
    meter = find_meter(Workload(device=name), device=device)
    found = {"name": meter.name, "source": meter.source, "reason": meter.reason}
    return {**found, "assumptions": dict(meter.assumptions())}


def _energy(device: str) -> Finding:
    meter = find_meter(Workload(device=device))
    what = "energy" if device == "here" else f"energy of {device}"
    if meter.source is None:
        return Finding(what, "absent", meter.reason or meter.name)
    facts = ", ".join(f"{name} {value}" for name, value in meter.assumptions())
    return Finding(what, meter.source, f"{meter.name}: {facts}" if facts else meter.name)


def _peak() -> Finding:
    by = "VmHWM" if Path("/proc/self/status").exists() else "ru_maxrss"
    return Finding("peak memory", "measured", f"{by} of a fresh process; {_gigabytes()} in all")


def _gigabytes() -> str:
    return f"{memory_bytes() / 1e9:.0f} GB"


def _carbon() -> Finding:
    row = grid(DEFAULT_REGION)
    detail = f"{row.gco2e_per_kwh:g} g/kWh ({row.name}, {row.year}), PUE {pue():g}; set `region`"
    return Finding("carbon", "modelled", detail)


def _money() -> Finding:
    row = device_row(processor())
    if row is None:
        return Finding("money", "absent", f"no price for {processor()}; set `usd_per_hour`")
    detail = f"{row.usd_per_hour:g} USD per hour and {row.per} ({row.price_date})"
    return Finding("money", "modelled", f"{detail}; set `usd_per_hour`")


def _package(name: str) -> Finding:
    found = _version(name)
    if found is None:
        return Finding(name, "absent", "not installed")
    return Finding(name, "present", found)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
