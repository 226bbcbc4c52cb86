"""The quote: what a search would cost, before any of it runs. Always `modelled`, with a range.

A sample of legal configurations is lowered; their trainings are counted in FLOPs, and FLOPs become
seconds at this machine's own matrix-product rate times the share of it that training reaches. With
rungs the lower end has each training as far as a trial alone takes it on average; at the upper end
every one was needed whole by some sibling.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final

import numpy as np

from ..errors import StudyError
from ..evaluators.compute.step import step_flops
from ..evaluators.devices.here import device_name
from ..spaces.device import CPU
from ..spaces.lower import Graph, Node, lower
from ..spaces.profile import forward_flops, parameters
from ..spaces.runtimes import RUNTIMES
from ..spaces.space import Space
from ..spaces.task import Task
from .adjust import adjusted
from .budget import energy
from .engines.slot import THREAD_VARIABLES
from .foresight import refuse_hopeless
from .rules import Lookup, tariff
from .stages import StageStore, cache_root
from .study import Study
from .subject import Material, load_material
from .warm_start import earlier_runs

SAMPLE: Final = 200
REACHED: Final = (0.15, 0.6)
"""Share of a processor's matrix-product rate that training a transformer reaches, low and high."""

REACHED_ON_GPU: Final = (0.01, 0.5)
"""The same of a GPU, which a small model keeps waiting for the next kernel: docs/log.md."""

JUDGING_SECONDS: Final = (2.0, 8.0)
"""Opening an artifact, timing it and reading its power, low and high."""

CONFIRMING_SECONDS: Final = (4.0, 15.0)
"""The same where a front is confirmed: memory is taken too, in a fresh process."""

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
    """What a search would cost, with the confirmation of its front.

    Args:
        study: as resolved.

    Returns:
        `trials` (the baseline apart), `rungs` (share of full fidelity and trials that reach it, of
        all; empty without lower rungs), `trainings` and `trainings_of` (the same by the slot that
        asks for them), `confirmation` (points judged, near-ties repeated, further
        trainings), `hours` and `hours_of` (search and confirmation), kWh and disk, each range
        `[low, high]`; what they rest on; and `adjusted`: what is not searched as written.

    Raises:
        BadRequest: what the search itself would refuse.
    """
    study, words = adjusted(study, judged=False)
    store = StageStore(cache_root())
    material = load_material(study, store.root / "data")
    space = Space.of(study.space, material.subject.paper)
    refuse_hopeless(study, material, space, judged=False)
    earlier_runs(study, material, store.root / "data", None, judged=False)
    sample = _sampled(study, material, space)
    begun = study.budget.trials or 100
    trainings = _trainings(study, sample, begun)
    confirming = _confirmation(study, sample, begun)
    pace = _pace(study)
    hours = _search_hours(study, sample, trainings, begun, pace)
    after = pace.hours(confirming.flops, confirming.judged, CONFIRMING_SECONDS)
    rates = tariff(study)
    both = [one + other for one, other in zip(hours, after, strict=True)]
    kwh = [energy(h * pace.at_once, rates).value for h in both]
    least, more = len(trainings.slots), confirming.trainings[1]
    disk = [
        _disk(least, begun, sample, low=True),
        _disk(least + more, begun + study.confirm.seeds + confirming.near_ties, sample),
    ]
    return {
        "trials": begun - 1,
        "rungs": _reached(study, sample, begun - 1),
        "trainings": len(trainings.slots),
        "trainings_of": dict(Counter(trainings.slots)),
        "confirmation": {
            "points": confirming.points,
            "seeds": study.confirm.seeds,
            "near_ties": confirming.near_ties,
            "trainings": list(confirming.trainings),
        },
        "hours": _range(both),
        "hours_of": {"search": _range(hours), "confirmation": _range(after)},
        "kwh": _range([value for value in kwh if value is not None]) or None,
        "disk_gb": _range([size / 1e9 for size in disk]),
        "legal_share_of_draws": round(len(sample.graphs) / sample.drawn, 3),
        "matrix_product_gflops": round(pace.rate / 1e9, 1),
        "adjusted": words,
        "source": f"modelled: FLOPs on paper, at {100 * pace.reached[0]:g} to "
        f"{100 * pace.reached[1]:g} % of the matrix-product rate of "
        f"{device_name(study.workload.device)}",
    }


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


