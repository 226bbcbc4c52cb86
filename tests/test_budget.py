from dataclasses import replace

import pytest
from paretune.evaluators.metric import StageCost
from paretune.search.budget import (
    Budget,
    Spent,
    Tariff,
    bill,
    spent,
    trainings_of,
    trainings_used,
)
from paretune.search.records import Failure, Record
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


def test_a_whole_instance_is_paid_by_the_clock_and_not_by_the_worker():
    tariff = Tariff(price_per_hour=9.0, instance_per_hour=3.0)
    money = bill([HOUR, HOUR, HOUR, HOUR], 3600.0, tariff)["money"]
    assert money.value == pytest.approx(3.0)
    assert dict(money.conditions)["price_per_hour"] == 3.0


def test_a_trial_that_failed_has_used_its_trainings_unless_it_was_illegal():
    def failed(kind):
        return replace(HOUR, state="failed", failure=Failure(kind, "as the test wants it"))

    assert trainings_used([failed("crashed")], lambda c: ("lora",)) == {"lora"}
    assert trainings_used([failed("illegal")], lambda c: ("lora",)) == set()


def test_a_record_with_a_field_of_older_runs_is_read():
    assert Record.from_json({**HOUR.to_json(), "energy_j": None}) == HOUR
    failure = Failure("crashed", "signal SIGKILL")
    failed = replace(HOUR, state="failed", failure=failure)
    then = {**failed.to_json(), "failure": {**vars(failure), "step": None}}
    assert Record.from_json(then) == failed


def test_the_last_words_of_a_failure_are_what_was_raised():
    trace = "Traceback:\n  File\nValueError: no such layer\n"
    assert Failure("crashed", trace).last_words == "ValueError: no such layer"
    assert Failure("crashed", "").last_words == "no message"


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
    assert "0.1 kWh" in (budget.over(replace(NOTHING, kwh=0.2)) or "")
    assert "5 usd" in (budget.over(replace(NOTHING, money=5.0)) or "")


def test_what_was_begun_is_told_the_baseline_apart():
    said = Budget(trials=45, minutes=10).over(replace(NOTHING, trials=12, minutes=10.0))
    assert said is not None
    assert said.endswith("after 11 of 44 trials and the baseline")


def test_used_up_trials_close_the_door_but_end_nothing():
    budget = Budget(trials=4)
    used = replace(NOTHING, trials=4)
    assert budget.over(used) is None
    assert "3 trials and the baseline" in (budget.full(used) or "")
    assert "4 trials" in (budget.full(replace(used, baseline=False)) or "")
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
