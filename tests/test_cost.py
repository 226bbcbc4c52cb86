"""What candidates take, given what a study has made; and a search that counts by the second."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean

import optuna
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cost_cases import (
    BASELINE,
    FLOPS_A_SECOND,
    JUDGING,
    TRAININGS,
    job,
    losses,
    made,
    search,
    spent,
    suggest,
    told,
    whole,
)
from paretune.search.budget import Budget
from paretune.search.records import Failure, Record, Rung
from paretune.search.samplers.cost import ASKING_SECONDS, JUDGING_SECONDS, Job, Ledger, Piece
from paretune.search.samplers.greybox import GreyBoxSampler
from paretune.search.samplers.problem import Problem

optuna.logging.set_verbosity(optuna.logging.ERROR)

START = told(0, BASELINE, [], "baseline")


def ledger(*records, work=job, top=0):
    return Ledger.of(records, work, top)


def making(told_, name):
    return told_.making(job(made(name, 5, 8), None))


def test_what_was_made_costs_nothing_and_the_rest_by_its_size():
    known = ledger(START)
    assert making(known, "plain") == 0.0
    assert making(known, "wide") == pytest.approx(TRAININGS["wide"])
    assert known.judging(job(BASELINE, None)) == JUDGING
    dear = job(made("wide", 5, 8), None)
    assert known.price(dear) == pytest.approx(ASKING_SECONDS + TRAININGS["wide"] + JUDGING)


def test_a_budget_of_trials_counts_trials_and_one_of_time_counts_seconds():
    budgets = {
        None: Budget(trials=40),
        0.0: Budget(minutes=8.0),
        24.0: Budget(trials=40, minutes=8.0),
    }
    assert {each: budget.seconds_a_trial(2) for each, budget in budgets.items()} == {
        each: each for each in budgets
    }
    dear = job(made("wide", 5, 8), None)
    known = Ledger.of([START], job, 0, trial_seconds=24.0)
    assert known.price(dear) == pytest.approx(ledger(START).price(dear) + 24.0)
    assert ledger(START).is_dear(dear)
    assert not Ledger.of([START], job, 0, trial_seconds=1e3).is_dear(dear)


def test_a_baseline_that_is_under_way_counts_as_made():
    under_way = replace(START, state="running", rungs=(), stages=(), seconds=0.0)
    assert making(ledger(under_way), "plain") == 0.0
    assert making(ledger(under_way), "adapters") > 0.0


def test_of_what_failed_only_what_its_record_names_is_made():
    fell = Record(1, made("wide", 5, 8), "failed", failure=Failure("crashed", "no"))
    assert making(ledger(START, fell), "wide") == pytest.approx(TRAININGS["wide"])
    slow = replace(told(1, made("wide", 5, 8), []).stages[0], seconds=2 * TRAININGS["wide"])
    behind = ledger(START, replace(fell, stages=(slow,)))
    assert making(behind, "wide") == 0.0
    assert making(behind, "adapters") > making(ledger(START), "adapters"), "its seconds count"


def test_a_kind_that_was_never_seen_takes_what_the_others_took():
    known = ledger(START)
    other = Job((Piece("other", "train.recover", 2.0 * FLOPS_A_SECOND),), "eager", 0)
    assert known.making(other) == pytest.approx(2.0)


def test_a_rate_is_the_median_of_its_kind():
    def noisy(configuration, rung):
        return Job((Piece(configuration.digest, "train", FLOPS_A_SECOND),), "eager", 0)

    records = []
    for number, seconds in enumerate([1.0, 2.0, 90.0]):
        record = told(number, made("plain", 1 + number, 8), [])
        stage = replace(record.stages[0], key=record.configuration.digest, seconds=seconds)
        records.append(replace(record, stages=(stage,)))
    assert ledger(*records, work=noisy).making(noisy(BASELINE, None)) == pytest.approx(2.0)


def test_nothing_is_known_before_the_first_trial_and_still_more_work_costs_more():
    known = ledger()
    assert 0.0 < making(known, "plain") < making(known, "wide")
    assert known.judging(job(BASELINE, None)) == JUDGING_SECONDS


def test_a_timing_session_is_paid_by_the_first_who_shares_it():
    def timed(configuration, rung):
        return Job((), "eager", 0, dict(configuration.get("structure").settings)["keep"])

    rows = [(made("plain", 5, 8), 9.0), (made("plain", 5, 4), 2.0), (made("wide", 5, 4), 2.0)]
    records = [
        Record(n, c, "final", rungs=(Rung(0, {}, seconds),), seconds=seconds)
        for n, (c, seconds) in enumerate(rows)
    ]
    known = ledger(*records, work=timed)
    assert known.judging(timed(made("plain", 5, 16), None)) == 2.0
    assert known.judging(timed(made("plain", 6, 16), None)) == 9.0


def test_a_rung_is_charged_with_what_it_adds():
    def halves(configuration, rung):
        pieces = [
            Piece(f"half-{i}", "train", 1.0) for i in range((0 if rung is None else rung) + 1)
        ]
        return Job(tuple(pieces), "eager", 0 if rung is None else rung)

    stage = replace(START.stages[0], key="half-0", seconds=10.0)
    more = replace(stage, key="half-1", seconds=12.0)
    rungs = (Rung(0, {}, 11.0), Rung(1, {}, 15.0))
    record = replace(START, purpose="search", rungs=rungs, stages=(stage, more), seconds=26.0)
    known = ledger(record, work=halves, top=1)
    assert [known.judging(halves(BASELINE, rung)) for rung in (0, 1)] == [1.0, 3.0]
    going_on = replace(record, state="running", rungs=rungs[:1], stages=(stage,))
    assert ledger(going_on, work=halves, top=1).making(halves(BASELINE, 1)) == 0.0
    paused = replace(going_on, state="paused")
    assert ledger(paused, work=halves, top=1).making(halves(BASELINE, 1)) == pytest.approx(10.0)


def test_a_ledger_is_a_function_of_the_history_alone():
    records = [START]
    for name in ("wide", "plain", "adapters"):
        records.append(told(len(records), made(name, 5, 8), records))
    again = [Record.from_json(json.loads(json.dumps(r.to_json()))) for r in reversed(records)]
    confirmed = replace(told(9, made("wide", 1, 4), []), purpose="confirm", seconds=1e6)
    assert ledger(*records) == ledger(*again) == ledger(*records, confirmed)


def test_without_costs_every_training_is_bought_at_once():
    begun = [r.configuration.get("finetuning").method for r in search(0, whole(), None, most=5)]
    assert set(begun) == set(TRAININGS)


def test_without_records_nothing_is_weighed():
    def asks(work):
        problem = Problem(suggest, job=work)
        study = optuna.create_study(
            directions=["minimize"] * 2, sampler=GreyBoxSampler(problem, 4, pool=60)
        )
        study.optimize(lambda trial: losses(suggest(trial)), n_trials=11)
        return [trial.params for trial in study.trials]

    assert asks(job) == asks(None)


def test_the_initial_design_spends_no_more_on_something_new_than_all_before():
    records = search(1, whole(), job, most=9)
    bought = [i for i, r in enumerate(records) if not r.stages[0].cached]
    assert [records[i].configuration.get("finetuning").method for i in bought] == [
        "plain",
        "adapters",
    ]
    for i in bought[1:]:
        assert records[i].stages[0].seconds <= spent(records[:i])


def test_a_search_that_knows_costs_is_a_function_of_seed_and_history():
    first, second = (search(2, whole(), job, most=14) for _ in range(2))
    assert first == second


def test_nine_tenths_of_the_front_come_much_sooner_when_costs_are_known():
    goal = 0.9 * whole()
    blind, aware = (mean(spent(search(s, goal, j)) for s in range(3)) for j in (None, job))
    assert blind > 1.5 * aware


def test_what_is_dear_is_bought_when_the_rest_has_little_left_to_add():
    records = search(0, 0.99 * whole(), job)
    tuned = [r.configuration.get("finetuning").method for r in records]
    assert "wide" in tuned
    assert tuned.index("wide") > 12
