"""What is wrong is refused: exit code 2, one line that says what to do, and nothing stored."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paretune
import pytest
from paretune.cli import main
from paretune.evaluators.energy import meters
from paretune.search.run import FORMAT
from paretune.search.study_yaml import write_yaml
from paretune.spaces.configuration import Configuration

Data = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where one case is played: a study, the folder it lies in, and tiny models to copy."""

    study: Data
    folder: Path
    models: dict[str, Path]

    def put(self, dotted: str, value: Any) -> None:
        """Sets a line of the study."""
        *way, last = dotted.split(".")
        section = self.study
        for key in way:
            section = section.setdefault(key, {})
        section[last] = value

    def data(self, *lines: str) -> None:
        """Makes a csv of these lines the task."""
        (self.folder / "data.csv").write_text("\n".join(lines))
        self.put("task.name", "data.csv")

    def model(self, family: str = "bert") -> Path:
        """Makes a copy of a tiny model the study's."""
        shutil.copytree(self.models[family], self.folder / "model")
        self.put("model", "model")
        return self.folder / "model"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache for all of this file."""
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path_factory.getbasetemp() / "bad-cache"))


@pytest.fixture
def place(tiny_models: dict[str, Path], films: Path, tmp_path: Path) -> Place:
    return Place(good_study(tiny_models["bert"], films), tmp_path, tiny_models)


def good_study(model: Path, films: Path) -> Data:
    return {
        "model": str(model),
        "task": {"name": str(films), "max_length": 16},
        "workload": {"prompt_tokens": 16},
        "objectives": ["accuracy", "model_bytes"],
        "space": {
            "finetuning": {"methods": ["full", "lora"]},
            "precision": {"methods": ["fp32", "int8"]},
        },
        "budget": {"trials": 3},
    }


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 2) -> str:
    """The one line on standard error of a command that is refused."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert end.value.code == code, err
    assert out == ""
    assert err.startswith("paretune: "), err
    assert err.count("\n") == 1, err
    return err


def searching(place: Place, *more: str) -> list[object]:
    """The command that searches a place's study."""
    path = place.folder / "study.yaml"
    path.write_text(write_yaml(place.study))
    return ["search", path, "--run", place.folder / "run", *more]


def _pickled_only(place: Place) -> None:
    folder = place.model()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _without_weights(place: Place) -> None:
    (place.model() / "model.safetensors").unlink()


def _with_code(place: Place) -> None:
    file = place.model() / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "auto_map": {"AutoModel": "a.B"}}))


def _of_no_known_family(place: Place) -> None:
    file = place.model() / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": "mamba"}))


def _language(place: Place) -> None:
    lines = [f"the film {i} was very good, and not bad at all\n" for i in range(3000)]
    (place.folder / "words.txt").write_text("".join(lines))
    place.put("task", {"name": "words.txt", "max_length": 16})
    place.put("objectives", ["perplexity", "model_bytes"])


def _writing_too_long(place: Place) -> None:
    _language(place)
    place.put("model", str(place.models["gpt2"]))
    place.put("workload", {"prompt_tokens": 60, "output_tokens": 5})


def _other_labels(place: Place) -> None:
    rows = [f"the film was good {i},pos,train" for i in range(9)]
    rows += [f"the film was bad {i},neg,train" for i in range(9)]
    rows += [f"the film was {s},meh,{s}" for s in ("validation", "test", "calibration")]
    place.data("text,label,split", *rows)


def _setting(dotted: str, value: Any) -> Callable[[Place], None]:
    return lambda place: place.put(dotted, value)


def _custom(place: Place) -> None:
    place.put("custom_metrics.charm", {"direction": "maximize"})
    place.put("objectives", ["charm", "model_bytes"])


