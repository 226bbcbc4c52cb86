"""Problems of the search benchmark: values against the tables, limits, closed forms, errors."""

from __future__ import annotations

import numpy as np
import optuna
import pandas as pd
import pytest
from paretune.benchmarks.benchmark import fingerprint, made_by, random_draws
from paretune.benchmarks.hwgpt import HwGpt
from paretune.benchmarks.optimum import greatest
from paretune.benchmarks.problems import FAMILIES, problem_named
from paretune.errors import BadRequest, DataError, UnknownName
from paretune.search.samplers.candidates import NothingLeft
from paretune.search.samplers.greybox import GreyBoxSampler
from paretune.search.samplers.pool import Recorder

MADE_UP = ("zdt1", "dtlz2", "mixed")
EXAMPLES = [row.example for row in FAMILIES.values()]


@pytest.fixture
def named(request):
    """A problem by name; those of measured data are skipped where there is none."""

    def find(name):
        synthetic = name in MADE_UP
        return problem_named(name, None if synthetic else request.getfixturevalue("bench_data"))

    return find


def points(problem, count, seed=0):
    return [made_by(problem, drawn) for drawn in random_draws(problem, count, seed)]


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_problem_keeps_the_protocol(name, named):
    problem = named(name)
    made = points(problem, 40)
    losses = np.array([problem.losses(one) for one in made])
    assert losses.shape == (40, len(problem.objectives))
    assert np.isfinite(losses).all()
    ideal, reference = problem.bounds
    assert (ideal < reference).all()
    assert 0.0 < problem.hypervolume(losses) <= 1.0
    assert problem.hypervolume(losses[:0]) == 0.0
    assert [problem.losses(one) for one in made] == [tuple(row) for row in losses.tolist()]
    assert problem.known().reference() == reference.tolist()
    assert fingerprint(problem) == fingerprint(named(name))


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_point_is_better_than_the_optimum(name, named):
    problem = named(name)
    if problem.optimum is not None:
        losses = np.array([problem.exact(one) for one in points(problem, 300)])
        assert problem.hypervolume(losses) <= problem.optimum + 1e-12


@pytest.mark.parametrize(
    ("name", "front"),
    [
        ("zdt1", lambda p, a, b: {"x0": a, **{f"x{i}": 0.0 for i in range(1, 10)}}),
        ("dtlz2", lambda p, a, b: {"x0": a, "x1": b, **{f"x{i}": 0.5 for i in range(2, 6)}}),
    ],
)
def test_the_true_front_reaches_the_closed_form(name, front, named):
    problem = named(name)
    axis = np.linspace(0, 1, 150)
    losses = [problem.losses(front(problem, a, b)) for a in axis for b in axis]
    assert problem.hypervolume(np.array(losses)) == pytest.approx(problem.optimum, rel=0.02)


def table_of(folder):
    return pd.read_csv(folder / "hwgpt_s.csv.gz").sample(60, random_state=0).reset_index()


def of_row(problem, row):
    """The configuration of a row of the table."""
    named = {**row, "bias": bool(row["bias"])}
    return problem.suggest(Recorder(lambda name, _: named[name]))


def test_figures_of_models_are_those_of_the_table(bench_data):
    four = problem_named("hwgpt4:s:a100", bench_data)
    table = table_of(bench_data)
    found = np.array([four.losses(of_row(four, row)) for row in table.to_dict("records")])
    columns = ["ppl_surrogate", "lat_ms_a100", "mem_mb_bf16_a100", "energy_wh_a100"]
    assert found[:, 0] == pytest.approx(table["ppl_surrogate"], rel=1e-3)
    for j, least in enumerate((0.99999, 0.999, 0.999, 0.95)):
        assert np.corrcoef(found[:, j], table[columns[j]])[0, 1] > least


def test_limits_are_exact_on_paper_and_a_tenth_of_the_space_keeps_them(bench_data):
    problem = problem_named("hwgpt-limits:s:a100", bench_data)
    made = points(problem, 1500)
    kept = [all(v <= 0.0 for v in problem.violations(one).values()) for one in made]
    assert 0.09 < np.mean(kept) < 0.135
    fits = problem.known().fits
    assert [fits(problem.paper(one)) for one in made[:200]] == kept[:200]


def test_violations_are_shares_beyond_the_caps_of_the_tables_figures(bench_data):
    problem = problem_named("hwgpt-limits:s:a100", bench_data)
    table = table_of(bench_data)
    rows = table.to_dict("records")
    beyond = [problem.violations(of_row(problem, row)) for row in rows]
    caps = table["flops"].to_numpy() / (1.0 + np.array([v["flops"] for v in beyond]))
    assert caps == pytest.approx(np.full(len(rows), caps[0]), rel=1e-6)
    heads = sum(table[f"n_head_{i}"].to_numpy() for i in range(12))
    caps = heads / (1.0 + np.array([v["kv_cache_bytes"] for v in beyond]))
    assert caps == pytest.approx(np.full(len(rows), 0.88 * 88))
    assert problem_named("hwgpt:s:a100", bench_data).violations(of_row(problem, rows[0])) == {}


