"""The catalogue, and every row that is a function of paper, files or stages."""

from dataclasses import replace

import pytest
from paretune.errors import BadRequest, UnknownName
from paretune.evaluators import catalogue
from paretune.evaluators.catalogue import followed, metric, metrics
from paretune.evaluators.metric import (
    Evidence,
    Peak,
    Power,
    StageCost,
    Timings,
)
from paretune.search.limits import unit_registry
from paretune.spaces.paper import Paper, Plan, Workload
from paretune.spaces.profile import Attention, FeedForward, Head, Layer, Profile
from paretune.spaces.recipe import Recipe

LAYER = Layer(Attention(12, 12, 64), FeedForward(3072))
BERT_BASE = Profile("bert", 768, 30522, 512, 2, (LAYER,) * 12, Head("classification", 2))
RECIPE = Recipe(trainable=("*",), train_items=100, epochs=2, batch=10)
STAGES = (
    StageCost("a", "load", 3.0, False, False),
    StageCost("b", "full.train", 1800.0, True, True),
    StageCost("c", "distil.train", 1800.0, True, False),
)
PIECES = {
    "files": {"model.onnx": 1000, "config.json": 24},
    "timings": Timings((0.01,) * 30, 3, "AMD EPYC"),
    "power": Power(0.6, "modelled", "utilisation model", stderr=0.06, n=5, idle_watts=0.7),
    "peak": Peak(5_000_000, 1_000_000),
    "stages": STAGES,
}
BARE = Evidence(Paper(BERT_BASE, RECIPE), Workload(batch=2, prompt_tokens=128))
FULL = replace(BARE, **PIECES)


def value(name: str, evidence: Evidence = FULL) -> float | None:
    return metric(name).evaluate(evidence).value


@pytest.mark.parametrize("name", metrics())
def test_a_row_says_all_that_a_reader_needs(name):
    row = metrics()[name]
    assert row.name == name
    assert row.definition.endswith(".")
    assert row.source
    assert row.unit


@pytest.mark.parametrize("name", metrics())
def test_without_evidence_a_figure_is_missing_with_a_reason_in_its_unit(name):
    row = metrics()[name]
    figure = row.evaluate(BARE)
    if row.needs == "paper" and name != "payload_bytes":
        assert figure.source == "exact"
    else:
        assert figure.value is None
        assert figure.reason
    assert figure.unit == row.unit


@pytest.mark.parametrize("name", metrics())
def test_a_figure_has_the_unit_of_its_row_and_survives_json(name):
    from paretune.evaluators.measurement import Measurement

    figure = metrics()[name].evaluate(FULL)
    assert figure.unit == metrics()[name].unit
    assert Measurement.from_json(figure.to_json()) == figure


@pytest.mark.parametrize("unit", sorted({row.unit for row in metrics().values()}))
def test_units_are_words_that_pint_reads(unit):
    assert unit_registry().Quantity(1.0, unit).magnitude == 1.0


class Entry:
    value = "somebody.metrics:row"

    def __init__(self, row):
        self.row = row

    def load(self):
        return self.row


def test_entry_points_add_rows_but_take_no_name(monkeypatch):
    mine = replace(metric("flops"), name="mine")

    def offer(row):
        monkeypatch.setattr(catalogue, "entry_points", lambda group: [Entry(row)])

    offer(mine)
    assert metrics.__wrapped__()["mine"] is mine
    offer(metric("flops"))
    with pytest.raises(BadRequest, match="'flops', which exists"):
        metrics.__wrapped__()
    offer("no metric")
    with pytest.raises(BadRequest, match="is no Metric"):
        metrics.__wrapped__()


def test_an_unknown_metric_names_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'accuracy'"):
        metric("acuracy")


def test_bert_base_has_its_published_size():
    # 109,483,778: 110 M of the paper (1810.04805) with a pooler and two classes
    assert value("parameters") == 109_483_778


def test_flops_of_bert_base_are_the_closed_form():
    h, f, s, layers = 768, 3072, 128, 12
    encoder = layers * (2 * s * (4 * h * h + 2 * h * f) + 4 * s * s * h)
    assert value("flops") == 2 * (encoder + 2 * h * h + 2 * h * 2)
    assert value("flops_per_token") == value("flops") / (2 * 128)