ROWS: list[tuple[str, Callable[[Place], None], tuple[str, ...]]] = [
    ("unknown key", _setting("budgett", {}), ("line ", "budgett", "did you mean budget?")),
    ("unknown inner key", _setting("budget.trails", 3), ("trails", "did you mean trials?")),
    (
        "unknown technique",
        _setting("space.finetuning.methods", ["lorra"]),
        ("'lorra'", "did you mean 'lora'?", "ia3"),
    ),
    (
        "unknown slot",
        _setting("space.precission", {"methods": ["int8"]}),
        ("'precission'", "did you mean 'precision'?"),
    ),
    (
        "unknown knob",
        _setting("space.finetuning.lora", {"rnak": 4}),
        ("'rnak'", "did you mean 'rank'?"),
    ),
    (
        "knob out of range",
        _setting("space.finetuning.lora", {"rank": [2, 10**6]}),
        ("rank is 1000000", "a whole number from"),
    ),
    (
        "knob too large for the model",
        _setting("space.finetuning.lora", {"rank": [2, 512]}),
        ("rank is 512", "a whole number from 2 to"),
    ),
    (
        "unknown metric",
        _setting("objectives", ["acuracy"]),
        ("'acuracy'", "did you mean 'accuracy'?"),
    ),
    (
        "metric twice",
        _setting("objectives", ["accuracy", "accuracy"]),
        ("accuracy is there twice",),
    ),
    ("no objective", _setting("objectives", []), ("objectives: is empty", "at least one")),
    ("unknown sampler", _setting("sampler", "graybox"), ("'graybox'", "did you mean 'greybox'?")),
    (
        "unknown engine",
        _setting("engine", {"kind": "dask"}),
        ("'dask'", "'optuna' or 'ray'"),
    ),
    (
        "wrong unit of a limit",
        _setting("constraints", ["model_bytes <= 40 ms"]),
        ("unit 'ms'", "the metric is in byte"),
    ),
    (
        "wrong unit of a duration",
        _setting("trial.timeout", "5 GB"),
        ("'GB' is no unit of 'second'", "5 min"),
    ),
    (
        "limit without an operator",
        _setting("constraints", ["accuracy"]),
        ("cannot read the limit 'accuracy'", "METRIC <= NUMBER"),
    ),
    (
        "limit that nothing can keep",
        _setting("constraints", ["accuracy >= 1.2"]),
        ("nothing can keep 'accuracy >= 1.2'", "between 0 and 1"),
    ),
    (
        "limits that exclude each other",
        _setting("constraints", ["model_bytes <= 40 MB", "model_bytes >= 50 MB"]),
        ("nothing keeps both", "drop or widen"),
    ),
    (
        "limit that no candidate keeps on paper",
        _setting("constraints", ["parameters <= 10"]),
        ("nothing in the space keeps 'parameters <= 10'", "the nearest has", "widen"),
    ),
    (
        "size that no candidate can get down to",
        _setting("constraints", ["model_bytes <= 1 kB"]),
        ("nothing in the space keeps 'model_bytes <= 1 kB'", "widen"),
    ),
    ("rungs that descend", _setting("fidelity.rungs", [1.0, 0.5]), ("must ascend", "1.0")),
    ("a share of nothing goes on", _setting("fidelity.promote", 0), ("promote", "greater than 0")),
    (
        "rungs of something else",
        _setting("fidelity.of", "epochs"),
        ("'steps and items'", "'items'"),
    ),
    ("a budget of nothing", _setting("budget", {}), ("at least one of trials, minutes",)),
    ("a negative budget", _setting("budget.trials", -3), ("-3", "greater than or equal to 1")),
    ("unknown region", _setting("settings.region", "FRB"), ("'FRB'", "did you mean 'FRA'?")),
    ("unknown device", _setting("workload.device", "abacus"), ("'abacus'", "here")),
    ("unknown export", _setting("deploy", ["onxx"]), ("'onxx'", "did you mean 'onnx'?")),
    (
        "enqueued outside the space",
        _setting("enqueue", [{"precision": {"method": "int4"}}]),
        ("int4 is not in this study's space", "add it"),
    ),
    (
        "an objective that classification lacks",
        _setting("objectives", ["perplexity", "model_bytes"]),
        ("perplexity cannot be searched for", "classification", "accuracy, macro_f1"),
    ),
    (
        "a limit that classification lacks",
        _setting("constraints", ["bits_per_byte <= 2"]),
        ("bits_per_byte cannot be limited", "classification"),
    ),
    (
        "an objective that the workload lacks",
        _setting("objectives", ["accuracy", "tpot_p50"]),
        ("tpot_p50 cannot be searched for", "writes fewer than two tokens"),
    ),
    (
        "an objective that is taken only at the end",
        _setting("objectives", ["accuracy", "peak_memory"]),
        ("peak_memory cannot be searched for", "the finished front"),
    ),
    (
        "words from a classifier",
        _setting("workload.output_tokens", 8),
        ("workload.output_tokens is 8", "classification task writes nothing", "set it to 0"),
    ),
    (
        "a workload longer than positions",
        _setting("workload.prompt_tokens", 1024),
        ("workload.prompt_tokens 1024", "the 64 positions", "choose at most 64"),
    ),
    (
        "a workload that writes beyond positions",
        _writing_too_long,
        ("60 and output_tokens 5", "64"),
    ),
    ("a metric that nothing measures", _custom, ("charm", "evaluate=FUNCTION")),
    ("missing data", _setting("task.name", "films/none.csv"), ("no file", "none.csv", "existing")),
    ("unknown task", _setting("task.name", "docstring"), ("did you mean 'docstrings'?",)),
    ("empty data", lambda place: place.data("text,label"), ("holds no rows",)),
    (
        "data of one class",
        lambda p: p.data("text,label", *(f"the film was {i},pos" for i in range(99))),
        ("every label is 'pos'", "two classes"),
    ),
    ("labels that train lacks", _other_labels, ("labels that train does not have: meh", "neg")),
    (
        "data without the column",
        _setting("task.label", "stars"),
        ("no column 'stars'", "text, label"),
    ),
    ("texts longer than positions", _setting("task.max_length", 999), ("999", "64 positions")),
    ("missing model", _setting("model", "./nowhere"), ("no model folder at './nowhere'",)),
    ("model without weights", _without_weights, ("no weights in", "model.safetensors")),
    ("model of pickles alone", _pickled_only, ("only pickled weights", "allow_pickle")),
    ("model that brings code", _with_code, ("auto_map", "trust_remote_code")),
    ("model of an unknown family", _of_no_known_family, ("'mamba'", "known: bert")),
    ("an encoder that should write", _language, ("bert is an encoder", "a decoder such as gpt2")),
]