@dataclass(frozen=True)
class _Sample:
    """Legal configurations that were drawn, as graphs, and what a quote asks of them.

    Args:
        base: the baseline's graph. graphs: of the legal ones, in the order of drawing.
        drawn: how many different ones were drawn. task: whose items are trained on and judged.
    """

    base: Graph
    graphs: Sequence[Graph]
    drawn: int
    task: Task

    def flops(self, node: Node) -> float:
        """Of one training, from its first step to its last."""
        recipe = node.before.recipe
        return step_flops(node.before, recipe.batch, self.task.max_length) * recipe.total_steps

    def answering(self, split: str) -> float:
        """FLOPs of answering all items of a split, uncut."""
        items = len(self.task.splits[split])
        return forward_flops(self.base.nodes[0].after.profile, items, self.task.max_length)


@dataclass(frozen=True)
class _Trainings:
    """The long trainings of a search: the slot that asks for each, FLOPs of the baseline's and of
    all others, whole."""

    slots: Sequence[str]
    own: float
    others: float


@dataclass(frozen=True)
class _Confirmation:
    """What confirming asks for; pairs are low and high.

    Args:
        points: most points of the front on the test split, the baseline apart.
        near_ties: most repeats of points whose place is not settled.
        judged: artifacts that are judged. trainings: that are made anew. flops: of all.
    """

    points: int
    near_ties: int
    judged: tuple[int, int]
    trainings: tuple[int, int]
    flops: tuple[float, float]


@dataclass(frozen=True)
class _Pace:
    """How fast work is done here: matrix products a second, the share that is reached, workers."""

    rate: float
    reached: tuple[float, float]
    at_once: int

    def hours(
        self, flops: tuple[float, float], judged: tuple[int, int], seconds: tuple[float, float]
    ) -> list[float]:
        """Wall time, low and high, of so much work and so many artifacts of so many seconds."""
        shares = reversed(self.reached)
        return [
            (work / (self.rate * share) + count * each) / self.at_once / 3600
            for work, share, count, each in zip(flops, shares, judged, seconds, strict=True)
        ]


def _sampled(study: Study, material: Material, space: Space) -> _Sample:
    lookup = Lookup(material.subject)
    drawn = list({c.digest: c for c in space.sample(SAMPLE, study.seed)}.values())
    legal = [c for c in drawn if not lookup.objections(c)]
    if not legal:
        raise StudyError(f"none of {len(drawn)} sampled configurations is legal; widen the space")
    graphs = [lookup.graph(c) for c in legal]
    base = lower(material.subject.baseline, material.subject)
    return _Sample(base, graphs, len(drawn), material.task)


def _trainings(study: Study, sample: _Sample, begun: int) -> _Trainings:
    """Long trainings, the baseline's first: a sample says how often a new one is drawn.

    Where the budget has fewer, those come first on which most configurations rest: a super-network
    before what is fine-tuned from it.
    """
    own = {node.training: sample.flops(node) for node in sample.base.trained if node.training}
    nodes = {n.training: n for graph in sample.graphs for n in graph.trained if n.training}
    uses = Counter(name for graph in sample.graphs for name in graph.trainings)
    seen = {name for graph in sample.graphs[: begun - 1] for name in graph.trainings}
    new = sorted((name for name in nodes if name in seen - set(own)), key=lambda n: -uses[n])
    limit = study.budget.trainings
    left = len(new) if limit is None else max(0, limit - len(own))
    slots, flops = ["baseline"] * len(own), 0.0
    for _, group in groupby(new, key=lambda name: uses[name]):
        alike = [nodes[name] for name in group]
        taken, left = alike[:left], max(0, left - len(alike))
        slots += [node.slot for node in taken]
        flops += len(taken) * _mean([sample.flops(node) for node in alike])
    return _Trainings(slots, sum(own.values()), flops)


def _search_hours(
    study: Study, sample: _Sample, trainings: _Trainings, begun: int, pace: _Pace
) -> list[float]:
    """Low and high; the baseline runs whole, and so does what has no lower rung."""
    low, high = _at_rungs(study, sample)
    short = [sample.flops(n) for g in sample.graphs for n in g.trained if not n.training]
    own, others = sum(short) / len(sample.graphs), begun - 1
    answering = sample.answering("validation")

    def flops(at: _AtRungs) -> float:
        after = others * (at.recovered * own + at.answered * answering)
        return trainings.own + at.trained * trainings.others + own + answering + after

    judged = (round(1 + others * low.judged), round(1 + others * high.judged))
    hours = pace.hours((flops(low), flops(high)), judged, JUDGING_SECONDS)
    limit = study.budget.minutes
    return hours if limit is None else [min(value, limit / 60) for value in hours]


