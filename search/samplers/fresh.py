"""Optuna's own samplers as pure functions of (seed, history).

Optuna's samplers carry a random state from ask to ask, so that a resumed study would go another
way than one that never stopped. Here each trial gets a sampler of its own, seeded by the study's
seed and the trial's number.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ..seeds import seed_of

_MAKERS: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "tpe-multivariate": lambda seed: optuna.samplers.TPESampler(
        multivariate=True, group=True, seed=seed
    ),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(population_size=20, seed=seed),
    "nsga3": lambda seed: optuna.samplers.NSGAIIISampler(population_size=20, seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
}


def plain(name: str, seed: int) -> BaseSampler:
    """An Optuna sampler as its users make it: one for a whole study.

    Args:
        name: a row of the table of samplers that is Optuna's. seed: of the study.
    """
    with warnings.catch_warnings():
        # `multivariate`, `group` and the GP sampler are marked experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _MAKERS[name](seed)


def fresh(name: str, seed: int) -> BaseSampler:
    """An Optuna sampler that is made anew for each trial.

    Args:
        name: a row of the table of samplers that is Optuna's.
        seed: of the study.
    """
    return FreshSampler(partial(plain, name), seed)


class FreshSampler(BaseSampler):
    """Hands every call of one trial to a sampler made for that trial.

    Args:
        make: a seed to a sampler.
        seed: of the study.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make, self._seed = make, seed
        self._made: dict[int, BaseSampler] = {}

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As the wrapped sampler has it."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the wrapped sampler has it."""
        if trial.number not in self._made:
            # TPE by groups samples the groups that it has found itself.
            self._of(trial).infer_relative_search_space(study, trial)
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """As the wrapped sampler has it."""
        wrapped = self._of(trial)
        return wrapped.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """As the wrapped sampler has it."""
        self._of(trial).before_trial(study, trial)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """As the wrapped sampler has it; then the trial's sampler is dropped."""
        self._of(trial).after_trial(study, trial, state, values)
        self._made.pop(trial.number, None)

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number not in self._made:
            self._made[trial.number] = self._make(seed_of(self._seed, trial.number))
        return self._made[trial.number]