@pytest.mark.parametrize(("what", "spoil", "says"), ROWS, ids=[row[0] for row in ROWS])
def test_a_search_that_cannot_be_is_refused(
    place: Place,
    capsys: pytest.CaptureFixture[str],
    what: str,
    spoil: Callable[[Place], None],
    says: tuple[str, ...],
):
    spoil(place)
    line = said(capsys, *searching(place))
    assert [part for part in says if part not in line] == [], line
    assert not (place.folder / "run").exists()


@pytest.mark.parametrize(
    "faults",
    [{"budgett": {}, "engine.kind": "dask"}, {"objectives": ["acuracy"], "sampler": "graybox"}],
    ids=["of form", "of names"],
)
def test_all_faults_of_a_study_file_are_told_at_once(
    place: Place, capsys: pytest.CaptureFixture[str], faults: Data
):
    for dotted, value in faults.items():
        place.put(dotted, value)
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in searching(place)])
    lines = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert all(line.startswith("paretune: study.yaml line ") for line in lines), lines
    told = [line.split(": ")[2] for line in lines]
    assert sorted(key.partition(".")[0] for key in told) == sorted(
        dotted.partition(".")[0] for dotted in faults
    )


def test_pickles_that_are_allowed_get_further(place: Place, capsys: pytest.CaptureFixture[str]):
    _pickled_only(place)
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in searching(place, "--set", "allow_pickle=true", "--dry-run")])
    assert end.value.code == 0, capsys.readouterr().err


