"""Syne Tune's evolution by non-dominated rank as a peer; needs Syne Tune, which is optional.

Its spaces have no conditions: every parameter is in every configuration, and a trial takes those
that it asks for. Its expected hypervolume improvement is left out: version 0.16.0 compares with a
reference point that no loss reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ..errors import BadRequest
from .benchmark import Benchmark, random_draws

POPULATION: Final = 20
"""Of evolution, as for Optuna's: the usual 100 would be half of a study."""


class SyneTuneSampler(BaseSampler):
    """One study's sampler.

    Args:
        benchmark: the problem. seed: of all draws.
    """

    def __init__(self, benchmark: Benchmark, seed: int) -> None:
        from syne_tune.optimizer.schedulers.multiobjective import (
            multi_objective_regularized_evolution as evolution,
        )

        self._distributions: dict[str, BaseDistribution] = {}
        for one in random_draws(benchmark, 400):
            self._distributions.update(one.distributions)
        space = {name: _domain(each) for name, each in sorted(self._distributions.items())}
        self._searcher = evolution.MultiObjectiveRegularizedEvolution(
            space, population_size=POPULATION, random_seed=seed
        )
        self._asked: dict[int, dict[str, Any]] = {}

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All parameters that there are."""
        return dict(self._distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """What the searcher suggests."""
        config = self._asked[trial.number] = self._searcher.suggest()
        return {name: value_of(self._distributions[name], config[name]) for name in config}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Never: all parameters are known."""
        raise BadRequest(f"suggest asked for {param_name!r}, which 400 random draws did not")

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Tells the searcher."""
        if values is not None:
            config = self._asked.pop(trial.number)
            self._searcher.on_trial_complete(trial.number, config, list(values))


def _domain(distribution: BaseDistribution) -> Any:
    from syne_tune.config_space import choice, lograndint, loguniform, randint, uniform

    if isinstance(distribution, CategoricalDistribution):
        return choice(list(range(len(distribution.choices))))
    if isinstance(distribution, FloatDistribution):
        made = loguniform if distribution.log else uniform
        return made(distribution.low, distribution.high)
    assert isinstance(distribution, IntDistribution)
    made = lograndint if distribution.log else randint
    return made(distribution.low, distribution.high)


def value_of(distribution: BaseDistribution, suggested: Any) -> Any:
    """The value of a parameter for what a searcher suggests: a place, or a number between."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[suggested]
    if isinstance(distribution, IntDistribution):
        steps = round((suggested - distribution.low) / distribution.step)
        return distribution.low + steps * distribution.step
    return suggested
