"""Looking at candidates on paper: what walks share, what is remembered, how fast it is reported."""

from __future__ import annotations

import copy
import json
import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from paretune.benchmarks.paper import (
    Given,
    Run,
    by_reason,
    main,
    profile_named,
    runs,
    summary,
    table,
)
from paretune.search.samplers.pool import draw, uniform
from paretune.spaces.configuration import SLOTS, Choice, Configuration, digest
from paretune.spaces.lower import Subject, lower, walk
from paretune.spaces.profile import Layer, forward_flops, operators, parameters
from paretune.spaces.recent import Recent
from paretune.spaces.recipe import Recipe
from paretune.spaces.space import Space

MINILM = profile_named("minilm")


def subject() -> Subject:
    recipe = Recipe(trainable=("*",), train_items=1200, epochs=2)
    digests = dict.fromkeys(("model", "train", "calibration"), "0")
    return Subject(Given(), MINILM, recipe, digests, rungs=(0.25, 1.0))


def drawn(count: int) -> list[Configuration]:
    space = Space.of({slot: {} for slot in SLOTS}, subject().paper)
    choose = uniform(np.random.default_rng(0))
    return [c for _ in range(count) if (c := draw(space.suggest, choose).configuration)]


def tuned(**recovery: float) -> Configuration:
    lora = {"rank": 8, "alpha_ratio": 2.0, "targets": "attention", "learning_rate": 1e-3}
    told = {"share": 0.5, "learning_rate": 1e-4, **recovery}
    return Configuration.of(
        finetuning=Choice.of("lora", merge="merge", **lora),
        recovery=Choice.of("finetune", **told),
    )


def test_walks_that_begin_alike_share_their_moves():
    about = subject()
    one, other = walk(tuned(), about).moves, walk(tuned(share=0.25), about).moves
    same = [a is b for a, b in zip(one, other, strict=True)]
    assert [move.slot for move, is_same in zip(one, same, strict=True) if not is_same] == [
        "recovery",
        "recovery",
        "runtime",
    ]


def test_what_is_remembered_of_others_changes_no_key_and_no_paper():
    about, legal = subject(), 0
    for configuration in drawn(60):
        path, alone = walk(configuration, about), walk(configuration, subject())
        assert path.objections == alone.objections
        if path.objections:
            continue
        legal += 1
        assert path.paper == alone.paper
        assert lower(configuration, about).keys == lower(configuration, subject()).keys
    assert legal > 5


def test_equal_numbers_of_other_types_do_not_share_a_key():
    about, lora = subject(), tuned().get("finetuning")
    assert lora is not None
    other = Choice.of("lora", **{**dict(lora.settings), "rank": 8.0})
    whole, real = Configuration.of(finetuning=lora), Configuration.of(finetuning=other)
    assert whole == real
    assert whole.digest != real.digest
    assert lower(whole, about).last.key != lower(real, about).last.key


def test_a_configuration_is_named_as_its_json_is():
    for configuration in drawn(20):
        assert configuration.digest == digest(configuration.to_json())


def test_sums_of_sections_are_those_of_all_weights_and_products():
    found = 0
    for configuration in drawn(60):
        path = walk(configuration, subject())
        if path.objections:
            continue
        found += 1
        profile = path.paper.profile
        assert parameters(profile) == sum(weight.count for weight in profile.weights())
        assert forward_flops(profile, 2, 7) == sum(op.flops for op in operators(profile, 2, 7))
    assert found > 5


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_a_profile_that_was_looked_at_can_be_copied_and_sent(copied):
    parameters(MINILM)
    again = copied(MINILM)
    assert again == MINILM
    assert parameters(again) == parameters(MINILM)


def test_equal_layers_have_equal_hashes():
    layer = MINILM.layers[0]
    assert hash(layer) == hash(Layer(layer.attention, layer.feed_forward))
    assert layer != replace(layer, feed_forward=None)


def test_a_memory_holds_no_more_than_its_size():
    memory = Recent[int](3)
    for number in range(10):
        assert memory.get(number, lambda: 1) == 1
    assert [number for number in range(10) if number in memory] == [7, 8, 9]


def test_refusals_are_counted_by_reason_without_numbers():
    found = by_reason({"a.b: 3 of 4; choose 2": 2, "a.b: 1 of 9; choose 5": 1, "a.c: int8 no": 1})
    assert found == {"a.b: # of #": 3, "a.c: int# no": 1}


def test_the_best_run_is_the_figure_and_all_runs_are_told():
    told = summary([Run(10, 4, 2.0, 1.0, Counter(x=6)), Run(10, 5, 1.0, 2.0, Counter(x=1, y=4))])
    assert (told["a_cpu_second"], told["a_second"]) == (10.0, 10.0)
    assert [run["a_cpu_second"] for run in told["runs"]] == [10.0, 5.0]
    assert told["refusals"] == {"x": 7, "y": 4}
    assert "45% of 20 legal" in table(told)


def test_every_draw_is_legal_or_refused_for_a_reason():
    (run,) = runs(MINILM, 40)
    assert run.candidates == 40 == run.legal + run.refusals.total()
    assert run.cpu_seconds > 0


def test_the_benchmark_reports_refusals_as_json(capsys):
    assert main(["--count", "20", "--repeats", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["legal"] + sum(told["refusals"].values()) == told["candidates"] == 20
