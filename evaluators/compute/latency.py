"""Latency and throughput: rows over one timing session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..measurement import Measurement, missing
from ..metric import Evidence, Metric
from .quantile import quantile

WHERE: Final = ("batch", "prompt_tokens", "output_tokens", "threads", "device", "runtime")
NOT_TIMED: Final = "there was no timing session"
TAIL_REPEATS: Final = 20
"""Fewer repeats say nothing of a 95th percentile."""


def latency_p50(evidence: Evidence) -> Measurement:
    """Median seconds from a batch of texts to its answers."""
    if evidence.timings is None:
        return missing("second", NOT_TIMED)
    return _figure(evidence, evidence.timings.seconds, 0.5)


def latency_p95(evidence: Evidence) -> Measurement:
    """95th percentile of the seconds from a batch of texts to its answers."""
    if evidence.timings is None:
        return missing("second", NOT_TIMED)
    n = len(evidence.timings.seconds)
    if n < TAIL_REPEATS:
        return missing("second", f"a 95th percentile needs {TAIL_REPEATS} repeats, there are {n}")
    return _figure(evidence, evidence.timings.seconds, 0.95)


def throughput(evidence: Evidence) -> Measurement:
    """Texts per second of one instance that is never idle: batch / median latency."""
    latency = latency_p50(evidence)
    if latency.value is None:
        return missing("1/second", str(latency.reason))
    rate = evidence.workload.batch / latency.value
    relative = None if latency.stderr is None else latency.stderr / latency.value
    return Measurement(
        rate,
        "1/second",
        "measured",
        stderr=None if relative is None else rate * relative,
        n=latency.n,
        over="repeats",
        conditions=latency.conditions,
    )


def ttft_p50(evidence: Evidence) -> Measurement:
    """Median seconds to the first written token."""
    if evidence.timings is None:
        return missing("second", NOT_TIMED)
    if not evidence.timings.prefill_seconds:
        return missing("second", "the workload writes no tokens")
    return _figure(evidence, evidence.timings.prefill_seconds, 0.5)


def tpot_p50(evidence: Evidence) -> Measurement:
    """Median seconds per written token after the first."""
    if evidence.timings is None:
        return missing("second", NOT_TIMED)
    if not evidence.timings.decode_seconds:
        return missing("second", "the workload writes fewer than two tokens")
    steps = evidence.workload.output_tokens - 1
    return _figure(evidence, tuple(s / steps for s in evidence.timings.decode_seconds), 0.5)


def _figure(evidence: Evidence, samples: tuple[float, ...], share: float) -> Measurement:
    assert evidence.timings is not None
    value, stderr = quantile(samples, share)
    timings = evidence.timings
    facts: dict[str, int | float] = {"warmup": timings.warmup}
    if timings.cpu_share is not None:
        facts["cpu_share"] = round(timings.cpu_share, 3)
    if timings.probe_seconds is not None:
        facts["probe_ms"] = round(1e3 * timings.probe_seconds, 4)
    return Measurement(
        value,
        "second",
        "measured",
        stderr=stderr,
        n=len(samples),
        over="repeats",
        conditions=evidence.conditions(*WHERE, **facts),
    )


def _row(name: str, definition: str, evaluate: Callable[[Evidence], Measurement]) -> Metric:
    return Metric(
        name=name,
        unit="1/second" if name == "throughput" else "second",
        direction="maximize" if name == "throughput" else "minimize",
        resource="computation",
        needs="built",
        pieces=frozenset({"timings"}),
        definition=definition,
        source="Maritz and Jarrett, JASA 73 (1978): standard error of a quantile",
        evaluate=evaluate,
    )


METRICS: Final = (
    _row(
        "latency_p50",
        "Median wall time from a batch of texts to its answers, warm, alone on the host.",
        latency_p50,
    ),
    _row(
        "latency_p95",
        "95th percentile of the wall time from a batch of texts to its answers.",
        latency_p95,
    ),
    _row("throughput", "Texts answered per second: batch / latency_p50.", throughput),
    _row("ttft_p50", "Median wall time to the first written token (prefill).", ttft_p50),
    _row("tpot_p50", "Median wall time per written token after the first (decode).", tpot_p50),
)
