"""Which choices help or fight each other: planted effects are found, and nothing else is."""

from __future__ import annotations

import csv
import io
import itertools
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from paretune.errors import BadRequest, UnknownName
from paretune.evaluators.measurement import Measurement, missing
from paretune.evaluators.metric import Predictions
from paretune.evaluators.quality.predictions import save_predictions
from paretune.reports.interactions import (
    effect_rows,
    effects_table,
    interaction_rows,
    interactions_csv,
    interactions_in_words,
    interactions_json,
    interactions_table,
)
from paretune.reports.matched import Matched
from paretune.reports.words import MINUS, TIMES
from paretune.search.records import Failure, Record, Rung
from paretune.search.run import Run
from paretune.spaces.configuration import Choice, Configuration
from report_cases import header

FULL = Choice.of("full", learning_rate=5e-5)
CHOICES: Mapping[str, tuple[Choice | None, ...]] = {
    "finetuning": (FULL, Choice.of("lora", rank=8), Choice.of("lora", rank=16)),
    "structure": (None, Choice.of("ffn", keep=0.5), Choice.of("ffn", keep=0.75)),
    "precision": (None, Choice.of("int8"), Choice.of("int4")),
    "runtime": (None, Choice.of("onnxruntime")),
}
SMALL = {slot: tuple(CHOICES[slot][:2]) for slot in CHOICES}
Figures = Callable[[Configuration], Mapping[str, Measurement]]

LOSS = {"lora": 0.01, "ffn": 0.04, "int8": 0.005, "int4": 0.05, "onnxruntime": 0.0}
RATIO = {"lora": 1.0, "ffn": 0.7, "int8": 0.3, "int4": 0.2, "onnxruntime": 1.1}
FIGHT = ("ffn", "int4")
BOTH = {"ffn", "int8"}


def parts(configuration: Configuration) -> list[str]:
    return [choice.method for slot, choice in configuration if choice != FULL]


def accuracy(value: float, stderr: float | None = None) -> dict[str, Measurement]:
    return {"accuracy": Measurement(value, "fraction", "measured", stderr, 400, "items")}


def planted(configuration: Configuration, extra: float = 0.0) -> dict[str, Measurement]:
    """Losses that add up and ratios that multiply, but for one pair in quality."""
    methods = parts(configuration)
    value = 0.8 - sum(LOSS[m] for m in methods) - extra * set(FIGHT).issubset(methods)
    size = 90e6 * float(np.prod([RATIO[m] for m in methods]))
    return {
        **accuracy(value),
        "model_bytes": Measurement(size, "byte", "exact"),
        "energy": Measurement(size * 1e-9, "joule", "modelled", size * 1e-11, 20, "repeats"),
    }


def made(
    figures: Figures,
    choices: Mapping[str, tuple[Choice | None, ...]] = CHOICES,
    folder: Path = Path("nowhere"),
) -> Run:
    """A run that tried every combination, the one that changes nothing first."""
    records = []
    for number, row in enumerate(itertools.product(*choices.values())):
        told = {slot: c for slot, c in zip(choices, row, strict=True) if c is not None}
        configuration = Configuration.of(**told)
        rung = Rung(0, figures(configuration), 1.0)
        purpose = "search" if number else "baseline"
        records.append(Record(number, configuration, "final", purpose=purpose, rungs=(rung,)))
    about = header()
    return Run(
        folder, about.name, about.study, about.objectives, about.metrics, (),
        records=tuple(records[1:]), baseline=records[0], confirmations={}, reference=None,
        environment={}, bill={}, refused={},
    )  # fmt: skip


def changed(run: Run, holds: Callable[[Configuration], bool], **changes: object) -> Run:
    """The run with some of its trials changed."""
    return replace(
        run,
        records=tuple(
            replace(r, **changes) if holds(r.configuration) else r  # type: ignore[arg-type]
            for r in run.records
        ),
    )


def pair(rows: list[dict[str, Any]], a: str, b: str) -> dict[str, Any]:
    """The row of two choices."""
    (row,) = [row for row in rows if (row["a"], row["b"]) == (a, b)]
    return row


HALF, INT4 = "structure.ffn keep 0.5", "precision.int4"


def pairs_of(run: Run, metric: str) -> list[dict[str, Any]]:
    return interaction_rows(Matched(run, metric))


def effects_of(run: Run, metric: str) -> list[dict[str, Any]]:
    return effect_rows(Matched(run, metric))


@pytest.fixture(scope="module")
def run() -> Run:
    return made(lambda c: planted(c, extra=0.03))


