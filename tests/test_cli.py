"""The command line as users meet it: what goes where, exit codes, and a whole search by hand."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from paretune.cli import main
from paretune.search import session
from paretune.search.study import load_study
from paretune.search.study_yaml import read_study_file, write_yaml
from paretune.spaces.configuration import Configuration

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "peft", "ray", "onnx", "onnxruntime", "sklearn", "datasets"}
HEAVY |= {"optuna", "pandas", "plotly", "scipy", "ConfigSpace"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _in_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(cache))


@pytest.fixture(scope="module")
def study(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study file of four trials, the baseline among them."""
    rng = random.Random(0)
    lines = ["text,label"]
    for i in range(160):
        noise = " ".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(6))
        lines.append(f"the film was {('good', 'bad')[i % 2]} {noise},{('pos', 'neg')[i % 2]}")
    folder = tmp_path_factory.mktemp("study")
    (folder / "films.csv").write_text("\n".join(lines))
    data = {
        "model": str(tiny_models["bert"]),
        "task": {"name": "films.csv", "max_length": 16},
        "workload": {"prompt_tokens": 16},
        "objectives": ["accuracy", "model_bytes"],
        "space": {
            "finetuning": {"methods": ["full", "head"]},
            "precision": {"methods": ["fp32", "int8"]},
        },
        "budget": {"trials": 4},
    }
    (folder / "study.yaml").write_text(write_yaml(data))
    return folder / "study.yaml"


class Judge:
    """Figures by a function; Ctrl-C is pressed during its n-th call, once or twice."""

    def __init__(self, press_at: int = 0, times: int = 1) -> None:
        self.calls, self.press_at, self.times = 0, press_at, times

    def __call__(self, configuration: Configuration, seed: int) -> dict[str, float]:
        self.calls += 1
        if self.calls == self.press_at:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)
        number = int(configuration.digest[:4], 16)
        return {"accuracy": 0.5 + number / 2**18, "model_bytes": 1e5 + number}


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes `search` and `resume` judge by a function instead of making models."""
    start = session.start

    def use(judge: Judge) -> None:
        monkeypatch.setattr(session, "start", partial(start, evaluate=judge))

    use(Judge())
    return use


@pytest.fixture(scope="module")
def run(study: Path, cache: Path) -> Iterator[Path]:
    """A finished run, judged by a function."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETUNE_CACHE", str(cache))
        patch.setattr(session, "start", partial(session.start, evaluate=Judge()))
        with pytest.raises(SystemExit):
            main(["search", str(study), "--run", str(study.parent / "run"), "--quiet"])
        yield study.parent / "run"


