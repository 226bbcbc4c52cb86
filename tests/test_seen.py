"""The grey-box sampler alone in a study: the space is what the study's trials show."""

import logging
import math
import pickle
from itertools import pairwise

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from paretune.search.pareto import hypervolume
from paretune.search.samplers.greybox import GreyBoxSampler
from paretune.search.samplers.pool import Recorder, draw, repeated, uniform
from paretune.search.samplers.seen import seen_space

optuna.logging.set_verbosity(optuna.logging.ERROR)


def alone(seed=0):
    """A small pool: what is tested here does not hang on its size."""
    return GreyBoxSampler(seed=seed, pool=100)


def study_of(sampler, objectives=2):
    return optuna.create_study(directions=["minimize"] * objectives, sampler=sampler)


def shown(suggest, count, seed=0):
    """Complete trials of random answers to a `suggest`."""
    rng = np.random.default_rng(seed)
    draws = [draw(suggest, uniform(rng)) for _ in range(count)]
    return [
        optuna.create_trial(params=dict(d.params), distributions=dict(d.distributions), value=1.0)
        for d in draws
    ]


def branching(trial):
    """A kind with a number of its own, layers by their count, a switch that needs two answers."""
    kind = trial.suggest_categorical("kind", ["a", "b", None, True])
    if kind == "a":
        trial.suggest_float("a.rate", 1e-5, 1e-1, log=True)
    if kind is True:
        trial.suggest_float("on.share", 0.0, 1.0, step=0.25)
    depth = trial.suggest_int("depth", 1, 3)
    for layer in range(depth):
        trial.suggest_int(f"width_{layer}", 2, 64, log=True)
    if kind == "b" and trial.suggest_categorical("twice", [True, False]):
        trial.suggest_int("second", 0, 100, step=10)


def names_asked(suggest, answers):
    asked = Recorder(repeated(answers))
    suggest(asked)
    return set(asked.params)


def test_with_enough_trials_every_condition_is_learnt():
    space = seen_space(shown(branching, 150))
    rng = np.random.default_rng(1)
    for _ in range(200):
        made = draw(space, uniform(rng))
        assert names_asked(branching, made.params) == set(made.params)


