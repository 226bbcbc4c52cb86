"""The benchmark of rungs: made-up curves always, recorded ones where the data are."""

import numpy as np
import pytest
from paretune.benchmarks.learning_curves import synthetic
from paretune.benchmarks.rungs import (
    SCHEDULES,
    TABLES,
    Arm,
    compared,
    lines,
    ratio,
    reached,
    searched,
)
from paretune.errors import DataError

RUNGS, PROMOTE = SCHEDULES[2]

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(scope="module")
def table():
    return synthetic(1, candidates=12)


def test_a_rung_pays_for_the_further_steps_alone(table):
    told = searched(table, Arm("random", (0.25, 1.0), 0.5), seed=0)
    assert told["steps"][-1] == pytest.approx(12 * 5000)
    assert told["seconds"][-1] == pytest.approx(12 * 1200.0)
    assert told["volume"][-1] == pytest.approx(1.0)
    assert set(np.diff([0.0, *told["steps"]])) == {1250.0, 3750.0}


def test_a_search_stops_where_only_the_rest_is_left(table):
    told = searched(table, Arm("random", (0.25, 1.0), 0.5), seed=0)
    half = 12 * 1250 + 6 * 3750
    assert half <= told["steps"][told["stop"]] < 12 * 5000, "some went on that others overtook"
    full = searched(table, Arm("random"), seed=0)
    assert full["stop"] == len(full["steps"]) - 1 == 11


def test_the_sampler_is_the_products_and_repeats_itself(table):
    arm = Arm("greybox", (0.25, 1.0))
    assert searched(table, arm, seed=3) == searched(table, arm, seed=3)


def test_a_comparison_is_paired_and_told_as_a_table(table):
    arms = (Arm("random"), Arm("random", (0.25, 1.0)), Arm("optuna-tpe"))
    told = compared(table, 2, arms)
    whole, rungs, tpe = told["arms"].values()
    assert whole["reached"]["95%"]["ratio"] == [1.0, 1.0, 1.0]
    assert len(rungs["stop"]["share"]) == 2
    assert tpe["missed"]["seeds"] == 0
    assert len(lines(told)) == 2 + 2 + 3


def test_how_many_times_less_needs_figures_of_all_pairs():
    assert ratio([4.0, 4.0], [2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    assert ratio([4.0, np.inf], [2.0, 2.0]) is None
    assert ratio([4.0], [2.0]) is None


def test_a_rung_between_the_points_of_a_curve_is_refused(table):
    with pytest.raises(DataError, match=r"rung 0\.33: curves have points at every 1/20"):
        table.records((0.33, 1.0))


def test_a_folder_without_the_data_is_refused(tmp_path):
    with pytest.raises(DataError, match="--data"):
        TABLES["parameters"](tmp_path)


def test_recorded_curves_are_searched_with_less_training(bench_data):
    table = TABLES["parameters"](bench_data)
    assert table.curves.shape == (63, 20)
    whole = searched(table, Arm("random"), seed=0)
    rungs = searched(table, Arm("random", RUNGS, PROMOTE), seed=0)
    assert whole["steps"][-1] == rungs["steps"][-1] == 63 * 5000
    assert rungs["steps"][rungs["stop"]] < 0.6 * whole["steps"][-1]
    assert rungs["volume"][rungs["stop"]] > 0.95
    assert reached(rungs, 0.95) < whole["steps"][-1]
