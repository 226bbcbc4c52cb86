"""The quote of a search: what it would cost, before any of it runs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from paretune.errors import StudyError
from paretune.search.quote import matrix_rate, quote
from paretune.search.quote_words import in_words
from paretune.search.study import Study


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path_factory.getbasetemp() / "quote-cache"))


@pytest.fixture
def study(tiny_models: dict[str, Path], tmp_path: Path) -> dict[str, Any]:
    rng = random.Random(0)
    lines = ["text,label"]
    for i in range(160):
        noise = " ".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(6))
        lines.append(f"the film was {('good', 'bad')[i % 2]} {noise},{('pos', 'neg')[i % 2]}")
    (tmp_path / "films.csv").write_text("\n".join(lines))
    return {
        "model": str(tiny_models["bert"]),
        "task": {"name": str(tmp_path / "films.csv"), "max_length": 16},
        "workload": {"prompt_tokens": 16},
        "objectives": ["accuracy", "model_bytes"],
        "space": {
            "finetuning": {"methods": ["full", "head", "lora"]},
            "precision": {"methods": ["fp32", "int8"]},
        },
        "budget": {"trials": 20},
    }


def quoted(
    study: dict[str, Any], monkeypatch: pytest.MonkeyPatch, rate: float = 1e12
) -> dict[str, Any]:
    """The quote on a machine of so many FLOP/s, so that two quotes can be compared."""
    monkeypatch.setattr("paretune.search.quote.matrix_rate", lambda threads, device: rate)
    return quote(Study.from_dict(study))


def test_a_quote_has_a_range_for_what_cannot_be_known(
    study: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    figures = quoted(study, monkeypatch)
    assert figures["trials"] == 19, "and the baseline"
    for name in ("hours", "kwh", "disk_gb"):
        low, high = figures[name]
        assert 0 < low < high, name
    assert figures["source"].startswith("modelled")


def test_there_are_no_more_trainings_than_trials_or_than_the_budget_has(
    study: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    few = quoted({**study, "budget": {"trials": 4}}, monkeypatch)
    assert few["trainings"] <= 4
    fixed = quoted({**study, "budget": {"trials": 20, "trainings": 3}}, monkeypatch)
    assert fixed["trainings"] == 3


def test_rungs_save_training_where_trials_share_none(
    study: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    screened = {**study, "fidelity": {"rungs": [0.25, 1.0], "promote": 0.5}}
    whole, rungs = quoted(study, monkeypatch, 1e7), quoted(screened, monkeypatch, 1e7)
    assert whole["rungs"] == []
    assert rungs["rungs"] == [[0.25, 19], [1.0, 10]]
    assert rungs["hours_of"]["search"][0] < whole["hours_of"]["search"][0]
    assert rungs["hours_of"]["search"][1] >= whole["hours_of"]["search"][1], "each judged twice"
    assert in_words(rungs)["rungs"] == "19 at 25 %, then 10 at 100 %"
    assert "rungs" not in in_words(whole)


def test_one_trial_is_the_baseline_and_one_training(
    study: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    assert quoted({**study, "budget": {"trials": 1}}, monkeypatch)["trainings"] == 1


def test_minutes_cap_the_hours(study: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    figures = quoted({**study, "budget": {"trials": 20, "minutes": 0.06}}, monkeypatch)
    assert figures["hours_of"]["search"] == [0.001, 0.001]


def test_twice_the_workers_take_half_the_hours(
    study: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    one = quoted(study, monkeypatch)["hours"]
    two = quoted({**study, "engine": {"workers": 2}}, monkeypatch)["hours"]
    assert two == pytest.approx([hours / 2 for hours in one], rel=0.05)


def test_a_quote_in_kwh_is_of_the_whole_site(
    study: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    machine = quoted({**study, "settings": {"pue": 1.0}}, monkeypatch)["kwh"]
    site = quoted({**study, "settings": {"pue": 2.0}}, monkeypatch)["kwh"]
    assert site == pytest.approx([2 * kwh for kwh in machine], rel=0.05)


def test_what_trains_nothing_makes_a_training_no_cheaper(
    study: dict[str, Any], tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    writes = {"model": str(tiny_models["gpt2"]), "objectives": ["perplexity", "model_bytes"]}
    task = {**study["task"], "kind": "language-modelling"}
    monkeypatch.setattr("paretune.search.quote.matrix_rate", lambda threads, device: 1e6)
    monkeypatch.setattr("paretune.search.quote.JUDGING_SECONDS", (0.0, 0.0))
    hours = []
    for methods in (["full"], ["none", "full"]):
        space = {
            "finetuning": {"methods": methods, "full": {"learning_rate": {"values": [1e-4, 2e-4]}}},
            "structure": {"methods": ["ffn"], "ffn": {"when": "after"}},
        }
        made = {**study, **writes, "task": task, "space": space}
        hours.append(quote(Study.from_dict(made))["hours_of"]["search"])
    assert hours[1] == pytest.approx(hours[0], rel=0.05)


def test_a_larger_budget_costs_more(study: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    small = quoted(study, monkeypatch)
    large = quoted({**study, "budget": {"trials": 200}}, monkeypatch)
    for name in ("hours", "kwh", "disk_gb"):
        assert large[name][1] > small[name][1]


def test_what_the_search_would_refuse_has_no_quote(
    study: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(StudyError, match="perplexity cannot be searched for"):
        quoted({**study, "objectives": ["perplexity"]}, monkeypatch)


def test_the_rate_is_that_of_one_worker_with_its_own_threads(monkeypatch: pytest.MonkeyPatch):
    assert matrix_rate(1, seconds=0.01) > 0
    tell = "import os; print(os.environ['OPENBLAS_NUM_THREADS'])"
    monkeypatch.setattr("paretune.search.quote.PRODUCTS", tell)
    assert matrix_rate(3) == 3.0


def test_confirming_comes_on_top(study: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    plain = {**study, "space": {"finetuning": {"methods": ["full"]}}}
    one = quoted({**plain, "confirm": {"seeds": 0, "points": 3}}, monkeypatch)
    assert one["confirmation"] == {
        "points": 3,
        "seeds": 0,
        "near_ties": 0,
        "trainings": [0, 0],
    }
    more = quoted({**plain, "confirm": {"seeds": 2, "points": 12}}, monkeypatch)
    assert more["confirmation"]["trainings"] == [2, 2]
    for figures in (one, more):
        low, high = (sum(ends) for ends in zip(*figures["hours_of"].values(), strict=True))
        assert figures["hours"] == pytest.approx([low, high], rel=0.1)
    assert more["hours_of"]["search"] == one["hours_of"]["search"]
    assert more["hours_of"]["confirmation"][1] > one["hours_of"]["confirmation"][1] > 0
    tied = quoted({**plain, "confirm": {"seeds": 2, "points": 12, "near_ties": 3}}, monkeypatch)
    assert tied["confirmation"]["trainings"] == [2, 5]
    assert tied["hours_of"]["confirmation"][1] > more["hours_of"]["confirmation"][1]
    assert "up to 3 repeats of near-ties" in dict(in_words(tied))["confirmation"]
    alone = quoted({**plain, "budget": {"trials": 1}}, monkeypatch)
    assert alone["hours_of"]["confirmation"] == [0.0, 0.0], "there is no front"


def test_one_super_network_is_one_training(study: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    space = {"architecture": {"methods": ["subnet"]}, "precision": {"methods": ["fp32", "int8"]}}
    taught = {"methods": ["none", "distil"], "distil": {"teacher": "baseline"}}
    for more in ({}, {"recovery": taught}):
        figures = quoted({**study, "space": {**space, **more}}, monkeypatch)
        assert figures["trainings_of"] == {"baseline": 1, "architecture": 1}


def test_trainings_are_told_by_what_asks_for_them(
    study: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    space = {"architecture": {"methods": ["subnet"]}, "finetuning": {"methods": ["none", "full"]}}
    made = {**study, "space": space, "budget": {"trials": 20, "trainings": 5}}
    figures = quoted(made, monkeypatch)
    assert figures["trainings_of"] == {"baseline": 1, "architecture": 1, "finetuning": 3}
    assert in_words(figures)["trainings"] == (
        "5 (1 of the baseline, 1 of super-networks, 3 of fine-tuning)"
    )


def test_a_quote_is_said_in_words(study: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    words = in_words(quoted(study, monkeypatch))
    assert words["trials"] == "19 trials and the baseline"
    assert words["confirmation"].startswith("up to 12 points and the baseline on the test split, ")
    assert "under 1 further seed (" in words["confirmation"]
    assert words["wall time"].endswith((" s", " min", " h"))
    assert words["energy"].endswith("Wh")
    assert words["disk"].endswith("B")
    assert "search " in words["of which"]
    assert not {"hours", "kwh", "disk_gb", "trainings_of", "adjusted"} & set(words)


def test_ranges_are_said_in_words():
    words = in_words({"trials": 3, "hours": [0.25, 1.5], "kwh": None})
    assert words == {
        "trials": "3 trials and the baseline",
        "wall time": "15.0 min to 1.50 h",
        "energy": "not known",
    }
