"""What serving and training cost, from the rent of the machine."""

from __future__ import annotations

from typing import Final

from ..compute.latency import latency_p50
from ..energy.use import host_row
from ..measurement import Measurement, missing
from ..metric import Evidence, Metric

WHERE: Final = ("batch", "prompt_tokens", "output_tokens", "concurrency", "threads", "device")


def cost_per_million_queries(evidence: Evidence) -> Measurement:
    """US dollars to answer a million texts at the measured median latency.

    rate / 3600 x latency x 1e6 / texts in flight (arXiv 2212.01340). Without `usd_per_hour` the
    instance is `concurrency` times the workload's threads at the device table's rent.
    """
    latency = latency_p50(evidence)
    if latency.value is None:
        return missing("USD", str(latency.reason))
    workload = evidence.workload
    rent = hourly_rent(evidence, workload.threads * workload.concurrency)
    if isinstance(rent, str):
        return missing("USD", rent)
    rate, source = rent
    factor = rate / 3600 * 1e6 / (workload.concurrency * workload.batch)
    return Measurement(
        latency.value * factor,
        "USD",
        "modelled",
        stderr=None if latency.stderr is None else latency.stderr * factor,
        n=latency.n,
        over="repeats",
        conditions=evidence.conditions(*WHERE, "runtime", usd_per_hour=rate, price_source=source),
    )


def training_cost(evidence: Evidence) -> Measurement:
    """US dollars of the Train stages at the machine's rent."""
    if evidence.stages is None:
        return missing("USD", "the stages' costs are not known")
    rent = hourly_rent(evidence, evidence.workload.threads)
    if isinstance(rent, str):
        return missing("USD", rent)
    rate, source = rent
    seconds = sum(stage.seconds for stage in evidence.stages if stage.trains)
    return Measurement(
        seconds / 3600 * rate,
        "USD",
        "modelled",
        n=1,
        over="repeats",
        conditions=evidence.conditions("threads", usd_per_hour=rate, price_source=source),
    )


def hourly_rent(evidence: Evidence, threads: int) -> tuple[float, str] | str:
    """Rent of the instance in US dollars and where it is from; a reason where it is not known.

    Args:
        threads: hardware threads that the instance has, for rows that are priced by thread.
    """
    told = evidence.setting("usd_per_hour")
    if told is not None:
        return float(told), "the study's settings"
    row = host_row(evidence)
    if row is None:
        return "no price for this processor in the device table; set `usd_per_hour`"
    return row.usd_per_hour * threads, f"{row.price_source}, {row.price_date}"


METRICS: Final = (
    Metric(
        name="cost_per_million_queries",
        unit="USD",
        direction="minimize",
        resource="money",
        needs="built",
        pieces=frozenset({"timings"}),
        definition="Rent while a million texts are answered back to back at the median latency.",
        source="arXiv 2212.01340",
        evaluate=cost_per_million_queries,
        follows="latency_p50",
    ),
    Metric(
        name="training_cost",
        unit="USD",
        direction="minimize",
        resource="money",
        needs="trained",
        pieces=frozenset({"stages"}),
        definition="Rent while the Train stages were made, also where another trial had paid them.",
        source="hours x rate",
        evaluate=training_cost,
        follows="training_time",
    ),
)
