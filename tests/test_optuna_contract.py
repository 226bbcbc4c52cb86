"""Optuna's own contract for samplers, on ours in plain Optuna studies and on the wrapped ones."""

from functools import partial

import optuna
import pytest
from optuna.samplers import GPSampler, TPESampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from paretune.search.samplers.fresh import FreshSampler, fresh
from paretune.search.samplers.greybox import GreyBoxSampler

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

optuna.logging.set_verbosity(optuna.logging.ERROR)


class TestGreyBox(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return partial(GreyBoxSampler, pool=200)


@pytest.mark.slow
class TestGreyBoxWithItsWholePool(
    BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase
):
    @pytest.fixture
    def sampler(self):
        return GreyBoxSampler


class TestRows(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    # `nsga3` is `nsga2` with another selection; `gp` fits a process an ask.
    @pytest.fixture(
        params=["random", "tpe", "tpe-multivariate", "nsga2"]
        + [pytest.param(name, marks=pytest.mark.slow) for name in ("nsga3", "gp")]
    )
    def sampler(self, request):
        return partial(fresh, request.param, 0)


class TestFreshRelative(RelativeSamplerTestCase):
    """Optuna's contract wants relative answers from the second trial on: no start at random."""

    @pytest.fixture(params=["tpe", pytest.param("gp", marks=pytest.mark.slow)])
    def sampler(self, request):
        make = {
            "tpe": partial(TPESampler, n_startup_trials=0, multivariate=True, group=True),
            "gp": partial(GPSampler, n_startup_trials=0),
        }[request.param]
        return partial(FreshSampler, lambda seed: make(seed=seed), 0)
