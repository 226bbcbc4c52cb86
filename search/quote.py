"""The quote: what a search would cost, before any of it runs. Always `modelled`, with a range.

A sample of legal configurations is lowered; their trainings are counted in FLOPs, and FLOPs become
seconds at this machine's own matrix-product rate times the share of it that training reaches.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from ..errors import StudyError
from ..evaluators.compute.step import step_flops
from ..evaluators.devices.here import device_name
from ..spaces.configuration import Configuration
from ..spaces.device import CPU
from ..spaces.lower import Graph, lower
from ..spaces.profile import forward_flops, parameters
from ..spaces.runtimes import RUNTIMES
from ..spaces.space import Space
from .adjust import adjusted
from .budget import energy
from .engines.slot import THREAD_VARIABLES
from .foresight import refuse_hopeless
from .rules import Lookup, tariff
from .stages import StageStore, cache_root
from .study import Study
from .subject import load_material
from .units import readable

SAMPLE: Final = 200
REACHED: Final = (0.15, 0.6)
"""Share of a processor's matrix-product rate that training a transformer reaches, low and high."""

REACHED_ON_GPU: Final = (0.01, 0.5)
"""The same of a GPU, which a small model keeps waiting for the next kernel: docs/log.md."""

JUDGING_SECONDS: Final = (2.0, 8.0)
"""Opening an artifact, timing it and reading its power, low and high."""

PRODUCTS: Final = """
import sys, time
import numpy
size, seconds = int(sys.argv[1]), float(sys.argv[2])
a = numpy.random.default_rng(0).standard_normal((size, size), dtype=numpy.float32)
a @ a
done, started = 0, time.perf_counter()
while time.perf_counter() - started < seconds:
    a @ a
    done += 1
print(done * 2 * size**3 / (time.perf_counter() - started))
"""
"""Matrix products for an interpreter of their own: threads are settled when NumPy is loaded."""

GPU_PRODUCTS: Final = """
import sys, time
import torch
size, seconds, device = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
a = torch.randn(size, size, device=device)
(a @ a).sum().item()
done, started = 0, time.perf_counter()
while time.perf_counter() - started < seconds:
    a @ a
    torch.cuda.synchronize(device)
    done += 1
print(done * 2 * size**3 / (time.perf_counter() - started))
"""
"""The same on a GPU."""


def quote(study: Study) -> dict[str, Any]:
    """What a search would cost.

    Args:
        study: as resolved.

    Returns:
        Trials, trainings, hours, kWh and disk, each `[low, high]`, what they rest on, and
        `adjusted`: what is not searched as written.

    Raises:
        BadRequest: what the search itself would refuse.
    """
    study, words = adjusted(study, judged=False)
    store = StageStore(cache_root())
    material = load_material(study, store.root / "data")
    subject = material.subject
    space = Space.of(study.space, subject.paper)
    refuse_hopeless(study, material, space, judged=False)
    lookup = Lookup(subject)
    drawn = list({c.digest: c for c in space.sample(SAMPLE, study.seed)}.values())
    legal = [c for c in drawn if not lookup.objections(c)]
    if not legal:
        raise StudyError(f"none of {len(drawn)} sampled configurations is legal; widen the space")
    trials = study.budget.trials or 100
    base = lower(subject.baseline, subject)
    graphs = [lookup.graph(c) for c in legal]
    trainings = _trainings(study, legal, lookup, trials)
    tokens = material.task.max_length
    own, recoveries = _training_flops([base], tokens), _training_flops(graphs, tokens)
    long = [cost for name, cost in recoveries.items() if name and name not in own]
    flops = sum(own.values()) + (trainings - 1) * _mean(long)
    flops += trials * recoveries.get(None, 0.0) / len(graphs)
    items = len(material.task.splits["validation"])
    flops += trials * forward_flops(subject.profile, items, tokens)
    device = study.workload.spec().torch_device
    rate = matrix_rate(study.workload.threads, device)
    reached = REACHED if device == CPU else REACHED_ON_GPU
    at_once = _at_once(study)
    hours = [
        (flops / (rate * share) + trials * judging) / at_once / 3600
        for share, judging in zip(reversed(reached), JUDGING_SECONDS, strict=True)
    ]
    if study.budget.minutes is not None:
        hours = [min(value, study.budget.minutes / 60) for value in hours]
    rates = tariff(study)
    kwh = [energy(h * at_once, rates).value for h in hours]
    return {
        "trials": trials,
        "trainings": trainings,
        "hours": _range(hours),
        "kwh": _range([value for value in kwh if value is not None]) or None,
        "disk_gb": _range([_disk(trainings, trials, graphs, low) / 1e9 for low in (True, False)]),
        "legal_share_of_draws": round(len(legal) / len(drawn), 3),
        "matrix_product_gflops": round(rate / 1e9, 1),
        "adjusted": words,
        "source": f"modelled: FLOPs on paper, at {100 * reached[0]:g} to {100 * reached[1]:g} % of "
        f"the matrix-product rate of {device_name(study.workload.device)}",
    }