@given(st.integers(0, 10_000), st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_every_trial_that_was_seen_can_be_replayed(seed, count):
    trials = shown(branching, count, seed)
    space = seen_space(trials)
    for trial in trials:
        replayed = draw(space, repeated(trial.params)).params
        assert replayed.items() <= trial.params.items()


def test_what_trials_asked_for_is_asked_again_in_the_order_of_the_first():
    space = seen_space(shown(lambda t: [t.suggest_int(n, 0, 5) for n in "qax"], 3))
    assert [name for name, _ in space.asks] == ["q", "a", "x"]
    assert space.fork is None


def test_a_number_may_decide_where_it_is_cut():
    def suggest(trial):
        if trial.suggest_float("x", 0.0, 1.0) > 0.6:
            trial.suggest_float("y", 0.0, 1.0)

    space = seen_space(shown(suggest, 60))
    assert space.fork.cuts == pytest.approx([0.6], abs=0.1)
    assert set(draw(space, lambda name, _: 0.9).params) == {"x", "y"}
    assert set(draw(space, lambda name, _: 0.1).params) == {"x"}


def test_an_answer_that_nobody_gave_leaves_the_rest_open():
    def suggest(trial):
        kind = trial.suggest_categorical("kind", ["a", "b", "c"])
        trial.suggest_int(kind, 0, 9)

    trials = [t for t in shown(suggest, 60) if t.params["kind"] != "c"]
    made = draw(seen_space(trials), lambda name, _: "c" if name == "kind" else 1)
    assert set(made.params) == {"kind"}


def test_conditions_that_no_answer_tells_are_left_open():
    kind = FloatDistribution(0.0, 1.0)
    trials = [
        optuna.create_trial(
            params={"x": 0.5, ("odd" if i % 2 else "even"): 0.1},
            distributions={"x": kind, ("odd" if i % 2 else "even"): kind},
            value=0.0,
        )
        for i in range(10)
    ]
    space = seen_space(trials)
    assert [name for name, _ in space.asks] == ["x"]
    assert space.fork is None


def test_true_is_not_one_and_answers_need_no_hash():
    kind = CategoricalDistribution([True, 1, 1.0])

    def suggest(trial):
        answer = trial.suggest_categorical("x", kind.choices)
        if answer is True:
            trial.suggest_int("truth", 0, 9)

    space = seen_space(shown(suggest, 40))
    for choice in kind.choices:
        made = draw(space, lambda name, _, c=choice: c if name == "x" else 3)
        assert ("truth" in made.params) == (choice is True)


def test_the_last_range_counts():
    trials = [
        optuna.create_trial(
            params={"x": low}, distributions={"x": IntDistribution(low, low + 9)}, value=0.0
        )
        for low in (0, 100)
    ]
    assert seen_space(trials).asks == (("x", IntDistribution(100, 109)),)
    assert seen_space([]) is None


def conditional(trial):
    """Best at kind b with y near .3; two losses that pull apart."""
    kind = trial.suggest_categorical("kind", ["a", "b"])
    x = trial.suggest_float("x", 0.0, 1.0)
    extra = (
        trial.suggest_float("z", 0.0, 1.0)
        if kind == "a"
        else abs(trial.suggest_float("y", 0.0, 1.0) - 0.3)
    )
    return x**2 + extra, (1.0 - x) ** 2 + extra


def run(sampler, trials, objective=conditional, objectives=2, **how):
    study = study_of(sampler, objectives)
    study.optimize(objective, n_trials=trials, **how)
    return study


def params_of(study):
    return [trial.params for trial in study.trials]


def test_alone_it_beats_chance_where_parameters_are_conditional():
    def volume(sampler):
        losses = np.array([trial.values for trial in run(sampler, 30).trials])
        return hypervolume(losses, np.array([1.0, 1.0]))

    assert volume(alone()) > volume(optuna.samplers.RandomSampler(seed=0))


def test_alone_it_is_a_pure_function_of_seed_and_history():
    whole, first = run(alone(), 16), run(alone(), 8)
    again = study_of(alone())
    again.add_trials(first.trials)
    again.sampler.reseed_rng()
    again.optimize(conditional, n_trials=8)
    assert params_of(again) == params_of(whole)
    assert params_of(run(alone(seed=1), 16)) != params_of(whole)


def test_a_sampler_that_was_pickled_goes_on_as_if_not():
    study, other = run(alone(), 10), run(alone(), 10)
    other.sampler = pickle.loads(pickle.dumps(other.sampler))
    for each in (study, other):
        each.optimize(conditional, n_trials=2)
    assert params_of(study) == params_of(other)


def test_a_sampler_that_served_another_study_starts_afresh():
    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        return x**2, (x - 1) ** 2

    def study(sampler):
        made = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
        made.optimize(objective, n_trials=8)
        return [trial.params for trial in made.trials]

    used = GreyBoxSampler(seed=1, pool=60)
    other = optuna.create_study(directions=["minimize"] * 2, sampler=used)
    other.optimize(lambda trial: (trial.suggest_float("x", 0, 1), 1.0), n_trials=9)
    assert study(used) == study(GreyBoxSampler(seed=1, pool=60))


def test_a_choice_may_be_no_number():
    def objective(trial):
        return trial.suggest_categorical("d", [1.0, 3.0, math.nan]) == 1.0, trial.suggest_float(
            "y", 0, 1
        )

    study = optuna.create_study(
        directions=["minimize"] * 2, sampler=GreyBoxSampler(seed=0, pool=60)
    )
    study.optimize(objective, n_trials=14)
    assert len(study.trials) == 14


def test_that_there_is_no_space_is_said_once(caplog):
    with caplog.at_level(logging.WARNING, logger="paretune"):
        run(alone(), 5)
    assert [record.getMessage() for record in caplog.records] == [
        "no space was given: it is learnt from what the study's trials ask for"
    ]


def test_a_finite_space_is_asked_without_repeats_and_then_repeats(caplog):
    def objective(trial):
        return trial.suggest_int("n", 1, 3) + 10.0 * trial.suggest_categorical("k", [1, 2])

    study = run(alone(), 1, objective, 1)
    with caplog.at_level(logging.WARNING, logger="paretune"):
        study.optimize(objective, n_trials=9)
    asked = [tuple(sorted(params.items())) for params in params_of(study)]
    assert len(set(asked[:6])) == 6
    assert len(asked) == 10
    assert sum("trials may repeat" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("objectives", [1, 3, 5])
def test_any_number_of_objectives_is_searched_alone(objectives):
    def objective(trial):
        a, b = conditional(trial)
        return (a, b, a + b, a * b, a - b)[:objectives]

    assert len(run(alone(), 12, objective, objectives).best_trials) >= 1


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_values_that_are_no_figures_do_not_stop_a_study(bad):
    def objective(trial):
        a, b = conditional(trial)
        return (bad, b) if trial.number % 2 else (a, b)

    study = run(alone(), 14, objective)
    assert len(study.trials) == 14
    study = run(alone(), 12, lambda trial: bad + conditional(trial)[0], 1)
    assert len(study.trials) == 12


def test_failed_and_pruned_trials_are_not_asked_again():
    def objective(trial):
        n = trial.suggest_int("n", 0, 11)
        if n % 3 == 0:
            raise optuna.TrialPruned
        if n % 3 == 1:
            raise ValueError("no")
        return float(n)

    study = run(alone(), 3, objective, 1, catch=(ValueError,))
    study.enqueue_trial({"n": 2})
    study.optimize(objective, n_trials=8, catch=(ValueError,))
    states = {trial.state for trial in study.trials}
    assert states == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    known = [t.params["n"] for t in study.trials[3:]]
    before = {t.params["n"] for t in study.trials[:3]}
    assert len(set(known)) == len(known)
    assert not set(known[1:]) & before


def test_what_is_enqueued_is_asked_and_what_it_leaves_open_is_drawn():
    study = run(alone(), 6)
    study.enqueue_trial({"kind": "b", "y": 0.31})
    study.enqueue_trial({"x": 7.0})  # out of its range
    with pytest.warns(UserWarning, match="out of range"):
        study.optimize(conditional, n_trials=2)
    assert study.trials[6].params.items() >= {"kind": "b", "y": 0.31}.items()
    assert 0.0 <= study.trials[6].params["x"] <= 1.0


def test_broken_constraints_lead_elsewhere():
    def objective(trial):
        x, y = trial.suggest_float("x", 0.0, 1.0), trial.suggest_float("y", 0.0, 1.0)
        trial.set_constraint("sum", 0.8 - x - y)
        return x + 0.1 * y

    study = run(alone(), 25, objective, 1)
    kept = [trial.constraints["sum"] <= 0.0 for trial in study.trials[-12:]]
    assert sum(kept) >= 7


def test_trials_under_way_are_not_asked_again():
    study = run(alone(), 8)
    waiting = []
    for _ in range(4):
        waiting.append(study.ask())
        conditional(waiting[-1])
    study.ask()  # has asked for nothing yet
    study.optimize(conditional, n_trials=2)
    made = [tuple(params.items()) for params in params_of(study) if params]
    assert len(set(made)) == 14


def test_threads_share_a_sampler():
    study = run(alone(), 24, n_jobs=3)
    made = [tuple(params.items()) for params in params_of(study)]
    # Trials that begin at one moment do not see each other, and may be the same.
    assert len(set(made)) >= 16
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)


def test_ranges_that_move_are_followed():
    study = run(alone(), 8, lambda t: t.suggest_int("n", 0, 10) + t.suggest_float("x", 0, 1), 1)
    study.optimize(lambda t: t.suggest_int("n", 50, 60) + t.suggest_float("x", 5, 6), n_trials=8)
    assert all(50 <= trial.params["n"] <= 60 for trial in study.trials[8:])


def test_parameters_may_be_told_beforehand():
    space = {"x": FloatDistribution(0.0, 1.0), "n": IntDistribution(1, 64, log=True)}
    study = study_of(alone())
    for _ in range(10):
        trial = study.ask(space)
        study.tell(trial, (trial.params["x"], -trial.params["x"] * trial.params["n"]))
    assert all(first != second for first, second in pairwise(params_of(study)))


@pytest.mark.slow
def test_a_study_of_another_process_is_gone_on_with(tmp_path):
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    made = []
    for parts in ([12], [6, 6]):
        name = f"in {len(parts)}"
        for trials in parts:
            study = optuna.create_study(
                directions=["minimize"] * 2,
                sampler=alone(),
                storage=storage,
                study_name=name,
                load_if_exists=True,
            )
            study.optimize(conditional, n_trials=trials)
        made.append(params_of(study))
    assert made[0] == made[1]


def ray_space():
    from ray import tune

    return {
        "x": tune.uniform(0.0, 1.0),
        "rate": tune.loguniform(1e-5, 1e-1),
        "n": tune.randint(1, 9),
        "kind": tune.choice(["a", "b"]),
    }


def by_running(trial):
    conditional(trial)
    trial.suggest_int("n", 1, 9)


def judged(config):
    penalty = 0.0 if config["kind"] == "b" else 0.5
    return {"loss": (config["x"] - 0.3) ** 2 + penalty, "size": float(config["n"])}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("runs", [False, True])
def test_rays_optuna_search_takes_it_and_saves_it(tmp_path, runs):
    search = pytest.importorskip("ray.tune.search.optuna")

    def make():
        given = by_running if runs else search.OptunaSearch.convert_search_space(ray_space())
        return search.OptunaSearch(
            given, metric=["loss", "size"], mode=["min", "min"], sampler=alone()
        )

    def ask(searcher, numbers):
        made = []
        for number in numbers:
            config = searcher.suggest(str(number))
            searcher.on_trial_complete(str(number), result=judged(config))
            made.append(config)
        return made

    whole, first = make(), make()
    expected = ask(whole, range(14))
    made = ask(first, range(7))
    first.save(str(tmp_path / "searcher"))
    again = make()
    again.restore(str(tmp_path / "searcher"))
    assert made + ask(again, range(7, 14)) == expected
    assert len({tuple(config.items()) for config in expected}) == 14


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.filterwarnings("ignore")
def test_ray_tune_searches_with_it(tmp_path):
    pytest.importorskip("ray")
    from ray import tune
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    searcher = OptunaSearch(metric=["loss", "size"], mode=["min", "min"], sampler=alone())
    tuner = tune.Tuner(
        lambda config: {"loss": (config["x"] - 0.3) ** 2, "size": float(config["n"])},
        param_space=ray_space(),
        tune_config=tune.TuneConfig(
            search_alg=ConcurrencyLimiter(searcher, max_concurrent=2), num_samples=12
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    )
    results = tuner.fit()
    assert not results.errors
    assert len({tuple(result.config.items()) for result in results}) == 12