@pytest.mark.parametrize("metric", ["accuracy", "model_bytes", "energy"])
def test_effects_that_add_up_have_no_interaction(metric: str):
    rows = pairs_of(made(planted), metric)
    nothing = 0.0 if metric == "accuracy" else 1.0
    assert len(rows) == 2 * 2 + 2 * 2 + 2 + 2 * 2 + 2 + 2
    assert {row["interaction"] for row in rows} == {nothing}
    assert {row["verdict"] for row in rows} == {None}
    for row in rows:
        assert row["together"] == pytest.approx(row["singles"])


def test_a_planted_interaction_is_found_with_its_value_and_no_other(run: Run):
    rows = pairs_of(run, "accuracy")
    found = pair(rows, HALF, INT4)
    assert found["interaction"] == pytest.approx(-0.03)
    assert found["together"] == pytest.approx(-0.12)
    assert found["singles"] == pytest.approx(-0.09)
    assert (found["contexts"], found["incomplete"]) == (3 * 2, 0)
    marked = {(row["a"], row["b"]): row["verdict"] for row in rows if row["verdict"]}
    assert marked == {(f"structure.ffn keep {k}", INT4): "fight" for k in (0.5, 0.75)}
    assert rows[0]["verdict"] == rows[1]["verdict"] == "fight"


def test_a_ratio_beyond_the_product_of_both_is_told_as_a_factor():
    def figures(c: Configuration) -> dict[str, Measurement]:
        told = planted(c)
        size = told["model_bytes"].value or 0.0
        both = {"int8", "onnxruntime"} <= set(parts(c))
        return {**told, "model_bytes": Measurement(size * (0.5 if both else 1), "byte", "exact")}

    found = pair(pairs_of(made(figures), "model_bytes"), "precision.int8", "runtime.onnxruntime")
    assert found["interaction"] == pytest.approx(0.5)
    assert found["singles"] == pytest.approx(0.33)
    assert found["together"] == pytest.approx(0.165)
    assert found["verdict"] == "help", "fewer bytes are better"


def test_what_a_choice_does_alone_is_its_mean_against_its_slot_left_alone(run: Run):
    rows = {row["choice"]: row for row in effects_of(run, "accuracy")}
    # in six of the eighteen contexts int4 stands beside a cut, in twelve: two of three structures
    assert rows[INT4]["effect"] == pytest.approx(-0.05 - 0.03 * 2 / 3)
    assert rows[INT4]["contexts"] == 3 * 3 * 2
    assert (rows[INT4]["verdict"], rows["runtime.onnxruntime"]["verdict"]) == ("worse", None)
    assert rows["finetuning.lora rank 8"]["effect"] == pytest.approx(-0.01)
    sizes = {row["choice"]: row for row in effects_of(run, "model_bytes")}
    assert sizes[INT4]["effect"] == pytest.approx(0.2)
    assert sizes[INT4]["verdict"] == "better"


def test_a_slot_left_alone_holds_what_the_baseline_holds(run: Run):
    names = {row["choice"] for row in effects_of(run, "accuracy")}
    assert not [name for name in names if name.startswith("finetuning.full")]
    assert interactions_json(run, "accuracy")["left alone"]["finetuning"]["method"] == "full"
    alone = replace(run, baseline=None, records=(run.baseline, *run.records))
    names = {row["choice"] for row in effects_of(alone, "accuracy")}
    assert not [name for name in names if name.startswith("finetuning")], "none was left as it is"


@pytest.mark.parametrize("truth", [0.0, -0.02])
def test_intervals_hold_the_truth_in_95_of_100_draws(truth: float):
    rng, held = np.random.default_rng(0), 0
    matched = Matched(made(planted, SMALL), "accuracy")
    (match,) = [m for m in matched.matches(2) if {c.method for _, c in m.parts if c} == BOTH]

    def drawn(record: Record) -> Record:
        value = 0.5 + truth * (set(parts(record.configuration)) >= BOTH) + rng.normal(0, 0.01)
        return replace(record, rungs=(Rung(0, accuracy(value), 1.0),))

    for _ in range(200):
        contexts = [[drawn(record) for record in records] for records in match.contexts]
        found = matched.estimate(contexts, matched.signs(2))
        held += found.low <= truth <= found.high
    # 190 are expected, 3.1 the standard deviation
    assert 181 <= held <= 198


def test_among_many_pairs_few_are_marked_by_chance():
    rng, marked = np.random.default_rng(1), 0
    for _ in range(20):
        rows = pairs_of(made(lambda c: accuracy(0.5 + rng.normal(0, 0.01)), CHOICES), "accuracy")
        assert all(row["p_adjusted"] >= row["p"] for row in rows)
        marked += any(row["verdict"] for row in rows)
    assert marked <= 4