def in_words(figures: Mapping[str, Any]) -> dict[str, Any]:
    """A quote as a person reads it: its ranges in words, adjustments where there are any.

    >>> in_words({"trials": 4, "hours": [0.5, 2.0], "disk_gb": [1.0, 3.0], "adjusted": []})
    {'trials': 4, 'hours': '30.0 min to 2.00 h', 'disk_gb': '1 to 3'}
    """
    words = {"adjusted": "; ".join(figures["adjusted"])} if figures.get("adjusted") else {}
    ranges = {
        name: _in_words(name, *value) if isinstance(value, list) else value
        for name, value in figures.items()
        if name != "adjusted"
    }
    return {**ranges, **words}


def _in_words(name: str, low: float, high: float) -> str:
    if name == "hours":
        return f"{readable(low, 'hour')} to {readable(high, 'hour')}"
    return f"{low:g} to {high:g}"


def matrix_rate(threads: int, device: str = CPU, seconds: float = 0.4) -> float:
    """FLOP/s of single-precision matrix products here and now.

    Args:
        threads: of one worker. device: `cpu` or `cuda:N`.
        seconds: that it may take.
    """
    program, size = (PRODUCTS, 512) if device == CPU else (GPU_PRODUCTS, 4096)
    done = subprocess.run(
        [sys.executable, "-c", program, str(size), str(seconds), device],
        env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout)


def _at_once(study: Study) -> int:
    """Workers that run at once: on this machine, no more than it has cores for."""
    workers = study.engine.workers
    if study.engine.kind == "ray":
        return workers
    return min(workers, max(1, (os.cpu_count() or 1) // study.workload.threads))


def _trainings(study: Study, legal: Sequence[Configuration], lookup: Lookup, trials: int) -> int:
    """Long trainings, the baseline's among them: a sample says how often a new one is drawn."""
    seen = {name for c in legal[: trials - 1] for name in lookup.trainings(c)}
    limit = study.budget.trainings
    return 1 + len(seen) if limit is None else min(limit, 1 + len(seen))


def _training_flops(graphs: Sequence[Graph], tokens: int) -> dict[str | None, float]:
    """Of each long training by its name, which graphs share; of all recoveries together: None."""
    found: dict[str | None, float] = {}
    for node in (node for graph in graphs for node in graph.trained):
        recipe = node.before.recipe
        cost = step_flops(node.before, recipe.batch, tokens) * recipe.total_steps
        found[node.training] = cost + (0.0 if node.training else found.get(None, 0.0))
    return found


def _disk(trainings: int, trials: int, graphs: Sequence[Graph], low: bool) -> float:
    weights = _mean([4.0 * parameters(g.paper.profile) for g in graphs])
    artifact = _mean(
        [float(RUNTIMES[g.paper.runtime or "eager"].payload_bytes(g.paper.profile)) for g in graphs]
    )
    states = 1 if low else 4  # a training paused at a lower rung keeps its optimiser's state
    return trainings * states * weights + trials * (artifact + (0 if low else weights))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def _range(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.2g}") for value in values]
