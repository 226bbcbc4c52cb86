"""Where work is computed: the CPU, or one CUDA GPU, by the words that a workload says.

Candidates live on the CPU: there they are stored, loaded and compared. A step that computes much
takes its module to the bench's device and back, so that no other step need know of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from torch import nn

CPU: Final = "cpu"


def torch_device(said: str) -> str:
    """A workload's device as torch names it; `here` and rows of the device table are the CPU.

    >>> [torch_device(said) for said in ("here", "cuda", "cuda:1", "server-cpu-thread")]
    ['cpu', 'cuda:0', 'cuda:1', 'cpu']
    """
    kind, _, number = said.partition(":")
    return f"cuda:{number or 0}" if kind == "cuda" else CPU


@contextmanager
def computing_on(device: str, *modules: nn.Module) -> Iterator[None]:
    """While it lasts, the modules stand on a device; afterwards on the CPU again.

    What torch keeps of the GPU is given back at the end: other workers share it.

    Args:
        device: as torch names it.
        modules: moved in place, their parameters stay the same objects.
    """
    if device == CPU:
        yield
        return
    try:
        for module in modules:
            module.to(device)
        yield
    finally:
        for module in modules:
            module.to(CPU)
        give_back(device)


def give_back(device: str) -> None:
    """Lets other processes have what torch holds of a GPU and does not use."""
    if device != CPU:
        import torch

        torch.cuda.empty_cache()


@contextmanager
def to_the_bit(device: str) -> Iterator[None]:
    """While it lasts, the same work gives the same bits on a GPU too, as on the CPU it always does.

    Torch then refuses, by name, the few operations for which it has no such algorithm.

    Args:
        device: as torch names it.
    """
    if device == CPU:
        yield
        return
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    # Memory that is not yet written is nobody's result; filling it takes a kernel each time.
    filling = cast(Any, torch.utils.deterministic)
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        filling.fill_uninitialized_memory,
    )
    torch.use_deterministic_algorithms(True)
    filling.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        filling.fill_uninitialized_memory = before[2]
