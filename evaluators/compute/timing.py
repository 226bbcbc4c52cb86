"""Timing a deployed model: warm-up, then repeats until the median is known well enough.

Raw samples are returned and stored; `latency.py` turns them into figures. Whoever calls this holds
the host for itself (`host.py`).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from ...spaces.device import CPU
from ...spaces.paper import Workload
from ...spaces.steps import Runner
from ...spaces.task import Batch
from ..devices.here import device_name
from ..metric import Timings
from .probe import probe_seconds
from .quantile import median_interval

STEADY: Final = 0.1
"""Warm-up ends early when two repeats in a row differ by no more than this share."""

LEAST: Final = 20
"""Repeats before the median's interval is asked: as many as a 95th percentile needs."""

TIGHT: Final = 0.02
"""Repeating ends when the median's interval is this share of it to either side."""


@dataclass(frozen=True)
class Patience:
    """How long a timing session may take.

    Args:
        warmup: most repeats that are thrown away, at least one; fewer when they are steady.
        repeats: most repeats; fewer, but 20, when the median is known well enough.
        budget_s: most seconds, warm-up included.
        least: repeats that are taken even so.
    """

    warmup: int = 10
    repeats: int = 200
    budget_s: float = 20.0
    least: int = 3


def time_runner(
    runner: Runner,
    batch: Batch,
    workload: Workload,
    *,
    patience: Patience = Patience(),
    clock: Callable[[], float] = time.perf_counter,
    cpu_clock: Callable[[], float] = time.process_time,
) -> Timings:
    """Seconds that a runner takes to answer a batch, repeat by repeat.

    With `workload.output_tokens`, a repeat writes that many tokens, and its prefill is a second
    call that writes one: time to first token. Decode is the difference.

    Args:
        runner: opened with `workload.threads` threads, on the workload's device.
        batch: `workload.batch` texts of `workload.prompt_tokens` tokens.
        patience: when to stop.
        clock, cpu_clock: seconds that pass, and seconds that this process computes.
    """
    answer = answering(runner, batch, workload)
    started = clock()
    warm = _warm_up(answer, patience, clock)
    warm_at, warm_cpu = clock(), cpu_clock()
    seconds: list[float] = []
    prefill: list[float] = []
    while len(seconds) < patience.repeats:
        if len(seconds) >= patience.least and clock() - started > patience.budget_s:
            break
        if len(seconds) >= LEAST and _tight(seconds):
            break
        seconds.append(_seconds(answer, clock))
        if workload.output_tokens:
            prefill.append(_seconds(lambda: runner.generate(batch, 1), clock))
    share = (cpu_clock() - warm_cpu) / (clock() - warm_at)
    decode = [whole - first for whole, first in zip(seconds, prefill, strict=False)]
    return Timings(
        seconds=tuple(seconds),
        warmup=warm,
        device=device_name(workload.device),
        prefill_seconds=tuple(prefill),
        decode_seconds=tuple(decode) if workload.output_tokens > 1 else (),
        cpu_share=share if workload.torch_device == CPU else None,
    )


def timing_session(runner: Runner, batch: Batch, workload: Workload, patience: Patience) -> Timings:
    """`time_runner`, and on the CPU how fast the machine is: the probe's seconds on either side.

    Args:
        runner, batch, workload, patience: see `time_runner`; the caller holds the host.
    """
    if workload.torch_device != CPU:
        return time_runner(runner, batch, workload, patience=patience)
    before = probe_seconds()
    timings = time_runner(runner, batch, workload, patience=patience)
    return replace(timings, probe_seconds=(before + probe_seconds()) / 2)


def answering(runner: Runner, batch: Batch, workload: Workload) -> Callable[[], object]:
    """What one repeat does: generate where the workload writes tokens, else answer."""
    if workload.output_tokens:
        return lambda: runner.generate(batch, workload.output_tokens)
    return lambda: runner.logits(batch)


def save_timings(folder: Path, timings: Timings) -> str:
    """Writes the raw samples into `folder/DIGEST.json` and returns the digest."""
    text = json.dumps(asdict(timings), sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return name


def load_timings(folder: Path, name: str) -> Timings:
    """The raw samples that `save_timings` wrote."""
    data = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    lists = {key: tuple(value) for key, value in data.items() if isinstance(value, list)}
    return Timings(**{**data, **lists})


def _warm_up(answer: Callable[[], object], patience: Patience, clock: Callable[[], float]) -> int:
    """Repeats thrown away: until two after the first are alike, or a limit is met."""
    taken = [_seconds(answer, clock)]
    while len(taken) < patience.warmup and sum(taken) < patience.budget_s / 2:
        taken.append(_seconds(answer, clock))
        if len(taken) > 2 and abs(taken[-1] - taken[-2]) <= STEADY * taken[-2]:
            break
    return len(taken)


def _tight(seconds: list[float]) -> bool:
    low, high = median_interval(seconds)
    return high - low <= 2 * TIGHT * sorted(seconds)[len(seconds) // 2]


def _seconds(answer: Callable[[], object], clock: Callable[[], float]) -> float:
    before = clock()
    answer()
    return clock() - before