def test_what_was_not_tried_matches_nothing(run: Run):
    fewer = replace(run, records=tuple(r for r in run.records if "onnxruntime" not in parts(
        r.configuration)))  # fmt: skip
    assert pair(pairs_of(fewer, "accuracy"), HALF, INT4)["contexts"] == 3
    single = Configuration.of(finetuning=FULL, precision=Choice.of("int4"))
    without = replace(run, records=tuple(r for r in run.records if r.configuration != single))
    found = pair(pairs_of(without, "accuracy"), HALF, INT4)
    assert (found["contexts"], found["incomplete"]) == (5, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"state": "failed", "rungs": (), "failure": Failure("timeout", "too slow")},
        {"state": "paused"},
        {"rungs": (Rung(0, {"accuracy": missing("fraction", "no answers")}, 1.0),)},
        {"rungs": (Rung(0, {}, 1.0),)},
        {"rungs": (Rung(0, {"accuracy": Measurement(0.7, "fraction", "modelled")}, 1.0),)},
    ],
    ids=["failed", "paused", "absent", "not asked", "modelled"],
)
def test_a_context_without_all_figures_is_counted_and_left_out(run: Run, change: dict):
    lost = Configuration.of(
        finetuning=FULL, structure=Choice.of("ffn", keep=0.5), precision=Choice.of("int4")
    )
    found = pair(pairs_of(changed(run, lost.__eq__, **change), "accuracy"), HALF, INT4)
    assert (found["contexts"], found["incomplete"]) == (5, 1)
    assert found["interaction"] == pytest.approx(-0.03)


def test_where_ratios_are_taken_a_figure_of_0_is_no_figure(run: Run):
    def figures(c: Configuration) -> dict[str, Measurement]:
        none = not {"int8", "int4"} & set(parts(c))
        return {"energy": Measurement(0.0 if none else 1.0, "joule", "exact")}

    found = pairs_of(made(figures), "energy")
    row = pair(found, HALF, "runtime.onnxruntime")
    assert (row["contexts"], row["incomplete"]) == (3 * 2, 3)
    assert not [row for row in found if "precision" in (row["slot_a"], row["slot_b"])]


def test_one_context_has_the_error_of_its_own_figures():
    pairs = {slot: SMALL[slot] for slot in ("structure", "precision")}
    (row,) = pairs_of(made(lambda c: accuracy(0.8, 0.02), pairs), "accuracy")
    assert row["contexts"] == 1
    assert row["high"] == pytest.approx(1.96 * 0.04, rel=1e-3), "four independent figures"
    (row,) = pairs_of(made(lambda c: accuracy(0.8), pairs), "accuracy")
    assert (row["low"], row["p"], row["p_adjusted"], row["verdict"]) == (None, None, None, None)
    (row,) = pairs_of(made(planted, pairs), "model_bytes")
    assert (row["low"], row["interaction"], row["high"], row["p"]) == (1.0, 1.0, 1.0, 1.0)


def test_siblings_that_share_a_timing_session_are_one_context():
    def timed(told: str) -> dict[str, Measurement]:
        """One reading, the same for whoever shares the session."""
        noise = np.random.default_rng([ord(letter) for letter in told]).normal(0, 1e-5)
        value = 0.01 * (0.7 if "ffn" in told else 1.0) + noise
        return {"latency_p50": Measurement(value, "second", "measured", 1e-5, 50, "repeats")}

    apart = effects_of(made(lambda c: timed(f"{c}"), SMALL), "latency_p50")
    together = effects_of(
        made(lambda c: timed("".join(m for m in parts(c) if m != "lora")), SMALL), "latency_p50"
    )
    rows = [{row["choice"]: row for row in told} for told in (apart, together)]
    assert [row["structure.ffn"]["contexts"] for row in rows] == [8, 4]
    assert {row["structure.ffn"]["verdict"] for row in rows} == {"better"}
    lora = rows[1]["finetuning.lora"]
    assert (lora["effect"], lora["p"], lora["verdict"]) == (1.0, 1.0, None)


def answering(run: Run, folder: Path, right: Callable[[Configuration], np.ndarray]) -> Run:
    """The run with answers stored, and the accuracies that follow from them."""
    labels = np.zeros(400, int)

    def told(record: Record) -> Record:
        hits = right(record.configuration)
        logits = np.stack([hits, ~hits], 1).astype(float)
        name = save_predictions(folder / "samples", Predictions(np.arange(400), labels, logits))
        rung = Rung(0, accuracy(float(hits.mean()), 0.02), 1.0)
        return replace(record, rungs=(rung,), files={"predictions": name})

    records = tuple(told(r) for r in run.records)
    return replace(run, folder=folder, baseline=told(run.baseline), records=records)


