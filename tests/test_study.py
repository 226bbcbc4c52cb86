"""The study file: strict, every error with its line, what is allowed and the nearest spelling."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from paretune.errors import BadRequest, StudyError
from paretune.search.budget import Budget
from paretune.search.study import Study, json_schema, load_study
from paretune.search.study_checks import LARGEST, enqueued, export_formats
from paretune.search.study_sections import quantity
from paretune.search.study_yaml import read_study_file, write_yaml
from paretune.spaces.configuration import Choice, Configuration
from paretune.spaces.space import Space

ROOT = Path(__file__).parents[1]

TEXT = """\
model: someone/small-model
task: {name: docstrings, max_length: 16}
workload:
  batch: 2
  threads: 1
objectives:
  - accuracy
  - latency_p50
constraints: ["model_bytes <= 40 MB"]
space:
  finetuning:
    methods: [full, lora]
    lora: {rank: [2, 16]}
  structure: {methods: [none, ffn]}
fidelity: {rungs: [0.25, 1.0]}
budget: {trials: 12}
trial:
  timeout: 5 min
  memory: 4 GB
engine: {kind: optuna, workers: 2}
enqueue:
  - finetuning: {method: lora, rank: 8}
"""


def _load(folder: Path, text: str = TEXT, *overrides: str) -> Study:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return load_study(path, overrides)


def _swap(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new)


def test_a_study_file_loads_with_defaults_for_what_it_leaves_out(tmp_path: Path) -> None:
    study = _load(tmp_path)
    assert study.task.spec().max_length == 16
    assert study.workload.spec().batch == 2
    assert study.workload.spec().prompt_tokens == 32
    assert study.fidelity.rungs == (0.25, 1.0)
    assert study.budget.spec() == Budget(trials=12)
    assert study.trial.timeout_seconds == 300.0
    assert study.trial.memory_bytes == 4_000_000_000
    assert study.sampler == "greybox"
    assert study.settings.given() == {}
    assert study.seed == 0


def test_the_quickstart_loads() -> None:
    study = load_study(ROOT / "examples" / "quickstart.yaml")
    assert study.task.name == "docstrings"


def test_objectives_know_unit_and_direction(tmp_path: Path) -> None:
    rows = _load(tmp_path).objective_rows()
    assert [(row.name, row.unit, row.direction) for row in rows] == [
        ("accuracy", "fraction", "maximize"),
        ("latency_p50", "second", "minimize"),
    ]


def test_json_and_yaml_give_the_same_study_back(tmp_path: Path) -> None:
    study = _load(tmp_path)
    assert Study.from_dict(json.loads(json.dumps(study.to_json()))) == study
    assert _load(tmp_path, study.dump_yaml()) == study
    assert pickle.loads(pickle.dumps(study)) == study


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    study = _load(
        tmp_path,
        TEXT,
        "budget.trials=3",
        "space.finetuning.lora.rank={values: [4, 8]}",
        "fidelity.rungs=[1.0]",
        "settings.region=FRA",
    )
    assert study.budget.trials == 3
    assert study.space["finetuning"]["lora"]["rank"] == {"values": [4, 8]}
    assert study.fidelity.rungs == (1.0,)
    assert study.settings.given() == {"region": "FRA"}


def test_a_study_cannot_be_changed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        _load(tmp_path).seed = 3


def test_local_paths_become_absolute_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data.csv").write_text("text,label\n")
    (tmp_path / "tiny").mkdir()
    text = _swap("someone/small-model", "tiny").replace("docstrings", "data.csv")
    study = _load(tmp_path, text)
    assert study.model == str(tmp_path / "tiny")
    assert study.task.name == str(tmp_path / "data.csv")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    below = _load(tmp_path / "elsewhere", text, "task.files={train: data.csv, test: gone.csv}")
    assert below.model == str(tmp_path / "tiny"), "else in the current folder"
    assert below.task.files == {"train": str(tmp_path / "data.csv"), "test": "gone.csv"}


WRONG = [
    ("objectives:", "objectivs:", r"line 6: objectivs: unknown key; did you mean objectives\?"),
    ("  batch: 2", "  bach: 2", r"line 4: workload.bach: unknown key; did you mean batch\?"),
    ("  batch: 2", "  batch: two", "line 4: workload.batch: is 'two'; .* integer"),
    ("  batch: 2", "  batch: '2'", "line 4: workload.batch: is '2'"),
    ("  batch: 2", "  batch: true", "line 4: workload.batch: is True"),
    ("  batch: 2", "  batch: 0", "line 4: workload.batch: is 0; .* greater than or equal to 1"),
    ("  batch: 2", "  device: hare", r"line 4: .*unknown device 'hare'; did you mean 'here'\?"),
    ("model: someone/small-model\n", "", "study.yaml: model: is missing"),
    ("name: docstrings, ", "", "line 2: task.name: is missing"),
    ("max_length: 16", "max_length: 1", "line 2: task.max_length"),
    ("max_length: 16", "kind: clasification", r"line 2: .*did you mean classification\?"),
    ("max_length: 16", "text: [a, b, c]", "line 2: task.text"),
    ("max_length: 16", "limits: {tset: 3}", r"line 2: .*did you mean test\?"),
    ("max_length: 16", "shares: {test: 1.5}", "line 2: task.shares.test"),
    ("  - accuracy", "  - acuracy", r"line 7: objectives.0: .*did you mean 'accuracy'\?"),
    ("  - latency_p50", "  - accuracy", "line 8: objectives.1: accuracy is there twice"),
    ("40 MB", "40 minutes", "line 9: constraints.0: .*does not fit"),
    ("model_bytes <=", "modelbytes <=", r"line 9: .*did you mean 'model_bytes'\?"),
    ("model_bytes <= 40 MB", "accuracy >= 1.2", "line 9: constraints.0: nothing can keep"),
    ("model_bytes <= 40 MB", "model_bytes <= -1 MB", "line 9: constraints.0: nothing can keep"),
    ("model_bytes <= 40 MB", "small", "line 9: constraints.0: cannot read"),
    ('40 MB"', '40 MB", "model_bytes >= 50 MB"', "line 9: constraints.1: nothing keeps both"),
    ("  finetuning:\n", "  finetunning:\n", r"line 11: .*did you mean 'finetuning'\?"),
    ("[full, lora]", "[full, lorra]", r"line 12: space.finetuning.methods.1: .*'lora'\?"),
    ("[full, lora]", "[full, full]", "line 12: .*full is there twice"),
    ("[full, lora]", "[]", "line 12: space.finetuning.methods: must be a list"),
    ("[full, lora]", "full", "line 12: space.finetuning.methods: must be a list"),
    ("[full, lora]", "[full]", "line 13: space.finetuning.lora: is not among the methods"),
    ("    lora: {", "    lorra: {", r"line 13: space.finetuning.lorra: .*did you mean 'lora'\?"),
    ("{rank: [2, 16]}", "8", "line 13: space.finetuning.lora: must be a mapping of knobs"),
    ("{rank: [2, 16]}", "{rnak: 4}", r"line 13: space.finetuning.lora.rnak: .*'rank'\?"),
    ("{rank: [2, 16]}", "{rank: [1, 8]}", "line 13: .*rank is 1; allowed: a whole number"),
    ("{rank: [2, 16]}", "{rank: [16, 2]}", "line 13: .*upside down"),
    ("{rank: [2, 16]}", "{rank: 4.5}", "line 13: .*rank is 4.5; allowed"),
    ("{rank: [2, 16]}", "{targets: [x]}", "line 13: .*allowed: one of"),
    ("{rank: [2, 16]}", "{rank: {value: 3}}", r"line 13: .*values: \[...\]"),
    ("{methods: [none, ffn]}", "none", "line 14: space.structure: is 'none'"),
    ("[0.25, 1.0]", "[1.0, 0.25]", "line 15: fidelity: .*must ascend"),
    ("[0.25, 1.0]", "[0.25]", "line 15: fidelity: .*end with 1.0"),
    ("[0.25, 1.0]", "[0.0, 1.0]", "line 15: fidelity.rungs.0"),
    ("{trials: 12}", "{}", "line 16: budget: a budget needs at least one"),
    ("{trials: 12}", "{trials: 0}", "line 16: budget.trials"),
    ("{trials: 12}", "{minutes: .inf}", "line 16: budget.minutes"),
    ("5 min", "5", "line 18: trial.timeout: is 5"),
    ("5 min", "'5'", "line 18: trial.timeout: '5' is no number with a unit; .*'5 min'"),
    ("5 min", "5 MB", "line 18: trial.timeout: 'MB' is no unit of 'second'"),
    ("5 min", "5 minuets", "line 18: trial.timeout: 'minuets' is no unit"),
    ("5 min", "0 min", "line 18: trial.timeout: .*above 0"),
    ("4 GB", "4 s", "line 19: trial.memory: 's' is no unit of 'byte'"),
    ("kind: optuna", "kind: optona", r"line 20: engine.kind: .*did you mean optuna\?"),
    ("kind: optuna", "kind: optuna, address: auto", "line 20: engine: address means something"),
    ("rank: 8}", "rank: 32}", "line 22: enqueue.0.finetuning.rank: rank is 32; allowed"),
    ("rank: 8}", "rank: [4, 8]}", "line 22: enqueue.0.finetuning.rank: must be one value"),
    ("rank: 8}", "rnk: 8}", r"line 22: enqueue.0.finetuning.rnk: .*'rank'\?"),
    ("method: lora, rank: 8", "method: ia3", "line 22: .*ia3 is not in this study's space"),
    ("method: lora, rank: 8", "method: lore", r"line 22: .*did you mean 'lora'\?"),
    ("method: lora, rank: 8", "rank: 8", "line 22: .*must be {method: NAME"),
    ("- finetuning: {", "- recovery: {", "line 22: enqueue.0.recovery.method: unknown"),
    ("- finetuning: {", "- fintuning: {", r"line 22: .*did you mean 'finetuning'\?"),
    ("engine:", "sampler: graybox\nengine:", r"line 20: sampler: .*did you mean 'greybox'\?"),
    ("engine:", "deploy: [floppy]\nengine:", "line 20: deploy.0: unknown export format"),
    ("engine:", "deploy: [hf, hf]\nengine:", "line 20: deploy.1: hf is there twice"),
    ("engine:", "deploy: hf\nengine:", "line 20: deploy: is 'hf'; it must be a list"),
    ("engine:", "deploy: [1]\nengine:", "line 20: deploy.0: is 1; it must be text"),
    ("{methods: [none, ffn]}", "[ffn]", "line 14: space.structure: .*it must be a mapping"),
    ("engine:", "settings: {region: ZZZ}\nengine:", "line 20: settings.region: unknown region"),
    ("engine:", "settings: {device: abacus}\nengine:", "line 20: settings.device: unknown"),
    ("engine:", "settings: {pue: 0.5}\nengine:", "line 20: settings.pue: is 0.5"),
    ("engine:", "budget: {trials: 1}\nengine:", "line 20.*duplicate key"),
    ("engine: {", "engine: [", "line 20"),
    ("budget: {trials: 12}", "budget: {trials: 2020-01-01}", "line 16: budget.trials is neither"),
    ("budget: {trials: 12}", "1: 2", "key 1 of the file is no text"),
    ("budget: {trials: 12}", "\tbudget: 1", "line 16"),
]


@pytest.mark.parametrize(("old", "new", "message"), WRONG, ids=[new.strip() for _, new, _ in WRONG])
def test_wrong_studies_are_refused_with_their_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        _load(tmp_path, _swap(old, new))
    assert not any("\n" in told for told in caught.value.args)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("budget.trials", "write key=value"),
        ("=3", "write key=value"),
        ("budget.trails=3", r"^--set budget.trails=3: budget.trails: unknown key.*trials\?"),
        ("budget.trials=many", "^--set budget.trials=many: budget.trials: is 'many'"),
        ("model.name=x", "'name' has no place in 'someone/small-model'"),
        ("seed=[1", "--set seed="),
        ("seed=2020-01-01", "neither text nor number"),
    ],
)
def test_wrong_overrides_are_named(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        _load(tmp_path, TEXT, override)


def test_a_number_of_relation_heads_that_some_models_have_may_be_named(tmp_path: Path) -> None:
    relations = "{methods: [none, distil_relations], distil_relations: {relation_heads: 12}}"
    _load(tmp_path, _swap("  structure:", f"  recovery: {relations}\n  structure:"))


def test_all_problems_are_told_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = _swap("  batch: 2", "  bach: 2").replace("trials: 12", "trails: 12")
    with pytest.raises(StudyError) as caught:
        _load(tmp_path, text)
    places = [told.split(": ")[:2] for told in caught.value.args]
    assert places == [
        ["study.yaml line 4", "workload.bach"],
        ["study.yaml line 16", "budget.trails"],
    ]


def _faults(folder: Path, text: str, *overrides: str) -> list[str]:
    """Places of the faults that are told, in order, each once."""
    with pytest.raises(StudyError) as caught:
        _load(folder, text, *overrides)
    places = [told.split(": ")[:2] for told in caught.value.args]
    return list(dict.fromkeys(f"{place.rsplit(' ')[-1]} {what}" for place, what in places))


def test_faults_of_form_names_and_enqueued_configurations_are_told_at_once(tmp_path: Path) -> None:
    text = _swap("  batch: 2", "  bach: 2").replace("  - latency_p50", "  - latency")
    text = text.replace("40 MB", "40 minutes").replace("[none, ffn]", "[none, fnn]")
    text = text.replace("5 min", "5").replace("rank: 8}", "rank: 32}")
    assert _faults(tmp_path, text) == [
        "4 workload.bach",
        "8 objectives.1",
        "9 constraints.0",
        "14 space.structure.methods.1",
        "18 trial.timeout",
        "22 enqueue.0.finetuning.rank",
    ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        # what rests on a faulty part is not judged: it may be right
        ({"finetuning:\n": "finetunning:\n"}, ["11 space.finetunning"]),
        ({"    lora: {": "    lorra: {"}, ["13 space.finetuning.lorra"]),
        ({"{methods: [none, ffn]}": "none"}, ["14 space.structure"]),
        (
            {"- accuracy": "- mood", "engine:": "custom_metrics: {mood: 3}\nengine:"},
            ["20 custom_metrics.mood"],
        ),
        (
            {"threads: 1": "device: cuda", "12}": "12, usd: 3}", "seed": "seed"}
            | {"engine:": "settings: {usd_per_hour: -1}\nengine:"},
            ["20 settings.usd_per_hour"],
        ),
        # and what is faulty twice, or lacks something, hides nothing else
        (
            {"  - accuracy\n  - latency_p50": "  - accuracy\n  - 3", "[full, lora]": "[full, x]"},
            ["8 objectives.1", "12 space.finetuning.methods.1"],
        ),
        (
            {"model: someone/small-model\n": "", "kind: optuna": "kind: optona", "12}": "0}"}
            | {"docstrings, max": "3, max", "[full, lora]": "[full, x]"},
            [
                "1 task.name",
                "11 space.finetuning.methods.1",
                "15 budget.trials",
                "19 engine.kind",
                "study.yaml model",
            ],
        ),
    ],
)
def test_a_fault_hides_no_other_and_makes_none_up(
    tmp_path: Path, changes: dict[str, str], told: list[str]
) -> None:
    text = TEXT
    for old, new in changes.items():
        text = text.replace(old, new, 1)
    assert _faults(tmp_path, text) == told


@pytest.mark.parametrize(
    ("bound", "meant"),
    [
        ("0.9 x baseline", "0.9 * baseline"),
        ("90 % of the baseline", "0.9 * baseline"),
        ("baseline * 0.9 - 0.01", "0.9 * baseline - 0.01"),
        ("0.9 * basline", "0.9 * baseline"),
    ],
)
def test_a_limit_against_the_baseline_is_shown_as_it_must_be_written(
    tmp_path: Path, bound: str, meant: str
) -> None:
    with pytest.raises(StudyError, match="line 9") as caught:
        _load(tmp_path, _swap("model_bytes <= 40 MB", f"accuracy >= {bound}"))
    assert f"did you mean 'accuracy >= {meant}'?" in str(caught.value)


def test_of_two_names_that_are_as_near_the_usual_one_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"did you mean 'latency_p50'\?"):
        _load(tmp_path, _swap("  - latency_p50", "  - latency"))


@pytest.mark.parametrize("text", ["", "- 1\n", "3\n", "{}\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(StudyError, match="paretune init"):
        _load(tmp_path, text)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cannot read the study file"):
        load_study(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadRequest, match="cannot read the study file"):
        load_study(tmp_path / "bytes.yaml")


def test_plain_data_is_refused_without_lines() -> None:
    with pytest.raises(StudyError, match=r"^objectives: is missing"):
        Study.from_dict({"model": "m", "task": {"name": "docstrings"}})


def test_custom_metrics_may_be_objectives_and_limits(tmp_path: Path) -> None:
    own = "custom_metrics: {toxicity: {direction: minimize, unit: fraction}}\nengine:"
    text = _swap("engine:", own).replace("  - latency_p50", "  - toxicity")
    study = _load(tmp_path, text.replace("model_bytes <= 40 MB", "toxicity <= 0.2"))
    assert study.objective_rows()[1].direction == "minimize"
    assert study.limits()[0].bound == 0.2
    with pytest.raises(StudyError, match=r"line 20: custom_metrics\.flops: is a metric"):
        _load(tmp_path, text.replace("toxicity", "flops"))


def test_open_limits_wait_for_the_baseline(tmp_path: Path) -> None:
    study = _load(tmp_path, _swap("model_bytes <= 40 MB", "accuracy >= 0.95 * baseline"))
    assert study.limits()[0].open


def test_a_ray_study_says_what_a_trial_gets(tmp_path: Path) -> None:
    engine = "engine: {kind: ray, address: auto, per_trial: {cpu: 2, gpu: 0.5}}"
    study = _load(tmp_path, _swap("engine: {kind: optuna, workers: 2}", engine))
    assert study.engine.per_trial is not None
    assert study.engine.per_trial.gpu == 0.5


def test_task_options_reach_the_loader(tmp_path: Path) -> None:
    task = "{name: mine, files: {train: a.csv}, text: body, label: y, limits: {test: 9}, shares: "
    study = _load(tmp_path, _swap("{name: docstrings, max_length: 16}", task + "{test: 0.3}}"))
    spec = study.task.spec()
    assert spec.files == (("train", "a.csv"),)
    assert spec.text == ("body",)
    assert spec.limits == (("test", 9),)
    assert dict(spec.shares) == {"calibration": 0.1, "validation": 0.1, "test": 0.3}


def test_enqueued_configurations_get_the_defaults_of_the_narrowed_space(tmp_path: Path) -> None:
    study = _load(tmp_path)
    space = Space.of(study.space, LARGEST)
    (found,) = enqueued(study.enqueue, space)
    choice = found.get("finetuning")
    assert choice is not None
    settings = dict(choice.settings)
    assert settings.pop("rank") == 8
    assert settings, "the other knobs of lora"
    assert space.parameters(found)["finetuning.lora.rank"] == 8
    bare: list[dict[str, Any]] = [{"finetuning": {"method": "full", "learning_rate": 1e-4}}]
    wanted = Configuration.of(finetuning=Choice.of("full", learning_rate=1e-4))
    assert enqueued(bare, space) == (wanted,)


def test_hf_is_always_an_export_format() -> None:
    assert "hf" in export_formats()


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [("1.5 h", "second", 5400.0), ("4 GiB", "byte", 2.0**32), ("250ms", "second", 0.25)],
)
def test_quantities_carry_their_units(text: str, unit: str, value: float) -> None:
    assert quantity(text, unit) == value


def test_yaml_1_2_reads_words_as_words(tmp_path: Path) -> None:
    path = tmp_path / "words.yaml"
    path.write_text("a: off\nb: no\nc: 1e-3\nd: 0x10\ne: null\nf: true\n")
    data = read_study_file(path).data
    assert data == {"a": "off", "b": "no", "c": 1e-3, "d": 16, "e": None, "f": True}
    assert [type(value).__name__ for value in data.values()] == [
        "str", "str", "float", "int", "NoneType", "bool",
    ]  # fmt: skip


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    data = {"b": [1, 2.5], "a": {"off": "no", "list": [{"x": "1"}, "5 min"]}, "t": "true"}
    path = tmp_path / "out.yaml"
    path.write_text(write_yaml(data))
    assert read_study_file(path).data == data
    assert list(read_study_file(path).data) == ["b", "a", "t"]


def test_the_schema_describes_every_field() -> None:
    schema = json_schema()
    json.dumps(schema)
    assert set(schema["properties"]) == set(Study.model_fields)
    assert schema["additionalProperties"] is False
    assert "accuracy" in schema["properties"]["objectives"]["examples"][0]
    for definition in [schema, *schema["$defs"].values()]:
        assert definition["description"]
    for name, field in schema["properties"].items():
        assert "$ref" in field or field.get("description"), name


SUBNET = """
  architecture:
    methods: [given, subnet]
    subnet: {depth: 0.75, smallest: 0.5}
