"""BoTorch's qLogNEHVI (arXiv 2105.08195, 2310.20708) as a peer; needs BoTorch, which is optional.

Its usual model: a Gaussian process for each objective over the unit cube, choices one-hot, inactive
knobs in the middle. The acquisition is maximised over even draws and children of the front, since a
space with conditions has no gradients.
"""

from __future__ import annotations

import os
from typing import Any, Final

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ..errors import BadRequest
from ..search.pareto import non_dominated
from ..search.samplers.encoding import Knobs, Scaling, flat
from ..search.samplers.pool import Draw, draw, mutated, repeated, uniform
from ..search.stages import cache_root
from .benchmark import Array, Benchmark, random_draws

INITIAL: Final = 10
"""Even draws before the first model, as many as Optuna's TPE takes."""

POOL, CHILDREN, ROUNDS = 600, 200, 2
"""Even draws an ask, children of the front, and rounds of children of the best."""


class QLogNehviSampler(BaseSampler):
    """One study's sampler.

    Args:
        benchmark: the problem; its reference point is the acquisition's. seed: of all draws.

    Raises:
        BadRequest: the problem has limits.
    """

    def __init__(self, benchmark: Benchmark, seed: int) -> None:
        sample = random_draws(benchmark, 400)
        if benchmark.known().fits is not None:
            raise BadRequest("botorch-qlognehvi: limits are not built here; take another sampler")
        # C++ is compiled at first use behind a lock, which a killed process leaves in the usual
        # folder for every other program: so in one of our own.
        os.environ["TORCH_EXTENSIONS_DIR"] = str(cache_root() / "torch-extensions")
        self._benchmark, self._rng = benchmark, np.random.default_rng(seed)
        self._knobs = Knobs.of([flat(one) for one in sample], family=np.inf)
        rows = np.array([self._knobs.encode(flat(one)) for one in sample])
        self._scaling = Scaling.of(rows, self._knobs.lengths())
        self._seed = seed
        self._next: Draw | None = None

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Of the candidate that is asked now."""
        self._next = self._choose(study)
        return dict(self._next.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The candidate's parameters."""
        assert self._next is not None
        return dict(self._next.params)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Never: the candidate has every parameter that its own answers ask for."""
        raise BadRequest(f"suggest asked for {param_name!r}, which its own answers did not ask for")

    def _choose(self, study: Study) -> Draw:
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        suggest, rng = self._benchmark.suggest, self._rng
        if len(done) < INITIAL:
            return draw(suggest, uniform(rng))
        seen = [draw(suggest, repeated(trial.params)) for trial in done]
        losses = np.array([trial.values for trial in done])
        value = self._acquisition(self._encoded(seen), losses)
        front = [seen[i].params for i in np.flatnonzero(non_dominated(losses))]
        rules = [uniform(rng) for _ in range(POOL)]
        rules += [mutated(front[i % len(front)], rng, anew=uniform) for i in range(CHILDREN)]
        asked = {one.key for one in seen}
        pool = [one for one in (draw(suggest, rule) for rule in rules) if one.key not in asked]
        worth = value(self._encoded(pool))
        for _ in range(ROUNDS):
            best = [pool[i].params for i in np.argsort(-worth)[:10]] * (CHILDREN // 10)
            made = [draw(suggest, mutated(one, rng, anew=uniform)) for one in best]
            made = [one for one in made if one.key not in asked]
            if not made:
                break
            pool, worth = [*pool, *made], np.concatenate([worth, value(self._encoded(made))])
        return pool[int(np.argmax(worth))]

    def _encoded(self, drawn: list[Draw]) -> Array:
        """Features in the unit cube: the scaling cuts at four spreads."""
        rows = np.array([self._knobs.encode(flat(one)) for one in drawn])
        return (self._scaling(rows) + 4.0) / 8.0

    def _acquisition(self, inputs: Array, losses: Array) -> Any:
        import torch
        from botorch import fit_gpytorch_mll
        from botorch.acquisition.multi_objective.logei import (
            qLogNoisyExpectedHypervolumeImprovement,
        )
        from botorch.models import ModelListGP, SingleTaskGP
        from botorch.sampling import SobolQMCNormalSampler
        from gpytorch.mlls import SumMarginalLogLikelihood

        torch.manual_seed(self._seed)
        x = torch.from_numpy(inputs)
        # BoTorch maximises; logarithms where ours takes them too.
        reference = self._benchmark.bounds[1]
        positive = bool((losses > 0).all() and (reference > 0).all())
        values, corner = (-np.log(v) if positive else -v for v in (losses, reference))
        y = torch.from_numpy(values)
        models = [SingleTaskGP(x, y[:, j : j + 1]) for j in range(y.shape[1])]
        model = ModelListGP(*models)
        fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
        acquisition = qLogNoisyExpectedHypervolumeImprovement(
            model=model,
            ref_point=corner.tolist(),
            X_baseline=x,
            prune_baseline=True,
            sampler=SobolQMCNormalSampler(torch.Size([64]), seed=self._seed),
        )

        def value(rows: Array) -> Array:
            with torch.no_grad():
                points = torch.from_numpy(rows)[:, None]
                parts = [acquisition(points[i : i + 128]) for i in range(0, len(rows), 128)]
                return np.asarray(torch.cat(parts).numpy())

        return value