def test_many_models_at_once_are_judged_like_one_by_one(bench_data):
    problem = problem_named("hwgpt-limits:s:a100", bench_data)
    genes = np.random.default_rng(0).random((60, problem.genes))
    for row, losses in zip(genes, problem.at(genes), strict=True):
        names = ["embed_dim", "n_layer", "bias"]
        names += [f"{kind}_{i}" for kind in ("mlp_ratio", "n_head") for i in range(12)]
        value = dict(zip(names, row, strict=True))
        made = problem.suggest(
            Recorder(lambda name, d, v=value: d.choices[int(v[name] * len(d.choices))])
        )
        if all(v <= 0.0 for v in problem.violations(made).values()):
            assert losses == pytest.approx(problem.losses(made))
        else:
            assert np.isinf(losses).all()


def test_layers_beyond_the_depth_make_no_other_model(bench_data):
    problem = problem_named("hwgpt:s:a100", bench_data)
    for drawn in random_draws(problem, 30):
        depth = drawn.params["n_layer"]
        assert len(drawn.params) == 3 + 2 * depth
        more = {**drawn.params, "n_head_11": 12, "mlp_ratio_11": 4}
        if depth < 12:
            again = problem.suggest(Recorder(lambda name, _, p=more: p[name]))
            assert again == drawn.configuration


def test_the_search_for_the_optimum_is_beyond_ten_thousand_rows(bench_data):
    problem = problem_named("hwgpt:s:a100", bench_data)
    assert 0.69 < greatest(problem, 60_000, seed=0) < 0.7009


def test_a_problem_that_must_be_asked_one_by_one_has_no_search_for_its_optimum(named):
    with pytest.raises(BadRequest, match="no search for its optimum"):
        greatest(named("zdt1"), 100, seed=0)


def test_noise_is_told_to_trials_and_judges_nobody(named):
    problem = named("mixed")
    made = points(problem, 200)
    told = np.array([problem.losses(one) for one in made])
    exact = np.array([problem.exact(one) for one in made])
    noise = np.log(told[:, 0] / exact[:, 0])
    assert abs(noise.mean()) < 0.005
    assert noise.std() == pytest.approx(0.02, rel=0.2)
    assert (told[:, 1] == exact[:, 1]).all()


def test_a_method_has_its_own_knobs_alone(named):
    problem = named("mixed")
    own = {"full": 1, "lora": 2, "distil": 2, "prune": 2}
    assert all(len(one) == 4 + own[one["method"]] for one in points(problem, 100))


def test_a_small_table_is_asked_through_once_and_then_nothing_is_left(bench_data):
    problem = problem_named("llamacpp", bench_data)
    sampler = GreyBoxSampler(problem.known(), seed=0, pool=100)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
    asked = []

    def judged(trial):
        asked.append(problem.suggest(trial))
        return problem.losses(asked[-1])

    with pytest.raises(NothingLeft, match="none of 400 further draws"):
        study.optimize(judged, n_trials=100)
    assert len(asked) == len(set(asked)) >= 40
    losses = np.array([problem.losses(one) for one in asked])
    assert problem.hypervolume(losses) == pytest.approx(problem.optimum, rel=1e-3)


def test_names_that_do_not_exist_list_those_that_do(bench_data, tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'zdt1'"):
        problem_named("zdt2", tmp_path)
    with pytest.raises(UnknownName, match="hwgpt-limits:s:a100"):
        problem_named("hwgpt:s", tmp_path)
    with pytest.raises(UnknownName, match="scale 'xl'"):
        problem_named("hwgpt:xl:a100", bench_data)
    with pytest.raises(UnknownName, match="device with latency_ms 'tpu'"):
        problem_named("hwgpt:s:tpu", bench_data)
    with pytest.raises(UnknownName, match="latency_ms and memory_mb and energy_wh 'cpu_p100'"):
        problem_named("hwgpt4:s:cpu_p100", bench_data)
    assert isinstance(problem_named("hwgpt:s:cpu_p100", bench_data), HwGpt)


@pytest.mark.parametrize("name", ["hwgpt:s:a100", "llamacpp", "peft"])
def test_data_that_is_not_there_is_named(name, tmp_path):
    with pytest.raises(DataError, match=r"no .* in .*; say where it lies with --data"):
        problem_named(name, tmp_path)
