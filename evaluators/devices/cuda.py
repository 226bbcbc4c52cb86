"""The CUDA GPUs of this machine, asked of their driver: without torch, a context, or any memory.

They are numbered as torch numbers them: `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER` are the
driver's own, where NVML counts every board in the order of the bus.
"""

from __future__ import annotations

import ctypes
import uuid
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

LIBRARY: Final = "libcuda.so.1"


@dataclass(frozen=True)
class Gpu:
    """One CUDA GPU that this process may use.

    Args:
        index: torch's `cuda:N`.
        name: as its driver says it.
        memory_bytes: all of it.
        uuid: the board's own name, by which NVML finds it.
    """

    index: int
    name: str
    memory_bytes: int
    uuid: str


@dataclass(frozen=True)
class Driver:
    """What the driver shows.

    Args:
        cuda: the newest CUDA that it runs, (major, minor).
        gpus: by number.
    """

    cuda: tuple[int, int]
    gpus: tuple[Gpu, ...]


@cache
def driver() -> Driver | None:
    """What this machine's driver shows; None: there is no driver, or it shows no GPU."""
    try:
        return read_driver(ctypes.CDLL(LIBRARY))
    except OSError:
        return None


def read_driver(library: Any) -> Driver | None:
    """What a driver library shows.

    Args:
        library: `libcuda`, as ctypes loads it.
    """
    count, version = ctypes.c_int(), ctypes.c_int()
    if library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    library.cuDriverGetVersion(ctypes.byref(version))
    cuda = (version.value // 1000, version.value % 1000 // 10)
    return Driver(cuda, tuple(_gpu(library, index) for index in range(count.value)))


def _gpu(library: Any, index: int) -> Gpu:
    handle, size = ctypes.c_int(), ctypes.c_size_t()
    name, own = ctypes.create_string_buffer(256), (ctypes.c_ubyte * 16)()
    library.cuDeviceGet(ctypes.byref(handle), index)
    library.cuDeviceGetName(name, 256, handle)
    library.cuDeviceTotalMem_v2(ctypes.byref(size), handle)
    # The second version names a part of a board by itself, whose energy NVML does not count;
    # drivers from before 2021 have the first alone.
    ask = getattr(library, "cuDeviceGetUuid_v2", None) or library.cuDeviceGetUuid
    ask(own, handle)
    return Gpu(index, name.value.decode(), size.value, f"GPU-{uuid.UUID(bytes=bytes(own))}")