def test_training_everything_costs_three_forward_passes_an_item():
    one = replace(BARE, workload=Workload(batch=1, prompt_tokens=128))
    # the first layer's inputs are looked up by trained tables, so that nothing is left out
    assert value("training_flops", BARE) == 3 * value("flops", one) * 200


def test_a_training_of_nothing_costs_nothing():
    idle = replace(BARE, paper=Paper(BERT_BASE))
    for name in ("training_flops", "trainable_parameters", "training_payload_bytes"):
        assert value(name, idle) == 0


def test_training_is_billed_by_the_papers_that_trained():
    head = Recipe(trainable=("classifier.*",), train_items=100, epochs=1)
    told = replace(BARE, training_papers=(Paper(BERT_BASE, head),))
    assert value("trainable_parameters", told) == 768 * 2 + 2
    assert value("training_payload_bytes", told) == 4 * (768 * 2 + 2)
    assert value("training_flops", told) < value("training_flops", BARE) / 5
    assert value("training_flops", replace(BARE, training_papers=())) == 0
    taught = replace(BARE, training_papers=(), teacher_papers=(BARE.paper, BARE.paper))
    assert value("training_flops", taught) == 2 * value("training_flops", BARE)


def test_items_of_training_may_be_longer_than_the_workloads():
    longer = replace(BARE, settings={"item_tokens": 256})
    assert value("training_flops", longer) > 2 * value("training_flops", BARE)


def test_a_teachers_forward_pass_is_said_to_be_left_out():
    taught = replace(BARE, paper=Paper(BERT_BASE, replace(RECIPE, teacher="ab12")))
    assert dict(metric("training_flops").evaluate(taught).conditions)["teacher_forward"]


def test_writing_attends_to_a_cache_that_grows():
    layer = Layer(Attention(4, 2, 8), FeedForward(64, gated=True))
    head = Head("language-modelling", 50, tied=True)
    llama = Profile("llama", 32, 50, 0, 0, (layer,) * 3, head)
    matrices = 3 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    prompt = 2 * 10 * matrices + 3 * 4 * 10 * 10 * 32 + 2 * 32 * 50
    step = 2 * matrices + 2 * 32 * 50
    steps = 2 * step + 3 * 4 * 32 * (11 + 12)
    evidence = Evidence(Paper(llama), Workload(prompt_tokens=10, output_tokens=3))
    assert value("flops", evidence) == prompt + steps


def test_without_a_cache_every_token_reads_the_whole_text():
    layer = Layer(Attention(4, 4, 8), FeedForward(64))
    profile = Profile("gpt2", 32, 50, 16, 0, (layer,) * 3, Head("language-modelling", 50))
    onnx = Evidence(Paper(profile, runtime="onnxruntime"), Workload(prompt_tokens=10))
    writing = replace(onnx, workload=Workload(prompt_tokens=10, output_tokens=3))
    read = [replace(onnx, workload=Workload(prompt_tokens=length)) for length in (10, 11, 12)]
    assert value("flops", writing) == sum(value("flops", evidence) for evidence in read)
    cached = replace(writing, paper=Paper(profile, runtime="eager"))
    assert value("flops", cached) < value("flops", writing)
    said = [dict(metric("flops").evaluate(e).conditions)["writing"] for e in (writing, cached)]
    assert ["anew" in words for words in said] == [True, False]


def test_model_bytes_are_the_files():
    assert value("model_bytes") == 1024


def test_payload_is_asked_of_the_runtime(monkeypatch):
    from paretune.spaces import runtimes

    class Fixed:
        name, version, moves, source = "fixed", 1, frozenset(), "here"
        holds, export_formats = {}, frozenset()

        def hyperparameters(self, paper):
            return ()

        def objections(self, paper, settings, targets):
            return []

        def steps(self, paper, settings):
            return ()

        def payload_bytes(self, profile):
            return 7 * len(profile.layers)

        def open(self, folder, *, threads=1):
            raise AssertionError("nothing is opened for a figure on paper")

    monkeypatch.setitem(runtimes.RUNTIMES, "fixed", Fixed())
    deployed = replace(BARE, paper=replace(BARE.paper, runtime="fixed"))
    assert value("payload_bytes", deployed) == 84
    assert metric("payload_bytes").evaluate(BARE).reason


