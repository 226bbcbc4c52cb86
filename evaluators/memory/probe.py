"""The process that `peak.py` starts: opens an artifact, answers once, says how high memory went."""

from __future__ import annotations

import importlib
import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ...spaces.device import CPU
from ...spaces.task import Batch


def high_water_bytes() -> int:
    """Highest resident memory of this process so far.

    `VmHWM`, not `ru_maxrss`: on Linux the latter survives exec, so that a child of a large process
    would report its parent.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def gpu_high_water_bytes(device: str) -> int | None:
    """Highest memory that torch's tensors took of a GPU so far; None: it had none there."""
    if device == CPU:
        return None
    import torch

    return torch.cuda.max_memory_allocated(device) or None


def probe(request: dict[str, Any]) -> dict[str, int | None]:
    """The baseline and the peaks, in bytes; `request` is what `peak.py` sends."""
    with np.load(request["batch"], allow_pickle=False) as arrays:
        batch = Batch(**arrays)
    baseline = high_water_bytes()
    module, _, function = request["opener"].partition(":")
    opener = getattr(importlib.import_module(module), function)
    device = request["device"]
    runner = opener(Path(request["artifact"]), threads=request["threads"], device=device)
    if request["output_tokens"]:
        runner.generate(batch, request["output_tokens"])
    else:
        runner.logits(batch)
    peak, gpu_peak = high_water_bytes(), gpu_high_water_bytes(device)
    runner.close()
    return {"baseline_bytes": baseline, "peak_bytes": peak, "gpu_peak_bytes": gpu_peak}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    Path(asked["answer"]).write_text(json.dumps(probe(asked)), encoding="utf-8")