def ran(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    """Standard output and error of a command that ends with a code."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert (end.value.code or 0) == code, err
    return out, err


def loaded(*arguments: object) -> set[str]:
    """The heavy libraries that a command loads."""
    code = (
        "import sys; from paretune.cli import main\n"
        f"try: main({[str(a) for a in arguments]!r})\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"print(*sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


def test_help_lists_every_verb_and_loads_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-m", "paretune", "--help"], capture_output=True, text=True, check=True
    )
    verbs = "init doctor search resume status front select report export verify evaluate estimate"
    for verb in f"{verbs} interactions spaces metrics devices cache schema".split():
        assert f"  {verb} " in done.stdout
    assert loaded("--help") == set()


def test_every_verb_has_help(capsys: pytest.CaptureFixture[str]):
    from paretune.cli import app

    for command in app.registered_commands:
        assert command.callback is not None
        out, err = ran(capsys, command.callback.__name__, "--help")
        assert (command.callback.__doc__ or "").rstrip(".") in " ".join(out.split())
        assert err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",), ("front",), ("front", "--json"), ("front", "--csv"), ("select",),
        ("interactions",),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_run_is_read_without_heavy_libraries(run: Path, arguments: tuple[str, ...]):
    verb, *more = arguments
    assert loaded(verb, run, *more) <= {"scipy"}


def test_the_page_is_written_without_models(run: Path, tmp_path: Path):
    heavy = loaded("report", run, "--out", tmp_path / "page.html")
    assert not heavy & {"torch", "transformers", "ray", "peft", "onnxruntime"}
    assert (tmp_path / "page.html").stat().st_size > 1000


@pytest.mark.parametrize(
    "arguments",
    [
        ("doctor",), ("spaces",), ("metrics",), ("devices",), ("cache",), ("status", "RUN"),
        ("front", "RUN"), ("select", "RUN"), ("interactions", "RUN"),
        ("search", "STUDY", "--dry-run"), ("estimate", "MODEL"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_json_stands_alone_on_standard_output(
    run: Path,
    study: Path,
    tiny_models: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
):
    places = {"RUN": run, "STUDY": study, "MODEL": tiny_models["gpt2"]}
    words = [places.get(word, word) for word in arguments]
    out, err = ran(capsys, *words, "--json")
    assert json.loads(out)
    assert err == ""
    text, _ = ran(capsys, *words)
    assert text.strip()
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


@pytest.mark.parametrize("verb", ["spaces", "metrics", "devices"])
def test_what_exists_is_readable_in_a_hundred_columns(
    capsys: pytest.CaptureFixture[str], verb: str
):
    out, _ = ran(capsys, verb)
    assert max(len(line) for line in out.splitlines()) <= 100


def test_techniques_are_shown_with_the_names_of_their_knobs_and_in_json_with_ranges(
    capsys: pytest.CaptureFixture[str],
):
    text, _ = ran(capsys, "spaces")
    assert "rank, alpha_ratio" in text
    rows = json.loads(ran(capsys, "spaces", "--json")[0])
    lora = next(row for row in rows if row["method"] == "lora")
    assert "a whole number from" in lora["knobs"]["rank"]
    assert lora["source"]


def test_a_search_prints_json_and_tells_its_progress_beside(
    study: Path, tmp_path: Path, judged: Any, capsys: pytest.CaptureFixture[str]
):
    out, err = ran(capsys, "search", study, "--run", tmp_path / "run", "--json")
    done = json.loads(out)
    assert (done["final"], done["ended"]) == (
        3,
        "all of the budget was begun: 3 trials and the baseline",
    )
    assert "trial 3 final: accuracy" in err
    assert Path(done["report"]).is_file()


def test_a_quiet_search_says_nothing_on_standard_error(
    study: Path, tmp_path: Path, judged: Any, capsys: pytest.CaptureFixture[str]
):
    out, err = ran(capsys, "search", study, "--run", tmp_path / "run", "--quiet", "--trials", 2)
    assert "final: 1" in out
    assert err == ""


def test_lines_of_the_study_are_overridden(study: Path, capsys: pytest.CaptureFixture[str]):
    more = ("--set", "budget.trials=9", "--set", "space.finetuning.methods=[head]")
    out, _ = ran(capsys, "search", study, "--dry-run", *more, "--json")
    assert json.loads(out)["trials"] == 8, "and the baseline"
    assert json.loads(out)["trainings"] <= 9
    out, _ = ran(capsys, "search", study, "--dry-run", *more, "--trials", 7, "--json")
    assert json.loads(out)["trials"] == 6


def test_a_quote_stores_nothing_and_says_ranges(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out, _ = ran(capsys, "search", study, "--run", tmp_path / "run", "--dry-run")
    assert " to " in next(line for line in out.splitlines() if line.startswith("wall time:"))
    assert not (tmp_path / "run").exists()


def test_ctrl_c_once_ends_in_good_order(
    study: Path, tmp_path: Path, judged: Any, capsys: pytest.CaptureFixture[str]
):
    judged(Judge(press_at=3))
    out, err = ran(capsys, "search", study, "--run", tmp_path / "run", "--json")
    assert json.loads(out)["ended"] == "interrupted"
    assert json.loads(out)["final"] == 2
    assert "finishing what is under way; press Ctrl-C again to stop now" in err


def test_ctrl_c_twice_stops_now_and_resume_makes_the_trial_again(
    study: Path, tmp_path: Path, judged: Any, capsys: pytest.CaptureFixture[str]
):
    judged(Judge(press_at=3, times=2))
    out, err = ran(capsys, "search", study, "--run", tmp_path / "run", "--json", code=130)
    assert json.loads(out)["under_way"] == [2]
    assert f"`paretune resume {tmp_path / 'run'}` makes trial 2 again" in err
    assert json.loads(ran(capsys, "front", tmp_path / "run", "--json")[0])["trials"]
    judged(rest := Judge())
    out, _ = ran(capsys, "resume", tmp_path / "run", "--trials", 5, "--json")
    assert json.loads(out)["final"] == 4
    assert rest.calls == 3
    out, _ = ran(capsys, "front", tmp_path / "run", "--json")
    assert all(trial["number"] <= 4 for trial in json.loads(out)["trials"])


def test_more_minutes_let_a_run_go_on(
    study: Path, tmp_path: Path, judged: Any, capsys: pytest.CaptureFixture[str]
):
    ran(capsys, "search", study, "--run", tmp_path / "run", "--set", "budget.minutes=1e-6")
    out, _ = ran(capsys, "resume", tmp_path / "run", "--minutes", 60, "--json")
    assert json.loads(out)["final"] == 3


def test_a_run_moves_to_another_database_and_goes_on_there(
    study: Path, tmp_path: Path, judged: Any, capsys: pytest.CaptureFixture[str]
):
    ran(capsys, "search", study, "--run", tmp_path / "run", "--quiet")
    url = f"sqlite:///{tmp_path / 'cluster.db'}"
    out, _ = ran(capsys, "resume", tmp_path / "run", "--storage", url, "--trials", 5, "--json")
    assert json.loads(out)["final"] == 4
    assert json.loads((tmp_path / "run/run.json").read_text())["storage"] == url
    assert json.loads(ran(capsys, "front", tmp_path / "run", "--json")[0])["trials"]


def test_a_search_that_came_to_nothing_ends_with_one_line_and_code_1(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def failing(configuration: Configuration, seed: int) -> dict[str, float]:
        raise ValueError("no such layer")

    monkeypatch.setattr(session, "start", partial(session.start, evaluate=failing))
    out, err = ran(capsys, "search", study, "--run", tmp_path / "run", "--quiet", code=1)
    assert out == ""
    assert err.count("\n") == 1
    assert "ValueError: no such layer" in err
    out, _ = ran(capsys, "status", tmp_path / "run")
    assert "crashed" in out


def test_the_front_is_the_same_in_json_in_csv_and_for_people(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    trials = json.loads(ran(capsys, "front", run, "--json")[0])["trials"]
    rows = list(csv.DictReader(io.StringIO(ran(capsys, "front", run, "--csv")[0])))
    text = ran(capsys, "front", run)[0].splitlines()[1:]
    numbers = sorted(trial["number"] for trial in trials)
    assert sorted(int(row["trial"]) for row in rows) == numbers
    assert sorted(int(line.split()[0]) for line in text) == numbers
    assert set(trials[0]) >= {"number", "configuration", "metrics", "on_front_probability", "knee"}


def test_the_front_can_be_taken_over_other_objectives(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    out, _ = ran(capsys, "front", run, "--objectives", "model_bytes", "--json")
    front = json.loads(out)
    assert front["objectives"] == ["model_bytes"]
    assert len(front["trials"]) == 1


def test_interactions_are_the_same_in_json_in_csv_and_for_people(
    study: Path, tmp_path: Path, judged: Any, capsys: pytest.CaptureFixture[str]
):
    run, rate = tmp_path / "run", "learning_rate: 1.0e-3"
    fixed = f"{{methods: [full, head], full: {{{rate}}}, head: {{{rate}}}}}"
    sets = [
        "--set",
        f"space.finetuning={fixed}",
        "--set",
        "space.precision.int8={embeddings: int8, head: fp32}",
    ]
    ran(capsys, "search", study, "--run", run, "--quiet", *sets)
    told = json.loads(ran(capsys, "interactions", run, "--metric", "model_bytes", "--json")[0])
    rows = ran(capsys, "interactions", run, "--metric", "model_bytes", "--csv")[0]
    (row,) = csv.DictReader(io.StringIO(rows))
    (pair,) = told["together"]
    assert (pair["a"], pair["b"]) == (row["a"], row["b"]) == ("finetuning.head", "precision.int8")
    assert float(row["interaction"]) == pair["interaction"]
    text, err = ran(capsys, "interactions", run)
    assert text.startswith("accuracy")
    assert "finetuning.head" in text
    assert err == ""


def test_interactions_of_a_metric_that_was_not_stored_are_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    _, err = ran(capsys, "interactions", run, "--metric", "model_byte", code=2)
    assert "did you mean 'model_bytes'" in err


def test_another_budget_selects_without_a_new_trial(run: Path, capsys: pytest.CaptureFixture[str]):
    out, _ = ran(capsys, "select", run, "--where", "model_bytes <= 1 MB", "--prefer", "accuracy")
    assert "is best at accuracy" in out
    assert "model_bytes <= 1 MB" in out


def test_the_study_file_of_init_is_accepted_by_search(
    study: Path,
    tiny_models: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    out = tmp_path / "mine.yaml"
    task = study.parent / "films.csv"
    said, err = ran(capsys, "init", "--task", task, "--model", tiny_models["bert"], "--out", out)
    assert said == ""
    assert f"paretune search {out}" in err
    assert "#" in out.read_text()
    quoted, _ = ran(capsys, "search", out, "--dry-run", "--json")
    assert json.loads(quoted)["trials"] == 39, "and the baseline"


@pytest.mark.parametrize(
    "name", ["films #1.csv", "yes", "hub:a: b", "12", ".5", ".inf", ".NaN", "a:"]
)
def test_names_that_yaml_would_misread_are_quoted_by_init(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
):
    out = tmp_path / "study.yaml"
    ran(capsys, "init", "--task", name, "--model", name, "--out", out)
    data = read_study_file(out).data
    assert (data["model"], data["task"]["name"]) == (name, name)


@pytest.mark.parametrize(
    ("name", "lines", "text", "label"),
    [
        ("a.csv", ["id,Review,stars", "1,a good film,5", "2,a bad film,1"], "Review", "stars"),
        ("a.tsv", ["text\tlabel", "good film\tpos"], "text", "label"),
        ("a.csv", ["mood,said", *["up,very good film", "down,a bad one"] * 3], "said", "mood"),
        ("a.jsonl", ['{"true": "a b c", "y": 1}', '{"true": "d e f", "y": 0}'], "true", "y"),
        ("a.csv", ["n,line", "1,once upon a time", "2,the end of it"], "line", None),
    ],
)
def test_init_finds_the_columns_of_a_table(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    lines: list[str],
    text: str,
    label: str | None,
):
    (tmp_path / name).write_text("\n".join(lines))
    out = tmp_path / "study.yaml"
    _, err = ran(capsys, "init", "--task", tmp_path / name, "--out", out)
    data = load_study(out)
    assert (data.task.text, data.task.label) == ((text,), label)
    assert data.objectives[0] == ("accuracy" if label else "bits_per_byte")
    assert f"text from column {text!r}" in err


def test_init_says_which_columns_a_table_has_where_none_is_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "a.csv").write_text("height,width\n1,2\n3,4\n")
    _, err = ran(capsys, "init", "--task", tmp_path / "a.csv", "--out", tmp_path / "b", code=2)
    assert "its columns: height, width" in err
    assert not (tmp_path / "b").exists()


def test_init_asks_for_perplexity_s_kin_where_the_data_is_plain_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    ran(capsys, "init", "--task", "book.txt", "--out", tmp_path / "study.yaml")
    assert read_study_file(tmp_path / "study.yaml").data["objectives"][0] == "bits_per_byte"


def test_the_schema_accepts_the_example_and_refuses_what_search_refuses(
    capsys: pytest.CaptureFixture[str],
):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(ran(capsys, "schema")[0])
    example = read_study_file(ROOT / "examples/quickstart.yaml").data
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    assert list(validator.iter_errors(example)) == []
    for wrong in ({"budgett": {}}, {"seed": "x"}, {"space": {"precission": {}}}):
        assert list(validator.iter_errors({**example, **wrong}))


def test_the_cache_is_shown_and_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from paretune.search.stages import StageCostFacts, StageStore

    def write(folder: Path) -> StageCostFacts:
        (folder / "weights").write_bytes(b"12345")
        return StageCostFacts(1.0)

    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path))
    StageStore(tmp_path).make("k" * 32, "train", write)
    shown = json.loads(ran(capsys, "cache", "--json")[0])
    assert shown["stages"] == 1
    assert shown["entries"] == [{"key": "k" * 32, "step": "train", "bytes": 5}]
    assert json.loads(ran(capsys, "cache", "--clear", "--json")[0])["removed"] == 1
    assert json.loads(ran(capsys, "cache", "--json")[0])["stages"] == 0


@pytest.mark.parametrize("arguments", [["serch"], ["search"], ["front", "--jason", "run"]], ids=str)
def test_a_command_that_cannot_be_parsed_ends_with_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
):
    out, err = ran(capsys, *arguments, code=2)
    assert out == ""
    assert "Usage" in err


# From here on models are made.


def shell(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "paretune", *(str(a) for a in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def made(study: Path, cache: Path) -> Iterator[tuple[Path, dict[str, Any], str]]:
    """A run whose trials were really made: its folder, what `search` printed, what it told."""
    folder = study.parent / "made"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETUNE_CACHE", str(cache))
        sets = ["--set", "fidelity.rungs=[0.5, 1.0]", "--set", "confirm.seeds=0"]
        done = shell("search", study, "--run", folder, "--json", *sets)
        yield folder, json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_a_search_makes_judges_and_confirms(made: tuple[Path, dict[str, Any], str]):
    folder, done, told = made
    assert done["trials"] == 3
    assert done["baseline"] == "final"
    assert done["final"] + done["paused"] == 3
    assert ", test split, seed 0, final: accuracy" in told
    files = {path.name for path in folder.iterdir()}
    assert files >= {"study.yaml", "study.db", "environment.json", "report.html", "log.jsonl"}
    assert "study.db-wal" not in files


@pytest.mark.slow
def test_what_was_made_is_on_the_front_with_figures_and_their_source(
    made: tuple[Path, dict[str, Any], str], capsys: pytest.CaptureFixture[str]
):
    front = json.loads(ran(capsys, "front", made[0], "--json")[0])
    figures = front["trials"][0]["metrics"]
    assert figures["accuracy"]["source"] == "measured"
    assert dict(figures["accuracy"]["conditions"])["split"] == "validation"
    assert figures["model_bytes"]["unit"] == "byte"
    status = json.loads(ran(capsys, "status", made[0], "--json")[0])
    assert set(status["confirmed"]) >= {trial["number"] for trial in front["trials"]}
    assert "Trial" in ran(capsys, "select", made[0])[0]


@pytest.mark.slow
def test_a_finished_run_that_is_resumed_makes_nothing_again(made: tuple[Path, dict[str, Any], str]):
    before = (made[0] / "log.jsonl").read_text().count('"told"')
    done = json.loads(shell("resume", made[0], "--json").stdout)
    assert done["trials"] == made[1]["trials"]
    assert (made[0] / "log.jsonl").read_text().count('"told"') == before


@pytest.mark.slow
def test_a_model_is_measured_without_a_search(
    study: Path, tiny_models: dict[str, Path], capsys: pytest.CaptureFixture[str]
):
    task = study.parent / "films.csv"
    more = ("--set", "task.max_length=16", "--set", "workload.prompt_tokens=16", "--json")
    out, _ = ran(capsys, "evaluate", tiny_models["bert"], "--task", task, *more)
    figures = json.loads(out)
    assert dict(figures["accuracy"]["conditions"])["split"] == "test"
    assert figures["peak_memory"]["value"] > 0
    assert figures["perplexity"]["reason"] == "the task models no language"


@pytest.mark.slow
@pytest.mark.parametrize(("times", "code"), [(1, 0), (2, 130)])
def test_ctrl_c_at_a_terminal(study: Path, tmp_path: Path, times: int, code: int):
    command = [sys.executable, "-m", "paretune", "search", str(study), "--run", str(tmp_path / "r")]
    with subprocess.Popen(
        [*command, "--json", "--set", "confirm.seeds=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as search:
        assert search.stderr is not None
        for line in search.stderr:
            if "trial 1 begins" in line:
                break
        # a terminal sends it to the whole group, workers too
        os.killpg(search.pid, signal.SIGINT)
        if times == 2:
            for line in search.stderr:
                if "press Ctrl-C again" in line:
                    break
            os.killpg(search.pid, signal.SIGINT)
        out, err = search.communicate()
    assert search.returncode == code, err
    assert json.loads(out)["ended"] == "interrupted"
    assert json.loads(out)["under_way"] == ([] if times == 1 else [1])
    assert json.loads(shell("front", tmp_path / "r", "--json").stdout)["trials"]