def test_training_time_counts_what_another_trial_had_paid_for():
    figure = metric("training_time").evaluate(FULL)
    assert figure.value == 3600
    assert dict(figure.conditions)["cached"] == 1


def test_peak_memory_says_what_the_process_held_before():
    figure = metric("peak_memory").evaluate(FULL)
    assert figure.value == 5_000_000
    assert dict(figure.conditions)["baseline_bytes"] == 1_000_000
    lost = metric("peak_memory").evaluate(replace(FULL, peak=Peak(None, reason="killed")))
    assert lost.reason == "killed"


def test_energy_is_per_text_and_keeps_its_source():
    figure = metric("energy").evaluate(FULL)
    assert figure.value == pytest.approx(0.3)
    assert figure.stderr == pytest.approx(0.03)
    assert figure.source == "modelled"
    assert dict(figure.conditions)["idle_watts_subtracted"] == 0.7
    lost = replace(FULL, power=Power(None, None, "none", reason="no counter"))
    assert metric("energy").evaluate(lost).reason == "no counter"
    assert metric("carbon").evaluate(lost).reason == "no counter"


def test_carbon_is_energy_times_overhead_times_the_grid():
    settings = {"region": "FRA", "pue": 1.1}
    figure = metric("carbon").evaluate(replace(FULL, settings=settings))
    assert figure.value == pytest.approx(1000 * 0.3 / 3.6e6 * 1.1 * 56.039)
    assert figure.source == "modelled"
    assert dict(figure.conditions)["region"] == "FRA"
    with pytest.raises(UnknownName, match="grid region"):
        metric("carbon").evaluate(replace(FULL, settings={"region": "Atlantis"}))


def test_training_energy_is_hours_at_full_draw():
    # one hour on one thread at 3.5 W
    assert value("training_energy") == pytest.approx(0.0035)


def test_gradients_are_sent_around_a_ring():
    planned = replace(BARE, paper=replace(BARE.paper, plan=Plan(devices=4, data_parallel=4)))
    assert value("gradient_bytes", BARE) == 0
    assert value("gradient_bytes", planned) == 2 * 3 / 4 * 4 * 109_483_778


@pytest.mark.parametrize(
    ("names", "energy_is_time", "found"),
    [
        (["accuracy", "latency_p50", "model_bytes"], True, {}),
        (["accuracy", "latency_p50", "energy"], True, {"energy": "latency_p50"}),
        (["accuracy", "latency_p50", "energy"], False, {}),
        (["carbon", "energy"], False, {"energy": "carbon"}),
        (
            ["cost_per_million_queries", "carbon", "latency_p50"],
            True,
            {"carbon": "cost_per_million_queries", "latency_p50": "cost_per_million_queries"},
        ),
        (["training_energy", "training_cost"], False, {"training_cost": "training_energy"}),
        (
            ["training_time", "training_cost", "training_energy"],
            False,
            {"training_cost": "training_time", "training_energy": "training_time"},
        ),
        (["flops_per_token", "flops"], False, {"flops": "flops_per_token"}),
        (
            ["trainable_parameters", "training_payload_bytes", "gradient_bytes"],
            False,
            {"training_payload_bytes": "trainable_parameters"},
        ),
    ],
)
def test_a_multiple_of_another_metric_is_known_as_one(names, energy_is_time, found):
    assert followed(names, energy_is_time) == found


def ratio_of(name: str) -> float:
    """A figure of a smaller model that was trained shorter, per the figure of the full one."""
    small = Profile("bert", 768, 30522, 512, 2, (LAYER,) * 6, Head("classification", 2))
    paper = Paper(small, replace(RECIPE, trainable=("*.bias",)))
    other = replace(
        FULL,
        paper=paper,
        timings=Timings((0.003,) * 30, 3, "AMD EPYC"),
        power=Power(0.18, "modelled", "utilisation model"),
        stages=(StageCost("b", "full.train", 700.0, True, False),),
    )
    return value(name, other) / value(name)


@pytest.mark.parametrize("name", [name for name, row in metrics().items() if row.follows])
def test_what_follows_a_metric_moves_as_it_does(name):
    assert ratio_of(name) == pytest.approx(ratio_of(metrics()[name].follows))


def test_what_a_metric_follows_is_in_the_catalogue():
    assert {row.follows for row in metrics().values()} - {None} <= set(metrics())
