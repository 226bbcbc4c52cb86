import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from paretune.errors import StepFailed
from paretune.evaluators.metric import StageCost
from paretune.search.budget import Budget, Tariff
from paretune.search.confirm import Confirmer
from paretune.search.driver import SAME_DRAWS, Done, Driver, Wait
from paretune.search.engines.local import run_here
from paretune.search.records import Ask, Failure
from paretune.search.seeds import seed_of
from paretune.search.storage import StudyStorage
from paretune.spaces.configuration import Choice, Configuration

HERE = Path(__file__).parent
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    import search_cases

    return search_cases


@pytest.fixture
def begin(toy, tmp_path):
    """Opens the run of this test with some rules; closed at the end."""
    opened = []

    def open_(work=None, **changes):
        while opened:
            opened.pop().close()
        storage = StudyStorage.open(tmp_path / "run", toy.header())
        opened.append(storage)
        return Driver(storage, toy.rules(**changes)), storage

    yield open_
    for storage in opened:
        storage.close()


def answer(toy, driver, ask, rungs=1):
    return driver.tell(toy.work(ask, driver.prior(ask), lambda *_: None, rungs))


def test_the_baseline_comes_first_and_at_full_fidelity(toy, begin):
    driver, storage = begin(rungs=2)
    ask = driver.next()
    assert (ask.number, ask.purpose, ask.rung, ask.configuration) == (
        0,
        "baseline",
        1,
        toy.BASELINE,
    )
    assert answer(toy, driver, ask, rungs=2).state == "final"
    assert storage.records[0].state == "final"


def test_while_the_baseline_runs_only_the_initial_design_is_asked(toy, begin):
    driver, _ = begin(initial=3)
    first = driver.next()
    assert [driver.next().number for _ in range(3)] == [1, 2, 3]
    assert driver.next() == Wait()
    answer(toy, driver, first)
    assert driver.next().number == 4


def test_trials_that_end_before_the_baseline_are_told_once_their_limits_are_closed(toy, begin):
    figure = {}

    def violations(record):
        return {"as the baseline": figure["bytes"] - 1.0} if figure else {}

    driver, storage = begin(violations=violations)
    baseline, first = driver.next(), driver.next()
    answer(toy, driver, first)
    assert storage.records[1].state == "final"
    assert [r.number for r in storage.unsettled()] == [1]
    figure["bytes"] = 4.0
    answer(toy, driver, baseline)
    assert not storage.unsettled()
    storage.close()
    url = f"sqlite:///{storage.folder / 'study.db'}"
    trials = optuna.load_study(study_name="toy", storage=url).trials
    assert [trial.constraints for trial in trials[:2]] == [{"as the baseline": 3.0}] * 2


def test_without_a_baseline_the_search_begins_at_once(toy, begin):
    driver, _ = begin(baseline=None)
    assert driver.next().purpose == "search"


def test_a_failed_baseline_ends_a_search_whose_limits_need_it(toy, begin):
    driver, _ = begin(needs_baseline=True)
    ask = driver.next()
    driver.tell(replace(driver.prior(ask), failure=Failure("out_of_memory", "4 GB are not enough")))
    done = driver.next()
    assert isinstance(done, Done)
    assert "4 GB are not enough" in done.reason


def test_a_failed_baseline_that_no_limit_needs_ends_nothing(toy, begin):
    driver, _ = begin()
    ask = driver.next()
    driver.tell(replace(driver.prior(ask), failure=Failure("out_of_memory", "4 GB are not enough")))
    assert isinstance(driver.next(), Ask)


def test_no_configuration_is_asked_twice(toy, tmp_path):
    done, records = toy.finish(tmp_path / "run", toy.rules(budget=Budget(trials=200)))
    digests = [json.dumps(r["configuration"], sort_keys=True) for r in records]
    assert len(digests) == len(set(digests))
    assert "no further configuration was found: asked before" in done.reason
    assert len(digests) > 40


