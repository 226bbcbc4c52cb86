"""This machine: processor, cores, memory, GPUs; asked without importing torch."""

from __future__ import annotations

import os
import platform
import runpy
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ...spaces.device import CPU, torch_device
from .cuda import Gpu, driver


@cache
def processor() -> str:
    """The CPU's model name, as the kernel gives it."""
    table = Path("/proc/cpuinfo")
    if table.exists():
        for line in table.read_text(encoding="utf-8").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def threads() -> int:
    """Hardware threads that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Main memory."""
    import psutil

    return int(psutil.virtual_memory().total)


def gpus() -> tuple[Gpu, ...]:
    """The CUDA GPUs that this process may use, by torch's numbers; empty where there are none."""
    found = driver()
    return () if found is None else found.gpus


def gpu_of(device: str) -> Gpu | None:
    """The GPU that a workload's device names; None: it names the CPU, or none that is here."""
    wanted = torch_device(device)
    return next((gpu for gpu in gpus() if f"cuda:{gpu.index}" == wanted), None)


def device_name(device: str) -> str:
    """The name of what computes for a workload's device: a GPU's, else this machine's processor."""
    gpu = gpu_of(device)
    return processor() if gpu is None else gpu.name


def device_problem(device: str) -> str | None:
    """Why this machine cannot compute on a workload's device, and what to do; None: it can."""
    wanted, found = torch_device(device), driver()
    if wanted == CPU:
        return None
    if found is None:
        return (
            "this machine has no CUDA GPU that a driver shows, only the CPU; set "
            "`workload.device: here`, or use a machine with a GPU"
        )
    if gpu_of(device) is None:
        listed = ", ".join(f"cuda:{gpu.index} ({gpu.name})" for gpu in found.gpus)
        return f"this machine has here (the CPU), {listed}; choose one of these"
    built = torch_cuda()
    if built is None:
        return (
            "the installed torch computes on the CPU alone; install torch for CUDA "
            f"{found.cuda[0]} (https://pytorch.org/get-started), or set `workload.device: here`"
        )
    if int(built.partition(".")[0]) > found.cuda[0]:
        return (
            f"the installed torch is for CUDA {built}, the driver for {found.cuda[0]}."
            f"{found.cuda[1]} at most; update the driver, or install torch for CUDA {found.cuda[0]}"
        )
    return None


@cache
def torch_cuda() -> str | None:
    """The CUDA version that the installed torch is built for; None: none. Torch is not imported."""
    found = find_spec("torch")
    if found is None or found.origin is None:
        return None
    version: str | None = runpy.run_path(str(Path(found.origin).with_name("version.py")))["cuda"]
    return version
