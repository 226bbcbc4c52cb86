from dataclasses import replace

import pytest
from paretune.evaluators.metric import StageCost
from paretune.search.budget import Budget, Spent, Tariff, bill, spent, trainings_of
from paretune.search.records import Record
from paretune.spaces.configuration import Configuration

HOUR = Record(0, Configuration(), "final", seconds=3600.0)
TARIFF = Tariff(watts=100.0, pue=1.5, kg_per_kwh=0.4, price_per_hour=2.0, price_per_kwh=0.5)
NOTHING = Spent(trials=0, minutes=0.0, trainings=0, kwh=None, money=None)


def test_the_bill_multiplies_hours_by_watts_and_pue():
    costs = bill([HOUR, HOUR], 5400.0, TARIFF)
    assert costs["hours"].value == 1.5
    assert costs["worker_hours"].value == 2.0
    assert costs["kwh"].value == pytest.approx(2 * 100 * 1.5 / 1000)
    assert costs["kwh"].source == "modelled"
    assert costs["kg_co2e"].value == pytest.approx(0.3 * 0.4)
    assert costs["money"].value == pytest.approx(2 * 2.0 + 0.3 * 0.5)


def test_the_bill_prefers_a_meter_that_saw_every_trial():
    metered = replace(HOUR, energy_j=3.6e6)
    assert bill([metered], 0.0, TARIFF)["kwh"].value == pytest.approx(1.5)
    assert bill([metered], 0.0, TARIFF)["kwh"].source == "measured"
    assert bill([metered, HOUR], 0.0, TARIFF)["kwh"].source == "modelled"


def test_what_is_not_known_is_missing_with_a_reason():
    costs = bill([HOUR], 3600.0, Tariff())
    for name in ("kwh", "kg_co2e", "money"):
        assert costs[name].value is None
        assert costs[name].reason
    assert "priced" in (bill([HOUR], 1.0, Tariff(price_per_kwh=1.0))["money"].reason or "")


def test_whichever_limit_is_reached_first_ends_the_search():
    budget = Budget(minutes=10, kwh=0.1, money=5)
    assert budget.over(NOTHING) is None
    assert "minutes" in (budget.over(replace(NOTHING, minutes=10.0)) or "")
    assert "kwh" in (budget.over(replace(NOTHING, kwh=0.2)) or "")
    assert "money" in (budget.over(replace(NOTHING, money=5.0)) or "")


def test_used_up_trials_close_the_door_but_end_nothing():
    budget = Budget(trials=4)
    used = replace(NOTHING, trials=4)
    assert budget.over(used) is None
    assert "4 trials" in (budget.full(used) or "")
    assert budget.full(replace(NOTHING, trials=3)) is None


def test_no_limit_is_never_reached():
    assert Budget().over(Spent(10**6, 1e9, 10**6, 1e9, 1e9)) is None
    assert Budget().full(Spent(10**6, 1e9, 10**6, 1e9, 1e9)) is None


def test_trainings_count_by_name_whoever_paid_for_them():
    low = StageCost("a", "train.finetune", 1.0, True, False, "lora")
    high = StageCost("b", "train.finetune", 3.0, True, True, "lora")
    short = StageCost("c", "train.recovery", 1.0, True, False)
    assert trainings_of(replace(HOUR, stages=(low, high, short))) == {"lora"}


def test_minutes_are_those_that_drivers_held_the_run():
    assert spent([HOUR], 120.0, 1, Tariff()).minutes == 2.0


def test_a_tariff_survives_json():
    assert Tariff.from_json(TARIFF.to_json()) == TARIFF