def test_what_is_refused_never_becomes_a_trial_and_is_counted(toy, begin):
    def refuse(configuration):
        return ["4 bits are too few"] if configuration.get("precision") == Choice.of("int4") else []

    driver, storage = begin(refuse=refuse, budget=Budget(trials=12))
    run_here(driver, toy.work)
    assert len(storage.records) == 12
    methods = {r.configuration.get("precision") for r in storage.records.values()}
    assert Choice.of("int4") not in methods
    assert storage.notes["refused"]["4 bits are too few"] > 0


def test_a_space_without_anything_legal_ends_with_the_reasons(toy, begin):
    driver, storage = begin(refuse=lambda configuration: ["too large"], baseline=None)
    done = driver.next()
    assert isinstance(done, Done)
    assert "too large (200)" in done.reason
    assert not storage.records


def test_a_sampler_with_one_idea_is_not_asked_for_ever(toy, begin):
    draws = []

    def make_sampler(seed):
        draws.append(seed)
        return toy.sampler(0)

    driver, _ = begin(refuse=lambda c: ["no"], make_sampler=make_sampler, baseline=None)
    assert isinstance(driver.next(), Done)
    assert len(draws) == SAME_DRAWS + 1


def test_where_a_sampler_has_one_idea_chance_takes_over(toy, begin):
    driver, storage = begin(make_sampler=lambda seed: toy.sampler(0), budget=Budget(trials=6))
    run_here(driver, toy.work)
    assert len({r.configuration.digest for r in storage.records.values()}) == 6


def test_enqueued_configurations_come_first_with_their_parameters(toy, begin):
    wanted = (toy.lora(7), toy.lora(3, "int8"))
    driver, storage = begin(enqueue=wanted)
    asks = [driver.next() for _ in range(3)]
    assert [ask.configuration for ask in asks[1:]] == list(wanted)
    assert storage._disk.get_trial(storage._ids[1]).params == toy.parameters(wanted[0])


def test_an_enqueued_configuration_outside_the_space_is_counted_as_refused(toy, begin):
    odd = Configuration.of(precision=Choice.of("int8"), runtime=Choice.of("eager"))
    driver, storage = begin(enqueue=(odd, toy.lora(7)), baseline=None)
    assert driver.next().configuration == toy.lora(7)
    assert storage.notes["refused"] == {"enqueued, but not in the space": 1}


def test_a_passing_failure_is_asked_once_more_and_no_more(toy, begin):
    driver, storage = begin()
    answer(toy, driver, driver.next())
    ask = driver.next()
    crash = Failure("crashed", "signal SIGKILL")
    assert driver.tell(replace(driver.prior(ask), failure=crash)).state == "queued"
    again = driver.next()
    assert (again.number, again.configuration, again.attempt) == (ask.number, ask.configuration, 1)
    assert driver.prior(again).failure is None
    assert driver.tell(replace(driver.prior(again), failure=crash)).state == "failed"
    assert driver.next().number == ask.number + 1
    assert storage.records[ask.number].attempts == 2


def test_a_second_attempt_that_works_leaves_no_failure_behind(toy, begin):
    driver, storage = begin()
    ask = driver.next()
    driver.tell(replace(driver.prior(ask), failure=Failure("timeout", "slow")))
    answer(toy, driver, driver.next())
    assert storage.records[0].state == "final"
    assert storage.records[0].failure is None


def test_a_lasting_failure_is_never_asked_again(toy, begin):
    driver, _ = begin(budget=Budget(trials=200))
    seen = set()
    while isinstance(ask := driver.next(), Ask):
        assert ask.configuration.digest not in seen
        seen.add(ask.configuration.digest)
        driver.tell(replace(driver.prior(ask), failure=Failure("out_of_memory", "too large")))
    assert len(seen) > 40


