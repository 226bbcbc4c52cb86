"""Energy and carbon: rows over one meter session and over the training stages."""

from __future__ import annotations

from typing import Final

from ...spaces.device import CPU
from ..devices.here import device_name
from ..devices.table import DEFAULT_REGION, Device, device_row, grid, pue
from ..measurement import Measurement, missing
from ..metric import Evidence, Metric

JOULES_PER_KWH: Final = 3.6e6
WHERE: Final = ("batch", "prompt_tokens", "output_tokens", "threads", "device", "runtime")


def energy(evidence: Evidence) -> Measurement:
    """Joules above idle to answer one text."""
    power = evidence.power
    if power is None:
        return missing("joule", "no meter was read")
    if power.joules_per_repeat is None or power.source is None:
        return missing("joule", power.reason or f"{power.meter} told nothing")
    batch = evidence.workload.batch
    facts: dict[str, str | int | float] = {"meter": power.meter, **dict(power.assumptions)}
    if power.idle_watts is not None:
        facts["idle_watts_subtracted"] = power.idle_watts
    return Measurement(
        power.joules_per_repeat / batch,
        "joule",
        power.source,
        stderr=None if power.stderr is None else power.stderr / batch,
        n=power.n,
        over=None if power.n is None else "repeats",
        conditions=evidence.conditions(*WHERE, **facts),
    )


def carbon(evidence: Evidence) -> Measurement:
    """Grams of CO2e to answer 1,000 texts."""
    joules = energy(evidence)
    if joules.value is None:
        return missing("gram", str(joules.reason))
    row = grid(str(evidence.setting("region", DEFAULT_REGION)))
    overhead = float(evidence.setting("pue", pue()))
    factor = 1000 / JOULES_PER_KWH * overhead * row.gco2e_per_kwh
    facts = {
        "region": row.region,
        "gco2e_per_kwh": row.gco2e_per_kwh,
        "grid_source": f"{row.source}, {row.year}",
        "pue": overhead,
    }
    return Measurement(
        joules.value * factor,
        "gram",
        "modelled",
        stderr=None if joules.stderr is None else joules.stderr * factor,
        n=joules.n,
        over=joules.over,
        conditions=tuple(sorted({**dict(joules.conditions), **facts}.items())),
    )


def training_energy(evidence: Evidence) -> Measurement:
    """Kilowatt-hours of the Train stages: their seconds at full draw of the workload's threads."""
    if evidence.stages is None:
        return missing("kWh", "the stages' costs are not known")
    row = host_row(evidence)
    if row is None:
        return missing("kWh", "no row of the device table for what trains here; set `device`")
    seconds = sum(stage.seconds for stage in evidence.stages if stage.trains)
    watts = row.watts(1.0) * evidence.workload.threads
    return Measurement(
        seconds * watts / JOULES_PER_KWH,
        "kWh",
        "modelled",
        n=1,
        over="repeats",
        conditions=evidence.conditions(
            "threads",
            device_row=row.name,
            power_source=f"{row.power_source}, {row.power_date}",
            watts=watts,
        ),
    )


def host_row(evidence: Evidence) -> Device | None:
    """The device row of the machine that timed and trained; None: unknown, or not in the table."""
    workload = evidence.workload
    timed = evidence.timings.device if evidence.timings else device_name(workload.device)
    if evidence.workload.torch_device != CPU:
        return device_row(timed)
    return device_row(str(evidence.setting("device", timed)))


METRICS: Final = (
    Metric(
        name="energy",
        unit="joule",
        direction="minimize",
        resource="energy",
        needs="built",
        pieces=frozenset({"power"}),
        definition="Joules to answer one text, idle draw subtracted, without the data centre's.",
        source="arXiv 1906.02243; meters: NVML, RAPL, or P_idle + u (P_max - P_idle)",
        evaluate=energy,
        follows="latency_p50",
    ),
    Metric(
        name="carbon",
        unit="gram",
        direction="minimize",
        resource="energy",
        needs="built",
        pieces=frozenset({"power"}),
        definition="Grams of CO2e to answer 1,000 texts: energy x PUE x the grid's intensity.",
        source="arXiv 2104.10350; grid table: Our World in Data, IEA",
        evaluate=carbon,
        follows="energy",
    ),
    Metric(
        name="training_energy",
        unit="kWh",
        direction="minimize",
        resource="energy",
        needs="trained",
        pieces=frozenset({"stages"}),
        definition="Kilowatt-hours of all Train stages when they were made, at full draw; no PUE.",
        source="arXiv 1906.02243",
        evaluate=training_energy,
        follows="training_time",
    ),
)