"""


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("length: 2.0", "line 26: enqueue.1.architecture.length: is 2.0; it stays at 1.0 while"),
        ("random: 3", "space.architecture.subnet.random"),
        ("random: 2", None),
        ("smallest: 0.5", None),
        ("smallest: 0.25", "allowed: one of 0.5"),
        ("learning_rate: 1e-4", None),  # the default depends on the model: asked when it is known
    ],
)
def test_a_knob_that_the_space_leaves_alone_is_not_enqueued_with_another_value(
    tmp_path, told, said
):
    text = _swap("  structure: {methods", f"{SUBNET.lstrip(chr(10))}  structure: {{methods")
    text += f"  - architecture: {{method: subnet, {told}}}\n"
    if said is None:
        _load(tmp_path, text)
        return
    with pytest.raises(StudyError, match=re.escape(said)):
        _load(tmp_path, text)


def test_what_the_model_does_not_offer_says_where_to_offer_it() -> None:
    space = Space.of({"architecture": {"methods": ["subnet"]}}, LARGEST)
    wanted = [{"architecture": {"method": "subnet", "learning_rate": 1e-4}}]
    said = r"enqueue\.0\.architecture: learning_rate is 0\.0001; .* under "
    with pytest.raises(StudyError, match=f"{said}space.architecture.subnet.learning_rate"):
        enqueued(wanted, space)


def test_shares_are_settled_when_the_model_is_known() -> None:
    layer = LARGEST.profile.layers[0]
    small = replace(LARGEST, profile=replace(LARGEST.profile, layers=(layer,) * 6))
    space = Space.of({"structure": {"methods": ["layers"], "layers": {"keep": [0.5, 0.75]}}}, small)
    (found,) = enqueued([{"structure": {"method": "layers", "keep": 0.75}}], space)
    assert dict(found.get("structure").settings)["keep"] == 0.875
    two = replace(small, profile=replace(small.profile, layers=(layer,) * 2))
    with pytest.raises(StudyError, match=r"keep is 0.875; allowed: one of .* for this model"):
        Space.of({"structure": {"methods": ["layers"], "layers": {"keep": 0.875}}}, two)