def best_half(records):
    seen = sorted((r.value("error"), r.number) for r in records if r.rungs and r.number)
    return [number for _, number in seen[: len(seen) // 2]]


def test_paused_trials_that_are_promoted_go_on_before_new_ones(toy, begin):
    driver, storage = begin(rungs=2, promote=best_half)
    answer(toy, driver, driver.next(), rungs=2)
    for _ in range(2):
        assert answer(toy, driver, driver.next(), rungs=2).state == "paused"
    ask = driver.next()
    assert (ask.number, ask.rung) == (best_half(storage.records.values())[0], 1)
    assert [rung.rung for rung in driver.prior(ask).rungs] == [0]
    done = answer(toy, driver, ask, rungs=2)
    assert (done.state, [rung.rung for rung in done.rungs]) == ("final", [0, 1])


def test_what_does_not_train_starts_at_the_last_rung(toy, begin):
    def first_rung(configuration):
        return 0 if configuration.get("finetuning") else 1

    driver, _ = begin(rungs=2, first_rung=first_rung, budget=Budget(trials=10))
    seen = set()
    while isinstance(ask := driver.next(), Ask):
        trains = ask.configuration.get("finetuning") is not None
        assert ask.rung == (0 if trains and ask.purpose == "search" else 1)
        seen.add((trains, answer(toy, driver, ask, rungs=2).state))
    assert {(False, "final"), (True, "paused")} <= seen


def test_used_up_trials_let_paused_ones_go_on(toy, begin):
    driver, storage = begin(rungs=2, promote=best_half, budget=Budget(trials=7))
    run_here(driver, toy.work_of_two_rungs)
    states = [record.state for record in storage.records.values()]
    assert len(states) == 7
    assert states.count("final") == 4


def test_a_used_up_space_lets_all_go_on_while_there_is_time(toy, begin):
    def finish(records):
        return [record.number for record in reversed(records) if record.state == "paused"]

    three = [toy.lora(rank) for rank in (1, 2, 3)]
    settings = {
        "rungs": 2,
        "enqueue": three,
        "refuse": lambda c: () if c in three else ("not wanted",),
        "finish": finish,
    }
    driver, storage = begin(**settings, budget=Budget(trials=20))
    run_here(driver, toy.work_of_two_rungs)
    assert [storage.records[n].state for n in (1, 2, 3)] == ["paused"] * 3, "no time was given"
    driver, storage = begin(**settings, budget=Budget(trials=20, minutes=60.0))
    run_here(driver, toy.work_of_two_rungs)
    assert [storage.records[n].state for n in (1, 2, 3)] == ["final"] * 3


def test_a_failed_trial_names_what_it_made(toy, begin):
    def made(record, rung):
        return (StageCost(f"key-{record.number}-{rung}", "train.finetune", 10.0, True, False),)

    def fails(ask, prior, report):
        raise StepFailed("diverged", "no")

    driver, storage = begin(rungs=2, budget=Budget(trials=2), made=made)
    run_here(driver, fails)
    assert [s.key for s in storage.records[0].stages] == ["key-0-1"]
    assert [s.key for s in storage.records[1].stages] == ["key-1-0"]


def test_what_a_failed_rung_made_comes_after_what_was_made_before(toy, begin):
    def made(record, rung):
        return (StageCost("late", "train.finetune", 10.0, True, False),)

    def fails_late(ask, prior, report):
        if ask.rung and ask.purpose == "search":
            raise StepFailed("diverged", "no")
        early = StageCost("early", "train.finetune", 5.0, True, False)
        return replace(toy.work_of_two_rungs(ask, prior, report), stages=(early,))

    everyone = lambda records: [r.number for r in records if r.state == "paused"]  # noqa: E731
    driver, storage = begin(rungs=2, promote=everyone, budget=Budget(trials=2), made=made)
    run_here(driver, fails_late)
    assert [s.key for s in storage.records[1].stages] == ["early", "late"]


def test_paused_trials_are_told_as_pruned_only_when_the_study_ends(toy, begin):
    driver, storage = begin(rungs=2, promote=lambda records: [], budget=Budget(trials=3))
    run_here(driver, toy.work_of_two_rungs)
    states = lambda: [storage._disk.get_trial(i).state.name for i in storage._ids.values()]  # noqa: E731
    assert states() == ["COMPLETE", "RUNNING", "RUNNING"]
    driver.end()
    assert states() == ["COMPLETE", "PRUNED", "PRUNED"]
    driver, storage = begin(rungs=2, promote=best_half, budget=Budget(trials=4))
    assert driver.next().number == 3


def test_trainings_used_up_admit_only_what_needs_no_new_one(toy, begin):
    driver, storage = begin(budget=Budget(trials=20, trainings=3))
    done = run_here(driver, toy.work)
    names = [name for r in storage.records.values() for name in toy.trainings(r.configuration)]
    assert len(set(names)) == 3
    assert len(storage.records) > 6
    assert isinstance(done, Done)
    assert driver.spent().trainings == 3
    assert not driver.admits(toy.lora(2, "int8")) or "lora-rank2" in names


def test_trainings_under_way_count_already(toy, begin):
    driver, _ = begin(budget=Budget(trainings=2), enqueue=(toy.lora(1), toy.lora(2)))
    driver.next()
    assert driver.next().configuration == toy.lora(1)
    assert driver.objections(toy.lora(2)) == ["needs a new training, and the budget's 2 are used"]
    assert driver.admits(toy.lora(1, "int8"))


def test_minutes_count_across_resumes(toy, tmp_path):
    now = [0.0]
    settings = toy.rules(budget=Budget(minutes=2))

    def work(ask, prior, report):
        now[0] += 45
        return toy.work(ask, prior, report)

    for expected in (2, 3):
        storage = StudyStorage.open(tmp_path / "run", toy.header(), clock=lambda: now[0])
        driver = Driver(storage, settings)
        while len(storage.records) < expected and isinstance(ask := driver.next(), Ask):
            driver.tell(work(ask, driver.prior(ask), lambda *_: None))
        storage.close()
        now[0] += 9999
    storage = StudyStorage.open(tmp_path / "run", toy.header(), clock=lambda: now[0])
    done = Driver(storage, settings).next()
    storage.close()
    assert isinstance(done, Done)
    assert "2 minutes" in done.reason


def test_energy_ends_the_search(toy, begin):
    tariff = Tariff(watts=3.6e6)  # a kilowatt-hour a second
    driver, storage = begin(budget=Budget(kwh=40), tariff=tariff)
    done = run_here(driver, toy.work)
    assert isinstance(done, Done)
    assert "40 kWh" in done.reason
    assert 40 <= sum(r.seconds for r in storage.records.values()) < 52


def test_the_reference_is_fixed_once_when_the_initial_design_has_ended(toy, begin):
    calls = []

    def reference(records):
        calls.append([record.number for record in records])
        return {"error": 1.0}

    driver, storage = begin(reference=reference, initial=3)
    run_here(driver, toy.work)
    assert calls == [[0, 1, 2, 3]]
    assert storage.notes["reference"] == {"error": 1.0}


def test_a_driver_that_died_leaves_its_asks_to_the_next(toy, begin):
    driver, _ = begin()
    answer(toy, driver, driver.next())
    left = [driver.next(), driver.next()]
    driver, storage = begin()
    assert [driver.next(), driver.next()] == left
    assert len(storage.records) == 3


SAMPLERS = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=3),
    "nsgaii": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=4),
}


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_a_search_in_pieces_asks_what_the_whole_one_asks(toy, tmp_path, name):
    whole = toy.rules(make_sampler=SAMPLERS[name], budget=Budget(trials=14))
    _, expected = toy.finish(tmp_path / "whole", whole)
    for trials in (5, 9, 14):
        _, records = toy.finish(tmp_path / "run", replace(whole, budget=Budget(trials=trials)))
    assert records == expected


