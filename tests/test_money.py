"""Rent: by the study's price, by the device table, or a reason."""

from dataclasses import replace

import pytest
from paretune.evaluators.catalogue import metric
from paretune.evaluators.metric import Evidence, StageCost, Timings
from paretune.spaces.paper import Paper, Workload
from paretune.spaces.profile import Head, Profile

PAPER = Paper(Profile("bert", 8, 10, 8, 2, (), Head("classification", 2)))
TIMED = Evidence(PAPER, Workload(), timings=Timings((0.036,) * 20, 1, "AMD EPYC 7763"))
COST = metric("cost_per_million_queries")


def test_a_million_queries_are_rent_times_latency_over_those_in_flight():
    told = {"usd_per_hour": 2.0}
    assert COST.evaluate(replace(TIMED, settings=told)).value == pytest.approx(20)
    busy = replace(TIMED, workload=Workload(batch=5, concurrency=4), settings=told)
    assert COST.evaluate(busy).value == pytest.approx(1)


def test_without_a_price_the_instance_is_rented_by_the_thread():
    one = COST.evaluate(TIMED)
    assert one.value == pytest.approx(0.0425 / 3600 * 0.036 * 1e6)
    assert one.source == "modelled"
    assert "Amazon" in dict(one.conditions)["price_source"]
    two = COST.evaluate(replace(TIMED, workload=Workload(threads=2)))
    assert two.value == pytest.approx(2 * one.value)
    # whoever answers more at once rents as much more
    many = COST.evaluate(replace(TIMED, workload=Workload(concurrency=8)))
    assert many.value == pytest.approx(one.value)


def test_a_processor_without_a_row_has_no_price():
    unknown = replace(TIMED, timings=Timings((0.1,), 1, "an abacus"))
    assert "usd_per_hour" in COST.evaluate(unknown).reason
    named = replace(unknown, settings={"device": "server-cpu-thread"})
    assert COST.evaluate(named).value is not None


def test_training_costs_its_hours():
    stages = (StageCost("a", "train", 7200, True, True), StageCost("b", "load", 99, False, False))
    told = replace(TIMED, stages=stages, settings={"usd_per_hour": 0.5})
    assert metric("training_cost").evaluate(told).value == pytest.approx(1.0)


def test_without_a_timing_session_there_is_no_cost():
    assert COST.evaluate(replace(TIMED, timings=None)).value is None
    assert metric("training_cost").evaluate(TIMED).value is None