def test_stored_answers_pair_the_four_by_item(tmp_path: Path):
    base = np.random.default_rng(0).random(400) < 0.8
    items = np.arange(400)

    def right(c: Configuration) -> np.ndarray:
        methods = parts(c)
        lost = (items % 20 == 0) & ("ffn" in methods) | (items % 25 == 1) & ("int8" in methods)
        both = (items % 10 == 2) & (set(methods) >= BOTH)
        return base & ~lost & ~both

    pairs = {slot: SMALL[slot] for slot in ("structure", "precision")}
    (found,) = pairs_of(answering(made(planted, pairs), tmp_path, right), "accuracy")
    assert found["interaction"] == pytest.approx(-(base & (items % 10 == 2)).mean())
    assert found["high"] - found["low"] < 0.5 * 4 * 1.96 * 0.02, "hard items are common to all"
    assert found["verdict"] == "fight"


def test_contexts_that_agree_on_few_items_prove_little(tmp_path: Path):
    """The same two of 400 items turn in every context: over contexts alone that looks certain."""
    base = np.random.default_rng(0).random(400) < 0.8
    turned = np.isin(np.arange(400), np.flatnonzero(base)[:2])

    def right(c: Configuration) -> np.ndarray:
        return base & ~(turned & (set(parts(c)) >= BOTH))

    found = pair(
        pairs_of(answering(made(planted, SMALL), tmp_path, right), "accuracy"),
        "structure.ffn", "precision.int8",
    )  # fmt: skip
    assert found["contexts"] == 4
    assert found["interaction"] == pytest.approx(-2 / 400)
    assert found["low"] < 0 < found["high"]
    assert found["verdict"] is None


def test_answers_to_other_items_are_refused(tmp_path: Path):
    seen = answering(made(planted, SMALL), tmp_path, lambda c: np.arange(400) % 3 > 0)
    other = Predictions(np.arange(300), np.zeros(300, int), np.zeros((300, 2)))
    name = save_predictions(tmp_path / "samples", other)
    broken = replace(seen, records=(replace(seen.records[0], files={"predictions": name}),
                                    *seen.records[1:]))  # fmt: skip
    with pytest.raises(BadRequest, match="different items"):
        pairs_of(broken, "accuracy")


def test_a_configuration_that_was_tried_twice_counts_once(run: Run):
    again = replace(run.baseline, number=99, purpose="search", rungs=())
    assert pairs_of(replace(run, records=(*run.records, again)), "accuracy") == pairs_of(
        run, "accuracy"
    )
    failed = replace(again, number=0, purpose="baseline", state="failed")
    told = replace(run, baseline=failed, records=(replace(run.baseline, number=99), *run.records))
    assert all(row["incomplete"] == 0 for row in effects_of(told, "accuracy"))


def test_an_unknown_metric_is_refused_with_the_nearest(run: Run):
    with pytest.raises(UnknownName, match="did you mean 'model_bytes'"):
        pairs_of(run, "model_byte")


def test_frames_hold_every_stored_metric(run: Run):
    pairs, singles = interactions_table(run), effects_table(run, ["accuracy"])
    assert set(pairs["metric"]) == {"accuracy", "model_bytes", "energy"}
    assert dict(pairs.groupby("metric")["scale"].first()) == {
        "accuracy": "difference", "model_bytes": "ratio", "energy": "ratio",
    }  # fmt: skip
    assert set(singles["verdict"].dropna()) == {"worse"}
    assert (pairs["low"] <= pairs["high"]).all()


def test_json_csv_and_words_agree(run: Run):
    data = json.loads(json.dumps(interactions_json(run, "accuracy"), allow_nan=False))
    rows = list(csv.DictReader(io.StringIO(interactions_csv(run, "accuracy"))))
    assert [float(row["interaction"]) for row in rows] == pytest.approx(
        [row["interaction"] for row in data["together"]]
    )
    said = interactions_in_words(run, "accuracy")
    (heading,) = [name for name in said if "two choices together" in name]
    assert "more do together exactly what they do alone" in heading
    first = said[heading][0]
    assert first["pair"] in {f"structure.ffn keep {k} {TIMES} {INT4}" for k in (0.5, 0.75)}
    assert first["interaction"] == f"{MINUS}3.0"
    assert (first["contexts"], first["mark"]) == ("6", "fight")


def test_a_run_without_matched_contexts_says_what_to_run(run: Run):
    diagonal = replace(run, records=run.records[-1:])
    told = interactions_json(diagonal, "accuracy")
    assert told["together"] == told["alone"] == []
    assert "paretune.benchmarks.joint record" in told["note"]
    assert "paretune.benchmarks.joint record" in interactions_in_words(diagonal, "accuracy")["note"]
    assert interactions_csv(diagonal, "accuracy").count("\n") == 1
    assert interactions_table(diagonal).empty
