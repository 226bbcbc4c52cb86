"""The search benchmark: its studies, its cache, its JSON, its page, its errors."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from paretune.benchmarks import search
from paretune.benchmarks.benchmark import random_draws
from paretune.benchmarks.contenders import CONTENDERS, contender
from paretune.benchmarks.problems import problem_named
from paretune.benchmarks.search import measured, optimum_of, search_optimum, summary, trace
from paretune.benchmarks.search_table import main as table_main
from paretune.benchmarks.search_table import page
from paretune.benchmarks.synetune import value_of
from paretune.errors import BadRequest, DataError, UnknownName


def test_every_evaluation_has_its_hypervolume_and_it_never_falls():
    told = trace(problem_named("mixed", None), contender("optuna-tpe"), 15, seed=1)
    assert len(told["hypervolume"]) == 15
    assert (np.diff(told["hypervolume"]) >= 0).all()
    assert told["feasible"] == 1.0
    assert told["seconds_per_ask"] > 0


@pytest.mark.parametrize("name", ["random", "optuna-nsga2", "greybox"])
def test_a_study_is_a_function_of_its_seed(name):
    problem = problem_named("mixed", None)
    one, again, other = (
        trace(problem, contender(name), 6, seed)["hypervolume"] for seed in (0, 0, 1)
    )
    assert one == again
    assert one != other


def test_points_beyond_a_limit_count_nothing_and_ours_asks_none(bench_data):
    problem = problem_named("hwgpt-limits:s:a100", bench_data)
    assert trace(problem, contender("greybox"), 3, 0)["feasible"] == 1.0
    told = trace(problem, contender("optuna-random"), 30, 0)
    assert 0.0 < told["feasible"] < 0.3
    assert told["hypervolume"][0] == 0.0


def test_peers_are_told_how_far_a_point_is_beyond(bench_data, monkeypatch):
    import optuna

    problem, seen = problem_named("hwgpt-limits:s:a100", bench_data), []
    monkeypatch.setattr(optuna.Trial, "set_constraint", lambda _, *told: seen.append(told))
    trace(problem, contender("optuna-random"), 2, 0)
    trace(problem, contender("greybox"), 2, 0)
    assert [name for name, _ in seen] == ["flops", "kv_cache_bytes"] * 2


def test_ours_with_a_part_taken_out_differs_in_that_part_alone(bench_data):
    problem = problem_named("hwgpt-limits:s:a100", bench_data)
    found = {}
    for name in ("greybox", "greybox-raw", "greybox-uniform", "greybox-blind"):
        found[name] = contender(name).make(problem, 0)._problem
    assert found["greybox"].features is None
    assert not found["greybox-uniform"].structured
    assert found["greybox-blind"].fits is None
    assert found["greybox-blind"].paper is not None
    drawn = random_draws(problem, 1)[0].configuration
    features = found["greybox-raw"].features(drawn, problem.paper(drawn))
    assert features.shape == (1 + 2 + 2 + 24,)  # method, width and depth, bias, every layer's
    for name, changed in (("raw", "features"), ("uniform", "structured"), ("blind", "fits")):
        told = found[f"greybox-{name}"]
        same = {"paper", "features", "structured", "fits"} - {changed}
        assert all(getattr(told, s) == getattr(found["greybox"], s) for s in same), name


def test_an_earlier_study_ran_on_another_device_and_may_mislead(bench_data):
    problem = problem_named("hwgpt:s:a100", bench_data)
    names = ("warm", "narrow", "turned", "shuffled")
    told = {n: contender(f"greybox-{n}").make(problem, 0)._problem.lessons[0] for n in names}
    right, narrow, turned, shuffled = told.values()
    assert {one.name for one in told.values()} == {"rtx2080"}
    assert len(right.configurations) == 60
    assert 30 < len(narrow.configurations) < 50
    assert np.corrcoef(right.figures["perplexity"], turned.figures["perplexity"])[0, 1] < -0.999
    assert np.array_equal(right.figures["latency_ms"], turned.figures["latency_ms"])
    here = np.array([problem.losses(one) for one in right.configurations])
    assert np.array_equal(right.figures["perplexity"], here[:, 0])
    assert not np.array_equal(right.figures["latency_ms"], here[:, 1])
    for name, values in right.figures.items():
        assert sorted(shuffled.figures[name]) == sorted(values)
        assert abs(np.corrcoef(values, shuffled.figures[name])[0, 1]) < 0.5
    with pytest.raises(BadRequest, match="measured elsewhere"):
        contender("greybox-warm").make(problem_named("mixed", None), 0)


def test_an_ablation_of_what_is_not_there_is_refused(bench_data):
    with pytest.raises(BadRequest, match="no papers here"):
        contender("greybox-raw").make(problem_named("mixed", None), 0)
    with pytest.raises(BadRequest, match="nothing is known on paper here"):
        contender("greybox-blind").make(problem_named("hwgpt:s:a100", bench_data), 0)


def test_a_peers_curve_is_made_once_and_ours_every_time(tmp_path, monkeypatch):
    made = []

    def counted(benchmark, searcher, evaluations, seed):
        made.append(seed)
        return {"seed": seed, "hypervolume": [0.5], "feasible": 1.0, "seconds_per_ask": 0.1}

    monkeypatch.setattr(search, "trace", counted)
    for name, expected in (("optuna-tpe", [0, 1]), ("greybox", [0, 1] * 2)):
        made.clear()
        first, second = (measured("zdt1", name, 1, 2, tmp_path, tmp_path) for _ in range(2))
        assert first == second
        assert made == expected
    made.clear()
    measured("zdt1", "optuna-tpe", 2, 2, tmp_path, tmp_path)
    monkeypatch.setattr(search, "version", lambda _: "other")
    measured("zdt1", "optuna-tpe", 2, 1, tmp_path, tmp_path)
    assert made == [0, 1, 0]


def test_a_damaged_curve_is_named(tmp_path):
    measured("zdt1", "optuna-random", 1, 1, tmp_path, tmp_path)
    (file,) = tmp_path.rglob("*.json")
    file.write_text("{")
    with pytest.raises(DataError, match=f"{file.name} is damaged; delete it"):
        measured("zdt1", "optuna-random", 1, 1, tmp_path, tmp_path)


def test_the_optimum_is_found_once_and_told_after(tmp_path):
    problem = problem_named("mixed", None)
    assert measured("mixed", "random", 1, 1, tmp_path, tmp_path)["optimum"] is None
    found = search_optimum("mixed", tmp_path, tmp_path, 300)["found"]
    assert len(found) == 2
    assert optimum_of("mixed", problem, tmp_path) == max(found)
    assert measured("mixed", "random", 1, 1, tmp_path, tmp_path)["optimum"] == max(found)
    closed = search_optimum("zdt1", tmp_path, tmp_path, 300)
    assert closed["found"] == [pytest.approx(0.94949, abs=1e-5)]
    assert closed["evaluations"] == 0


def test_the_json_has_one_list_a_seed_and_one_value_an_evaluation(tmp_path, capsys):
    given = ["--problem", "zdt1", "--sampler", "optuna-nsga3", "--evaluations", "12"]
    assert search.main([*given, "--seeds", "2", "--json", "--cache", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert np.array(told["hypervolume"]).shape == (2, 12)
    assert told["seed"] == [0, 1]
    assert len(told["seconds_per_ask"]) == len(told["feasible"]) == 2
    assert told["versions"].keys() == {"paretune", "optuna", "numpy", "scipy"}
    assert told["summary"]["evaluations"] == [5, 10, 12]
    assert told["summary"]["mean"][-1] == pytest.approx(np.mean(told["hypervolume"], 0)[-1])
    assert told["optimum"] == pytest.approx(0.94949, abs=1e-5)


def test_the_table_says_the_share_of_the_optimum(tmp_path, capsys):
    given = ["--problem", "zdt1", "--sampler", "random", "--evaluations", "5", "--seeds", "1"]
    assert search.main([*given, "--cache", str(tmp_path)]) == 0
    assert "% of the optimum" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--sampler", "optuna-tpa"], "did you mean 'optuna-tpe'"),
        (["--evaluations", "0"], "evaluations must be at least 1, not 0"),
        (["--seeds", "-1"], "seeds must be at least 1, not -1"),
        (["--problem", "hwgpt:s:a100"], "say where it lies with --data"),
        (["--sampler", "greybox-raw"], "there are no papers here"),
    ],
)
def test_bad_requests_say_what_is_allowed(given, words, tmp_path, capsys):
    folders = ["--data", str(tmp_path), "--cache", str(tmp_path)]
    assert search.main(["--problem", "zdt1", *given, *folders]) == 2
    assert words in capsys.readouterr().err


def test_a_peer_that_is_not_installed_says_what_to_install(tmp_path, monkeypatch):
    def version(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(search, "version", version)
    for name, package in ("botorch-qlognehvi", "botorch"), ("syne-tune-evolution", "syne-tune"):
        with pytest.raises(BadRequest, match=f"pip install {package}"):
            measured("zdt1", name, 1, 1, tmp_path, tmp_path)


def test_what_syne_tune_suggests_is_a_value_of_the_distribution():
    assert value_of(CategoricalDistribution((False, None, "a")), 2) == "a"
    assert [value_of(IntDistribution(2, 10, step=4), n) for n in (3, 9, 10)] == [2, 10, 10]
    assert value_of(FloatDistribution(0.0, 1.0), 0.25) == 0.25


def test_an_unknown_contender_lists_the_known_ones():
    with pytest.raises(UnknownName, match="botorch-qlognehvi"):
        contender("cmaes")
    assert {"greybox", "tpe", "optuna-tpe"} <= CONTENDERS.keys()


def test_one_seed_has_no_spread():
    assert summary({"hypervolume": [[0.1, 0.2]]})["deviation"] == [0.0]


def told(volumes, optimum=0.5):
    seeds = len(volumes)
    return {
        "hypervolume": volumes,
        "feasible": [1.0] * seeds,
        "seconds_per_ask": [0.25] * seeds,
        "optimum": optimum,
        "versions": {"optuna": "5"},
    }


def test_the_page_compares_at_equal_evaluations_and_says_when_ours_has_what_a_peer_has():
    ours = told([[0.01 * i for i in range(1, 51)]] * 2)
    peer = told([[0.002 * i for i in range(1, 201)], [0.002 * i + 0.01 for i in range(1, 201)]])
    text = page({"zdt1": {"greybox": ours, "optuna-tpe": peer}}, "the command")
    assert "| greybox (2) | 0.0500 ± 0.0000 |" in text
    row = next(line for line in text.splitlines() if line.startswith("| optuna-tpe | "))
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert cells[:2] == ["21", "41"]  # of .205 and .405
    assert cells[2] == "+0.0350 ± 0.0635"  # .04 and .03, Student's t of one degree
    assert cells[-1] == ""  # ours ends at 50
    assert "greybox 100.0% (50), optuna-tpe 81.0% (200)" in text


def test_the_page_is_written_by_the_command(tmp_path, capsys):
    given = ["--problems", "zdt1", "--samplers", "random", "optuna-random", "--seeds", "2"]
    given += ["--evaluations", "6", "--ours", "5", "--cache", str(tmp_path)]
    assert table_main([*given, "--to", str(tmp_path / "page.md")]) == 0
    text = (tmp_path / "page.md").read_text()
    assert "--samplers random optuna-random" in text
    assert "## zdt1" in text
    assert "the best known is 0.9495" in text