def test_energy_that_nothing_here_tells_is_refused_until_a_row_stands_for_it(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(meters, "processor", lambda: "an abacus")
    monkeypatch.setattr(meters, "rapl_domains", lambda folder: ())
    place.put("objectives", ["accuracy", "energy"])
    line = said(capsys, *searching(place))
    assert "energy cannot be searched for" in line
    assert "no row of the device table for an abacus; set `settings.device`" in line
    place.put("settings.device", "server-cpu-thread")
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in searching(place, "--dry-run", "--json")])
    assert end.value.code == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: [a", "line"),
        ("- a\n- b\n", "no mapping of keys"),
        ("", "no mapping of keys"),
        ("model: a\nmodel: b\n", "line 2"),
        ("task: {name: x}\nobjectives: [accuracy]\n", "model: is missing"),
    ],
)
def test_a_study_file_that_cannot_be_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    assert says in said(capsys, "search", path, "--run", tmp_path / "run")


def test_a_study_file_that_is_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    line = said(capsys, "search", tmp_path / "study.yaml")
    assert "cannot read the study file" in line
    assert "`paretune init` writes one" in line


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("budget.trials", "write key=value"),
        ("budget.trials=many", "--set budget.trials=many: budget.trials: is 'many'"),
        ("budget.trails=3", "did you mean trials?"),
        ("objectives=[acuracy]", "--set objectives=[acuracy]: objectives.0: "),
        ("budget={trials: many}", "--set budget={trials: many}: budget.trials: is 'many'"),
        ("engine.address=here", "with --set engine.address=here: engine: address means"),
        ("seed.a=1", "'a' has no place in 0"),
        ("objectives=[", "must be YAML"),
    ],
)
def test_an_override_that_cannot_be_read_is_refused(
    place: Place, capsys: pytest.CaptureFixture[str], override: str, says: str
):
    place.put("seed", 0)
    assert says in said(capsys, *searching(place, "--set", override))


def judge(configuration: Configuration, seed: int) -> dict[str, float]:
    number = int(configuration.digest[:4], 16)
    return {"accuracy": 0.5 + number / 2**18, "model_bytes": 1e5 + number}


@pytest.fixture(scope="module")
def run(
    tiny_models: dict[str, Path], films: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A finished run whose figures came from a function."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETUNE_CACHE", str(tmp_path_factory.getbasetemp() / "bad-cache"))
        paretune.search(good_study(tiny_models["bert"], films), folder, evaluate=judge)
        yield folder


COMMANDS = ["status", "front", "select", "report", "resume"]


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_folder_that_is_no_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
):
    assert "no run.json" in said(capsys, verb, tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_run_of_another_format_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
):
    (tmp_path / "run.json").write_text('{"format": 99, "name": "a", "storage": "b"}')
    assert f"format 99, this version reads {FORMAT}" in said(capsys, verb, tmp_path)


