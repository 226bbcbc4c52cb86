"""Highest memory of a deployed model, taken in a fresh process; and the rows over it.

Never in the process that searches: its heap has seen other models.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np

from ...spaces.device import CPU
from ...spaces.paper import Workload
from ...spaces.task import Batch
from ..measurement import Measurement, missing
from ..metric import Evidence, Metric, Peak

OPENER: Final = "paretune.spaces.runtimes:open_artifact"


def peak_memory(
    folder: Path,
    batch: Batch,
    workload: Workload,
    *,
    opener: str = OPENER,
    timeout_s: float = 300.0,
) -> Peak:
    """Highest resident memory of a new process that opens an artifact and answers once.

    Args:
        folder: the artifact.
        batch: what it answers.
        workload: threads, device, and how many tokens it writes.
        opener: `module:function` of `(folder, threads=n, device=name) -> Runner`.
        timeout_s: after that the process is ended and the peak is missing.
    """
    with tempfile.TemporaryDirectory() as scratch:
        question, answer = Path(scratch) / "batch.npz", Path(scratch) / "peak.json"
        np.savez(question, **asdict(batch))
        request: dict[str, str | int] = {
            "artifact": str(folder),
            "batch": str(question),
            "answer": str(answer),
            "opener": opener,
            "threads": workload.threads,
            "device": workload.torch_device,
            "output_tokens": workload.output_tokens,
        }
        trouble = _run(request, timeout_s)
        if trouble is not None:
            return Peak(None, reason=trouble)
        found = json.loads(answer.read_text(encoding="utf-8"))
    return Peak(
        found["peak_bytes"],
        baseline_bytes=found["baseline_bytes"],
        gpu_bytes=found["gpu_peak_bytes"],
    )


def _run(request: dict[str, str | int], timeout_s: float) -> str | None:
    """What went wrong, None where nothing did."""
    command = [sys.executable, "-m", "paretune.evaluators.memory.probe", json.dumps(request)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(request["threads"])}
    try:
        done = subprocess.run(
            command, env=environment, timeout=timeout_s, capture_output=True, text=True, check=False
        )
    except subprocess.TimeoutExpired:
        return f"the process that measures memory took longer than {timeout_s:g} s"
    if done.returncode == 0:
        return None
    if done.returncode == -9:
        return "the process that measures memory was killed, most likely for want of memory"
    last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
    return f"the process that measures memory ended with {done.returncode}: {last[0]}"


def _evaluate(evidence: Evidence) -> Measurement:
    peak = evidence.peak
    if peak is None:
        return missing("byte", "no fresh process was measured yet")
    if peak.bytes is None:
        return missing("byte", peak.reason or "the process told nothing")
    facts = {} if peak.baseline_bytes is None else {"baseline_bytes": peak.baseline_bytes}
    return Measurement(
        float(peak.bytes),
        "byte",
        "measured",
        n=1,
        over="repeats",
        conditions=evidence.conditions(
            "batch", "prompt_tokens", "output_tokens", "threads", "runtime", **facts
        ),
    )


def _evaluate_gpu(evidence: Evidence) -> Measurement:
    peak = evidence.peak
    if evidence.workload.torch_device == CPU:
        return missing("byte", "the workload is the CPU's")
    if peak is None:
        return missing("byte", "no fresh process was measured yet")
    if peak.gpu_bytes is None:
        return missing("byte", peak.reason or "the runtime does not say what it takes of the GPU")
    where = ("batch", "prompt_tokens", "output_tokens", "device", "runtime")
    return Measurement(
        float(peak.gpu_bytes),
        "byte",
        "measured",
        n=1,
        over="repeats",
        conditions=evidence.conditions(*where),
    )


METRICS: Final = (
    Metric(
        name="peak_memory",
        unit="byte",
        direction="minimize",
        resource="memory",
        needs="built",
        pieces=frozenset({"peak"}),
        definition="Highest resident memory of a fresh process, interpreter and libraries "
        "included, that opens the artifact and answers one batch.",
        source="VmHWM of /proc/self/status",
        evaluate=_evaluate,
    ),
    Metric(
        name="peak_gpu_memory",
        unit="byte",
        direction="minimize",
        resource="memory",
        needs="built",
        pieces=frozenset({"peak"}),
        definition="Highest memory that weights, activations and the workspace of their products "
        "take of the GPU in that process, the driver's own context apart.",
        source="torch.cuda.max_memory_allocated",
        evaluate=_evaluate_gpu,
    ),
)