def test_two_runs_in_two_processes_are_identical(toy, tmp_path):
    _, here = toy.finish(tmp_path / "here")
    script = (
        f"import sys, json; sys.path.insert(0, {str(HERE)!r}); import search_cases as toy;"
        "from pathlib import Path;"
        f"print(json.dumps(toy.finish(Path({str(tmp_path / 'there')!r}))[1]))"
    )
    environment = {"PYTHONHASHSEED": "77", "PATH": ""}
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert json.loads(out.stdout) == here


def test_repeats_are_made_under_further_seeds_and_only_once(toy, tmp_path):
    toy.finish(tmp_path / "run")
    seeds = []

    def work(ask, prior, report):
        assert (prior.rungs, ask.purpose) == ((), "confirm")
        seeds.append((ask.number, ask.seed))
        return toy.work(ask, prior, report)

    wanted = [(3, 0), (3, 1), (5, 0)]
    for _ in range(2):
        storage = StudyStorage.open(tmp_path / "run", toy.header())
        run_here(Confirmer(storage, wanted, 0), work)
        storage.close()
    assert seeds == wanted


def test_confirmations_are_paid_for_and_are_no_trials(toy, begin):
    driver, storage = begin(tariff=Tariff(watts=3.6e6, price_per_hour=3600.0))
    run_here(driver, toy.work)
    before = driver.spent()
    repeat = replace(storage.records[3], purpose="confirm", seed=1, seconds=5.0)
    storage.confirm(repeat)
    after = driver.spent()
    assert after.trials == before.trials
    assert after.kwh - before.kwh == pytest.approx(5.0)
    assert after.money - before.money == pytest.approx(5.0)