def test_a_run_of_another_study_is_refused(
    place: Place, run: Path, capsys: pytest.CaptureFixture[str]
):
    place.put("seed", 7)
    before = (run / "study.yaml").read_text()
    path = place.folder / "study.yaml"
    path.write_text(write_yaml(place.study))
    line = said(capsys, "search", path, "--run", run)
    assert "seed: 0 there, 7 here" in line
    assert "give another folder" in line
    assert (run / "study.yaml").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["front", "--objectives", "acuracy"], "did you mean 'accuracy'?"),
        (["select", "--where", "acuracy >= 0.5"], "did you mean 'accuracy'?"),
        (["select", "--where", "model_bytes <= 4 ms"], "the metric is in byte"),
        (["select", "--where", "model_bytes <= 1 kB"], "no trial keeps"),
        (["select", "--prefer", "latency_p50"], "latency_p50"),
        (["select", "--prefer", "speed"], "unknown metric 'speed'"),
        (["resume", "--trials", "0"], "greater than or equal to 1"),
        (["resume", "--minutes", "-1"], "greater than 0"),
    ],
    ids=str,
)
def test_a_question_that_a_run_cannot_answer_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
):
    verb, *more = arguments
    assert says in said(capsys, verb, run, *more)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["99"], "99"), (["best"], "best"), (["1", "--format", "onxx"], "did you mean 'onnx'?")],
    ids=str,
)
def test_an_export_of_nothing_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
):
    to = tmp_path / "artifact"
    assert says in said(capsys, "export", run, *arguments, "--to", to)
    assert not to.exists()


def test_a_folder_that_is_no_export_cannot_be_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert str(tmp_path) in said(capsys, "verify", tmp_path)


HOLD = """
import sys
from pathlib import Path
from paretune.search.run import Header, read_run
from paretune.search.storage import StudyStorage, read_snapshot
from paretune.search.run import read_about
folder = Path(sys.argv[1])
header = Header.from_json(read_snapshot(folder, read_about(folder))["header"])
storage = StudyStorage.open(folder, header)
print("held", flush=True)
sys.stdin.read()
storage.close()
"""


def test_a_second_driver_is_refused_while_the_first_lives(
    place: Place, run: Path, capsys: pytest.CaptureFixture[str]
):
    path = place.folder / "study.yaml"
    path.write_text(write_yaml(place.study))
    command = [sys.executable, "-c", HOLD, str(run)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        line = said(capsys, "search", path, "--run", run)
        holder.communicate("")
    assert f"held by process {holder.pid}" in line
    assert "wait for it or stop it" in line


def test_a_study_file_is_never_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "study.yaml"
    path.write_text("mine")
    assert "is there already" in said(capsys, "init", "--out", path)
    assert path.read_text() == "mine"
    assert "make it first" in said(capsys, "init", "--out", tmp_path / "none" / "study.yaml")


def test_a_run_folder_that_cannot_be_made_is_said(place: Place, capsys: pytest.CaptureFixture[str]):
    searching(place)
    line = said(capsys, "search", place.folder / "study.yaml", "--run", "/proc/none/run", code=1)
    assert "/proc/none" in line
    assert "make it writable" in line


def full(*arguments: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "somewhere")


@pytest.mark.parametrize("where", ["paretune.search.storage.write_json", "numpy.savez"])
def test_a_full_disk_is_said(
    place: Place,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    where: str,
):
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(where, full)
    line = said(capsys, *searching(place), code=1)
    assert "No space left on device" in line
    assert "free some space" in line


def test_a_cache_that_cannot_be_written_is_said(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Path, "mkdir", full)
    line = said(capsys, *searching(place), code=1)
    assert "PARETUNE_CACHE" in line


@pytest.mark.parametrize("verb", ["evaluate"])
def test_a_model_that_cannot_be_measured_is_refused(
    place: Place, films: Path, capsys: pytest.CaptureFixture[str], verb: str
):
    assert "did you mean 'docstrings'?" in said(
        capsys, verb, place.models["bert"], "--task", "docstring"
    )
    assert "no model folder" in said(capsys, verb, "./nowhere", "--task", films)
    line = said(capsys, verb, place.models["bert"], "--task", films, "--set", "workload.batches=2")
    assert "did you mean batch?" in line


@pytest.mark.parametrize(
    ("url", "says"), [("nowhere", "no database URL"), ("abacus://host/name", "no database URL")]
)
def test_a_database_that_nothing_opens_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str], url: str, says: str
):
    assert says in said(capsys, "resume", run, "--storage", url)


def test_a_damaged_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "run.json").write_text("{")
    assert "run.json is damaged" in said(capsys, "front", tmp_path)
