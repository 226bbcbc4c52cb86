"""The table of what searches in `search.py`: our samplers, ours with parts taken out, and peers.

Peers are Optuna's, BoTorch's and Syne Tune's as their users have them: one object for a whole
study. The rows of our own table of samplers stand here under their own names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from ..errors import BadRequest, UnknownName
from ..search.samplers import TABLE, sampler
from ..search.samplers.encoding import Knobs, knobs
from ..search.samplers.pool import draw, uniform
from ..search.samplers.prior import Lesson
from ..search.samplers.problem import Problem
from ..spaces.configuration import Configuration
from ..spaces.paper import Paper
from ..spaces.paper_features import FEATURES
from .benchmark import Array, Benchmark
from .hwgpt import HwGpt

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


EARLIER_TRIALS: Final = 60
"""Trials of the earlier study that warms a search."""


@dataclass(frozen=True)
class Contender:
    """One row.

    Args:
        make: a problem and a seed, to an Optuna sampler for one study.
        peer: the distribution whose version its curves belong to; None: ours, never cached.
        slow: an ask takes seconds: the page gives it fewer seeds and evaluations.
        sees_limits: limits that are known on paper are kept before a trial; otherwise the sampler
            is told after each how far it is beyond.
    """

    make: Callable[[Benchmark, int], BaseSampler]
    peer: str | None = None
    sees_limits: bool = False
    slow: bool = False


def _as_it_is(problem: Problem) -> Problem:
    return problem


def _uniform(problem: Problem) -> Problem:
    """Every parameter is drawn by itself."""
    return replace(problem, structured=False)


def _blind(problem: Problem) -> Problem:
    """Nothing is known on paper for certain."""
    if not problem.known and problem.fits is None:
        raise BadRequest("greybox-blind: nothing is known on paper here; take greybox")
    return replace(problem, known={}, fits=None)


def _raw(problem: Problem) -> Problem:
    """The surrogate sees every knob by itself and what is known, nothing else of the paper."""
    if problem.paper is None:
        raise BadRequest("greybox-raw: there are no papers here to do without; take greybox")
    rng = np.random.default_rng(0)
    drawn = [draw(problem.suggest, uniform(rng)).configuration for _ in range(400)]
    numbering = Knobs.of([knobs(one) for one in drawn if one is not None], family=np.inf)

    def features(configuration: Configuration, _: Paper) -> Array:
        return np.array(numbering.encode(knobs(configuration)))

    return replace(problem, features=features)


def _taught(spoil: Callable[[Lesson, int], Lesson], benchmark: Benchmark, seed: int) -> BaseSampler:
    """Ours, warmed by random models on another device, another draw for each seed."""
    if not isinstance(benchmark, HwGpt):
        raise BadRequest(
            "nothing of this problem was measured elsewhere; to start warm take hwgpt:s:a100"
        )
    lesson = spoil(benchmark.elsewhere(EARLIER_TRIALS, 100 + seed), seed)
    problem = replace(benchmark.known(), objectives=benchmark.objectives, lessons=(lesson,))
    return sampler("greybox").make(problem, seed)


def _turned(lesson: Lesson, _: int) -> Lesson:
    """The worst model is called the best; costs are right."""
    first, *_others = lesson.figures
    values = lesson.figures[first]
    return replace(lesson, figures={**lesson.figures, first: values.max() + values.min() - values})


def _narrow(lesson: Lesson, _: int) -> Lesson:
    """The widest models, those at the good end of quality, were never tried there."""
    widths = lesson.features[:, FEATURES.index("log_width")]
    kept = np.flatnonzero(widths < widths.max())
    return replace(
        lesson,
        configurations=tuple(lesson.configurations[i] for i in kept),
        features=lesson.features[kept],
        figures={name: values[kept] for name, values in lesson.figures.items()},
    )


def _shuffled(lesson: Lesson, seed: int) -> Lesson:
    """Every figure is some other model's."""
    rng = np.random.default_rng(seed)
    shuffled = {name: rng.permutation(values) for name, values in lesson.figures.items()}
    return replace(lesson, figures=shuffled)


def _ours(name: str, change: Callable[[Problem], Problem]) -> Callable[..., BaseSampler]:
    return lambda benchmark, seed: sampler(name).make(change(benchmark.known()), seed)


def _optuna(name: str, _: Benchmark, seed: int) -> BaseSampler:
    from ..search.samplers.fresh import plain

    return plain(name, seed)


def _botorch(benchmark: Benchmark, seed: int) -> BaseSampler:
    from .qlognehvi import QLogNehviSampler

    return QLogNehviSampler(benchmark, seed)


def _syne_tune(benchmark: Benchmark, seed: int) -> BaseSampler:
    from .synetune import SyneTuneSampler

    return SyneTuneSampler(benchmark, seed)


CONTENDERS: Final[dict[str, Contender]] = {
    "greybox": Contender(_ours("greybox", _as_it_is), sees_limits=True),
    "greybox-raw": Contender(_ours("greybox", _raw), sees_limits=True),
    "greybox-uniform": Contender(_ours("greybox", _uniform), sees_limits=True),
    "greybox-blind": Contender(_ours("greybox", _blind)),
    "greybox-warm": Contender(partial(_taught, lambda lesson, _: lesson), sees_limits=True),
    "greybox-narrow": Contender(partial(_taught, _narrow), sees_limits=True),
    "greybox-turned": Contender(partial(_taught, _turned), sees_limits=True),
    "greybox-shuffled": Contender(partial(_taught, _shuffled), sees_limits=True),
    **{name: Contender(_ours(name, _as_it_is)) for name in TABLE if name != "greybox"},
    **{
        f"optuna-{name}": Contender(partial(_optuna, name), "optuna", slow=name == "gp")
        for name in ("random", "tpe", "tpe-multivariate", "nsga2", "nsga3", "gp")
    },
    "botorch-qlognehvi": Contender(_botorch, "botorch", slow=True),
    "syne-tune-evolution": Contender(_syne_tune, "syne-tune"),
}


def contender(name: str) -> Contender:
    """The row of that name.

    Raises:
        UnknownName: no such row.
    """
    if name not in CONTENDERS:
        raise UnknownName("sampler", name, CONTENDERS)
    return CONTENDERS[name]