@dataclass(frozen=True)
class _AtRungs:
    """What a trial takes on average, in units of one that runs whole at once.

    Args:
        trained: of a long training, which goes on from rung to rung.
        recovered: of a short one, which every rung makes anew that has its own steps.
        answered: of the validation items. judged: artifacts.
    """

    trained: float = 1.0
    recovered: float = 1.0
    answered: float = 1.0
    judged: float = 1.0


def _at_rungs(study: Study, sample: _Sample) -> tuple[_AtRungs, _AtRungs]:
    """Low and high: as far as a trial alone goes, and each training whole for some sibling's sake.

    With lower rungs, `promote` of those that finish one go on; at the high end all of them where
    time, energy or money is left once the space is used up.
    """
    if len(study.fidelity.rungs) == 1:
        return _AtRungs(), _AtRungs()
    budget = study.budget
    goes_on = any(limit is not None for limit in (budget.minutes, budget.kwh, budget.usd))
    low = _going_on(study, sample, study.fidelity.promote)
    high = _going_on(study, sample, 1.0 if goes_on else study.fidelity.promote)
    return low, replace(high, trained=1.0)


def _going_on(study: Study, sample: _Sample, promoted: float) -> _AtRungs:
    """What a trial takes where such a share of each rung goes on."""
    fidelity = study.fidelity
    reach = [promoted**k for k in range(len(fidelity.rungs))]
    steps, below = fidelity.step_shares, (0.0, *fidelity.step_shares)
    screened = _screened(study, sample)

    def average(of_screened: float) -> float:
        return screened * of_screened + 1.0 - screened

    trained = sum(r * (s - b) for r, s, b in zip(reach, steps, below, strict=False))
    anew = sum(r * s for r, s in zip(reach, steps, strict=True))
    return _AtRungs(
        trained,
        1.0 if fidelity.of == "items" else average(anew),
        average(sum(r * s for r, s in zip(reach, fidelity.rungs, strict=True))),
        average(sum(reach)),
    )


def _screened(study: Study, sample: _Sample) -> float:
    """Share of the configurations that begin at the lowest rung: those that train, or all."""
    if study.fidelity.of == "items":
        return 1.0
    return float(np.mean([bool(graph.trained) for graph in sample.graphs]))


def _reached(study: Study, sample: _Sample, trials: int) -> list[list[float]]:
    fidelity = study.fidelity
    if len(fidelity.rungs) == 1:
        return []
    begun = _screened(study, sample) * trials
    last = len(fidelity.rungs) - 1
    counts = [begun * fidelity.promote**k for k in range(last + 1)]
    counts[last] += trials - begun
    return [[share, round(count)] for share, count in zip(fidelity.rungs, counts, strict=True)]


def _confirmation(study: Study, sample: _Sample, begun: int) -> _Confirmation:
    """Near-ties repeated, the front on the test split, the recommended point under new seeds."""
    points, seeds = min(study.confirm.points, begun - 1), study.confirm.seeds
    ties = study.confirm.near_ties
    if not points:
        return _Confirmation(0, 0, (0, 0), (0, 0), (0.0, 0.0))
    long = [sum(node.training is not None for node in g.trained) for g in sample.graphs]
    flops = [sum(map(sample.flops, graph.trained)) for graph in sample.graphs]
    tested, most = (2 + seeds, points + 1 + seeds), seeds + ties
    answered = [count * sample.answering("test") for count in tested]
    answered[1] += ties * sample.answering("validation")
    return _Confirmation(
        points,
        ties,
        (tested[0], tested[1] + ties),
        (seeds * min(long), most * max(long)),
        (answered[0] + seeds * min(flops), answered[1] + most * max(flops)),
    )


def _pace(study: Study) -> _Pace:
    device = study.workload.spec().torch_device
    rate = matrix_rate(study.workload.threads, device)
    return _Pace(rate, REACHED if device == CPU else REACHED_ON_GPU, _at_once(study))


def _at_once(study: Study) -> int:
    """Workers that run at once: on this machine, no more than it has cores for."""
    workers = study.engine.workers
    if study.engine.kind == "ray":
        return workers
    return min(workers, max(1, (os.cpu_count() or 1) // study.workload.threads))


def _disk(trainings: int, trials: int, sample: _Sample, low: bool = False) -> float:
    papers = [graph.paper for graph in sample.graphs]
    weights = _mean([4.0 * parameters(paper.profile) for paper in papers])
    artifact = _mean(
        [float(RUNTIMES[p.runtime or "eager"].payload_bytes(p.profile)) for p in papers]
    )
    states = 1 if low else 4  # a training paused at a lower rung keeps its optimiser's state
    return trainings * states * weights + trials * (artifact + (0 if low else weights))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def _range(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.2g}") for value in values]
