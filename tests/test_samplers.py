"""Samplers: the same contract for every row of the table, and what the grey-box one adds."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import optuna
import pytest
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from paretune.errors import BadRequest, UnknownName
from paretune.evaluators.measurement import Measurement
from paretune.search.limits import Limit
from paretune.search.records import Failure, Record, Rung
from paretune.search.samplers import TABLE, sampler
from paretune.search.samplers.candidates import NothingLeft
from paretune.search.samplers.encoding import Knobs, Scaling
from paretune.search.samplers.greybox import GreyBoxSampler
from paretune.search.samplers.pool import (
    crossed,
    draw,
    from_unit,
    mutated,
    repeated,
    stem,
    structured,
    uniform,
)
from paretune.search.samplers.problem import Problem
from paretune.search.samplers.surrogate import Lengths
from paretune.spaces.configuration import Choice, Configuration
from paretune.spaces.paper import Paper
from paretune.spaces.profile import Attention, FeedForward, Head, Layer, Profile

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

optuna.logging.set_verbosity(optuna.logging.ERROR)


def suggest(trial):
    """Three layers of a width each, or none of them: a small conditional space."""
    method = trial.suggest_categorical("structure", ["none", "ffn"])
    if method == "none":
        return Configuration()
    widths = {f"width_{i}": trial.suggest_int(f"structure.ffn.width_{i}", 1, 8) for i in range(3)}
    rank = trial.suggest_float("structure.ffn.scale", 0.01, 10.0, log=True)
    return Configuration.of(structure=Choice.of("ffn", scale=rank, **widths))


def widths_of(configuration):
    choice = configuration.get("structure")
    return [8, 8, 8] if choice is None else [v for k, v in choice.settings if k != "scale"]


def paper(configuration):
    layers = tuple(Layer(Attention(2, 2, 4), FeedForward(8 * w)) for w in widths_of(configuration))
    return Paper(Profile("bert", 8, 20, 16, 2, layers, Head("classification", 2)))


def size(on_paper):
    return float(sum(layer.feed_forward.width for layer in on_paper.profile.layers))


def judged(configuration):
    """Error falls with width, best at scale 1; size is the other loss."""
    choice = configuration.get("structure")
    scale = 1.0 if choice is None else dict(choice.settings)["scale"]
    error = 1.0 / sum(widths_of(configuration)) * (1.0 + math.log10(scale) ** 2)
    return error, size(paper(configuration))


PROBLEM = Problem(suggest, paper=paper, known={1: size})


SMALL = partial(GreyBoxSampler, pool=200)
"""A small pool: what is tested here does not hang on its size."""


def run(make, trials, problem=PROBLEM):
    """A study from nothing; returns it with its configurations."""
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=make(problem, 3))
    made = []
    for _ in range(trials):
        trial = study.ask()
        made.append(suggest(trial))
        study.tell(trial, judged(made[-1]))
    return study, made


@pytest.mark.parametrize("name", TABLE)
def test_a_sampler_is_a_pure_function_of_seed_and_history(name):
    trials = 6 if name == "gp" else 12
    _, whole = run(TABLE[name].make, trials)
    study, first = run(TABLE[name].make, trials // 2)
    # Resumed by another process: a new sampler over the same trials, none of the old one's state.
    again = optuna.create_study(
        directions=study.directions, sampler=TABLE[name].make(replace(PROBLEM), 3)
    )
    again.add_trials(study.trials)
    for _ in range(trials - trials // 2):
        trial = again.ask()
        first.append(suggest(trial))
        again.tell(trial, judged(first[-1]))
    assert first == whole


@pytest.mark.parametrize("name", TABLE)
def test_another_seed_asks_something_else(name):
    made = set()
    for seed in range(12):
        study = optuna.create_study(sampler=TABLE[name].make(PROBLEM, seed))
        made.add(suggest(study.ask()))
    assert len(made) > 1


def test_an_unknown_sampler_says_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'greybox'"):
        sampler("greybx")
    assert sampler("greybox").reads_records


def test_the_greybox_sampler_never_asks_twice():
    _, made = run(SMALL, 20)
    assert len(set(made)) == 20


def test_the_greybox_sampler_beats_chance():
    reference = np.array([1.0, 200.0])

    def volume(make):
        from paretune.search.pareto import hypervolume

        losses = np.array([judged(c) for c in run(make, 25)[1]])
        return hypervolume(losses, reference)

    assert volume(SMALL) > volume(TABLE["random"].make)


def test_illegal_and_over_limit_configurations_never_become_trials():
    def legal(configuration):
        return paper(configuration) if widths_of(configuration)[0] % 2 == 0 else None

    problem = Problem(suggest, paper=legal, known={1: size}, fits=lambda p: size(p) <= 96)
    for configuration in run(SMALL, 15, problem)[1]:
        assert widths_of(configuration)[0] % 2 == 0
        assert size(paper(configuration)) <= 96


def test_the_budget_filters_what_is_asked():
    problem = Problem(suggest, paper=paper, admits=lambda c: widths_of(c)[1] == 3)
    assert {widths_of(c)[1] for c in run(SMALL, 12, problem)[1]} == {3}


def test_the_initial_design_covers_the_quantiles_of_what_is_known():
    _, made = run(SMALL, 8)
    sizes = sorted(size(paper(c)) for c in made)
    drawn = {draw(suggest, uniform(rng)).configuration for rng in rngs(400)}
    pool = sorted(size(paper(configuration)) for configuration in drawn)
    quarters = np.searchsorted(np.quantile(pool, [0.25, 0.5, 0.75]), sizes)
    assert set(quarters) == {0, 1, 2, 3}


def rngs(count):
    return [np.random.default_rng(i) for i in range(count)]


def test_a_space_that_is_used_up_says_so():
    def few(trial):
        return Configuration.of(structure=Choice.of("a", n=trial.suggest_int("n", 1, 3)))

    problem = Problem(few)
    study = optuna.create_study(
        directions=["minimize"] * 2, sampler=GreyBoxSampler(problem, pool=50)
    )
    for _ in range(3):
        trial = study.ask()
        few(trial)
        study.tell(trial, (1.0, 1.0))
    with pytest.raises(NothingLeft, match="3 were asked"):
        few(study.ask())


def test_a_suggest_that_changes_its_mind_is_told_and_never_answered_at_random():
    study = optuna.create_study(sampler=GreyBoxSampler(PROBLEM))
    with pytest.raises(BadRequest, match="'elsewhere'"):
        study.ask().suggest_float("elsewhere", 0.0, 1.0)


def test_an_enqueued_trial_is_asked_as_it_is_and_what_it_leaves_open_is_drawn():
    study = optuna.create_study(directions=["minimize"] * 2, sampler=GreyBoxSampler(PROBLEM))
    study.enqueue_trial({"structure": "ffn", "structure.ffn.width_0": 5})
    assert widths_of(suggest(study.ask()))[0] == 5


def test_any_study_can_be_searched_without_papers(caplog):
    def plain(trial):
        x = trial.suggest_float("x", 0.0, 1.0)
        return {"x": x, "kind": trial.suggest_categorical("kind", ["a", "b"])}

    sampler_ = GreyBoxSampler(Problem(plain), seed=1)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler_)

    def objective(trial):
        x = plain(trial)["x"]
        return x, math.sqrt(x)

    with caplog.at_level("INFO"):
        study.optimize(objective, n_trials=12)
    assert "no paper" in caplog.text
    assert len({tuple(t.params.values()) for t in study.trials}) == 12


@pytest.mark.parametrize("objectives", [1, 3, 4, 5])
def test_any_number_of_objectives_is_searched(objectives):
    study = optuna.create_study(
        directions=["minimize"] * objectives, sampler=GreyBoxSampler(Problem(suggest), pool=100)
    )
    for _ in range(11):
        trial = study.ask()
        a, b = judged(suggest(trial))
        study.tell(trial, [a, b, a + b, a * b, a - b][:objectives])
    assert len(study.trials) == 11


def test_four_parallel_asks_spread():
    study, made = run(SMALL, 10)
    for _ in range(4):
        made.append(suggest(study.ask()))
    assert len(set(made)) == 14


def measured(number, configuration, error, rung=1, state="final", **more):
    figures = {
        "error": Measurement(error, "fraction", "measured"),
        "bytes": Measurement(size(paper(configuration)), "byte", "exact"),
    }
    below = tuple(Rung(r, figures, 1.0) for r in range(rung + 1))
    return Record(number, configuration, state, rungs=below, **more)


def with_records(problem, records):
    """A study whose history is in records; their trials carry parameters only."""
    known = replace(
        problem, objectives=("error", "bytes"), history=lambda: records, rungs=(0.5, 1.0)
    )
    study = optuna.create_study(directions=["minimize"] * 2, sampler=GreyBoxSampler(known, 5))
    for record in records:
        params = params_of(record.configuration)
        study.add_trial(
            optuna.create_trial(
                state=optuna.trial.TrialState.RUNNING,
                params=params,
                distributions=draw(suggest, repeated(params)).distributions,
            )
        )
    return study


def params_of(configuration):
    choice = configuration.get("structure")
    if choice is None:
        return {"structure": "none"}
    return {"structure": "ffn", **{f"structure.ffn.{k}": v for k, v in choice.settings}}


def history(count):
    rng = np.random.default_rng(0)
    drawn = [draw(suggest, mutated({"structure": "ffn"}, rng, 0.0)) for _ in range(count)]
    return [measured(i, d.configuration, judged(d.configuration)[0]) for i, d in enumerate(drawn)]


def test_records_with_rungs_and_failures_are_learnt_from():
    records = history(12)
    records[3] = replace(records[3], state="paused", rungs=records[3].rungs[:1])
    records[4] = replace(records[4], state="running", rungs=())
    oom = Failure("out_of_memory", "too large")
    records[5] = replace(records[5], state="failed", failure=oom, rungs=())
    records.append(measured(12, Configuration(), 0.04, purpose="baseline"))
    first = suggest(with_records(PROBLEM, records).ask())
    assert first not in {r.configuration for r in records}
    assert first == suggest(with_records(PROBLEM, records).ask())


def test_lower_rungs_teach_before_any_trial_is_final():
    def asked(sign):
        records = [
            measured(r.number, r.configuration, 0.5 + sign * r.value("error"), 0, "paused")
            for r in history(12)
        ]
        return suggest(with_records(PROBLEM, records).ask())

    assert asked(1.0) != asked(-1.0), "what is asked rests on the figures"


def test_a_limit_on_a_measured_metric_steers_away_from_what_breaks_it():
    records = history(20)
    free = replace(PROBLEM, known={})
    floor = Limit("bytes", ">=", 110.0, text="bytes >= 110")
    capped = replace(free, limits=lambda: [floor])
    assert size(paper(suggest(with_records(capped, records).ask()))) > 90
    tight = replace(free, limits=lambda: [Limit("bytes", "<=", 80.0)])
    assert size(paper(suggest(with_records(tight, records).ask()))) < 120


def test_records_need_the_names_of_the_objectives():
    records = history(4)
    nameless = replace(PROBLEM, history=lambda: records)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=GreyBoxSampler(nameless))
    with pytest.raises(BadRequest, match="one metric name per objective"):
        suggest(study.ask())


def test_a_users_own_features_replace_ours():
    def describe(configuration, on_paper):
        return np.array([size(on_paper), widths_of(configuration)[0]])

    problem = Problem(suggest, paper=paper, features=describe)
    sampler_ = GreyBoxSampler(problem)
    assert len(sampler_._search._candidates.basis.scaling.keep) == 2


@pytest.mark.parametrize(
    "distribution",
    [
        IntDistribution(1, 9, step=2),
        IntDistribution(1, 100, log=True),
        FloatDistribution(0.1, 1.0, step=0.1),
        FloatDistribution(1e-5, 1e-1, log=True),
        CategoricalDistribution(["a", None, True]),
    ],
)
def test_every_draw_lies_in_its_distribution(distribution):
    rules = [uniform(np.random.default_rng(0)), structured(np.random.default_rng(1))]
    values = [rule(f"x_{i}", distribution) for rule in rules for i in range(50)]
    children = [mutated({"x": v}, np.random.default_rng(2), 1.0)("x", distribution) for v in values]
    for value in [*values, *children, from_unit(distribution, 0), from_unit(distribution, 1)]:
        assert distribution._contains(distribution.to_internal_repr(value))
    assert len(set(values)) > 2


def test_crossing_takes_each_parameter_from_a_parent():
    a = {"structure": "ffn", **{f"structure.ffn.width_{i}": 1 for i in range(3)}}
    b = {"structure": "ffn", **{f"structure.ffn.width_{i}": 8 for i in range(3)}}
    for rng in rngs(10):
        assert set(widths_of(draw(suggest, crossed(a, b, rng)).configuration)) <= {1, 8}


def test_a_structured_draw_shares_one_mixture_among_layers():
    def deep(trial):
        return tuple(trial.suggest_int(f"n_{i}", 1, 3) for i in range(12))

    spread = [np.std(list(draw(deep, structured(r)).params.values())) for r in rngs(60)]
    even = [np.std(list(draw(deep, uniform(r)).params.values())) for r in rngs(60)]
    assert np.mean(spread) < 0.8 * np.mean(even)
    assert stem("n_1") == stem("n_11") != stem("m_1")


def test_knobs_that_repeat_over_layers_become_totals_and_themselves():
    sample = [{"w_0": 1, "w_1": 2, "w_2": 3, "w_3": 4, "lr": 1e-3, "kind": "a"}]
    sample += [{"w_0": 4, "w_1": 3, "w_2": 2, "w_3": 1, "lr": 1e-1, "kind": "b"}]
    numbering = Knobs.of(sample)
    row = numbering.encode(sample[0])
    totals = [10, 1.25]
    assert row == pytest.approx([math.log(1e-3), 1, 0, *totals, 1, 2, 3, 4])
    lengths = numbering.lengths()
    assert lengths.of.tolist() == [0, 1, 2, 3, 4, *[5] * 4]
    assert lengths.bent.tolist() == [True] * 3 + [False] * 3
    assert numbering.encode({"kind": "b"}) == pytest.approx([math.log(1e-2), 0, 1] + [0] * 6)


def test_columns_that_say_nothing_new_are_left_out():
    x = np.random.default_rng(0).standard_normal(50)
    y = np.random.default_rng(1).standard_normal(50)
    lengths = Lengths(np.array([3, 0, 1, 3]), np.array([False, False, False, True]))
    scaling = Scaling.of(np.stack([x, np.ones(50), 3 * x + 1, y], axis=1), lengths)
    assert scaling.lengths.of.tolist() == [0, 0]
    assert scaling.lengths.bent.tolist() == [True]
    assert scaling.keep.tolist() == [0, 3]
    assert np.abs(scaling(np.array([[1e9, 1.0, 0.0, -1e9]]))).max() == 4.0


def test_beyond_fifty_trials_hyper_parameters_are_fitted_for_every_fifth(monkeypatch):
    from paretune.search.samplers import belief

    fits = []
    whole = belief.fit
    monkeypatch.setattr(belief, "fit", lambda *a, **k: fits.append(1) or whole(*a, **k))
    study, _ = run(TABLE["random"].make, 51)
    study.sampler = SMALL(Problem(suggest), 3)
    for made in (2, 2, 2, 2, 4):  # after 51 to 54 trials, and after 55; two objectives
        trial = study.ask()
        study.tell(trial, judged(suggest(trial)))
        assert len(fits) == made