def test_a_configuration_is_looked_for_in_turn_with_measurements(toy, begin):
    held, drawn = [], []

    @contextmanager
    def turn():
        held.append(True)
        yield
        held.pop()

    def sampler(seed):
        drawn.append(bool(held))
        return toy.sampler(seed)

    def work(ask, prior, report):
        assert not held
        return toy.work(ask, prior, report)

    driver, _ = begin(turn=turn, make_sampler=sampler)
    run_here(driver, work)
    assert drawn
    assert all(drawn)


def test_a_repeat_that_fails_for_a_passing_reason_is_made_once_more(toy, tmp_path):
    toy.finish(tmp_path / "run")
    attempts = []

    def work(ask, prior, report):
        attempts.append(ask.attempt)
        return toy.failed(toy.work(ask, prior, report), "crashed")

    storage = StudyStorage.open(tmp_path / "run", toy.header())
    run_here(Confirmer(storage, [(3, 1)], 0), work)
    assert attempts == [0, 1]
    assert [r.state for r in storage.confirmations[3]] == ["failed"]
    storage.close()


def test_every_draw_has_a_seed_of_its_own():
    seeds = {seed_of(s, n, a) for s in range(5) for n in range(20) for a in range(5)}
    assert len(seeds) == 500


def test_a_failed_trainings_name_stays_used(toy, begin):
    driver, _ = begin(budget=Budget(trainings=2), enqueue=(toy.lora(1), toy.lora(2)))
    answer(toy, driver, driver.next())
    ask = driver.next()
    driver.tell(replace(driver.prior(ask), failure=Failure("out_of_memory", "too large")))
    assert driver.spent().trainings == 2
    assert not driver.admits(toy.lora(2))


def test_a_refused_enqueued_configuration_is_counted_once_and_tried_when_it_may(toy, begin):
    allowed = []

    def refuse(configuration):
        return ["too large"] if configuration == toy.lora(7) and not allowed else []

    odd = Configuration.of(precision=Choice.of("int8"), runtime=Choice.of("eager"))
    settings = {"refuse": refuse, "enqueue": (odd, toy.lora(7)), "baseline": None}
    driver, storage = begin(**settings)
    for _ in range(2):
        for _ in range(2):
            assert driver.next().configuration != toy.lora(7)
        refused = dict(storage.notes["refused"])
        assert (refused["too large"], refused["enqueued, but not in the space"]) == (1, 1)
        driver, storage = begin(**settings)
    for number, record in sorted(storage.records.items()):
        assert driver.next().number == number
        driver.tell(toy.work(Ask(number, record.configuration, 0, 0), record, lambda *_: None))
    allowed.append(True)
    assert driver.next().configuration == toy.lora(7)


def test_a_search_shorter_than_its_initial_design_fixes_its_reference_at_the_end(toy, begin):
    calls = []

    def reference(records):
        calls.append([record.number for record in records])
        return {"error": 1.0}

    driver, storage = begin(reference=reference, initial=8, budget=Budget(trials=3))
    run_here(driver, toy.work)
    assert "reference" not in storage.notes
    driver.end()
    driver.end()
    assert calls == [[0, 1, 2]]
    assert storage.notes["reference"] == {"error": 1.0}


def test_the_reason_for_an_end_is_one_line(toy, begin):
    driver, _ = begin(needs_baseline=True)
    ask = driver.next()
    trace = Failure("out_of_memory", "Traceback:\n  line 7\nMemoryError: 4 GB\n")
    driver.tell(replace(driver.prior(ask), failure=trace))
    assert driver.next().reason.endswith("lean on it: MemoryError: 4 GB")
