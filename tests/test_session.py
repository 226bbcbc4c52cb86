"""A session from a study to a finished run, judged by a function so that no model is made."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import paretune
import pytest
from paretune.errors import BadRequest, RunError, StudyError, WorkFailed
from paretune.evaluators.energy import meters
from paretune.search.adjust import adjusted
from paretune.search.records import Ask, Record
from paretune.search.run import FORMAT, LOCAL_STORAGE, read_run, write_json
from paretune.search.session import go_on, start
from paretune.search.storage import StudyStorage, connect
from paretune.search.study import Study, load_study
from paretune.spaces.configuration import Configuration

ALL = "all of the budget was begun: 4 trials and the baseline"

Judge = Callable[[Configuration, int], Mapping[str, float]]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache for all of this file: the task is encoded once."""
    root = tmp_path_factory.getbasetemp() / "session-cache"
    monkeypatch.setenv("PARETUNE_CACHE", str(root))


@pytest.fixture
def study(tiny_models: dict[str, Path], films: Path) -> dict[str, Any]:
    """A study of five trials, the baseline among them."""
    return {
        "model": str(tiny_models["bert"]),
        "task": {"name": str(films), "max_length": 16},
        "workload": {"prompt_tokens": 16},
        "objectives": ["accuracy", "model_bytes"],
        "space": {
            "finetuning": {"methods": ["full", "head", "lora"]},
            "precision": {"methods": ["fp32", "int8"]},
        },
        "budget": {"trials": 5},
        "sampler": "random",
    }


def judge(configuration: Configuration, seed: int) -> dict[str, float]:
    """Figures that depend on the configuration alone."""
    number = int(configuration.digest[:4], 16)
    return {"accuracy": 0.5 + number / 2**18, "model_bytes": 1e5 + number}


class Interrupting:
    """A judge during whose n-th call Ctrl-C is pressed, once or twice."""

    def __init__(self, call: int, times: int = 1) -> None:
        self.left, self.times, self.asked = call, times, list[str]()

    def __call__(self, configuration: Configuration, seed: int) -> dict[str, float]:
        self.asked.append(configuration.digest)
        self.left -= 1
        if self.left == 0:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)
        return judge(configuration, seed)


def searched(study: Mapping[str, Any], folder: Path, evaluate: Judge = judge) -> dict[str, Any]:
    return start(Study.from_dict(study), folder, quiet=True, evaluate=evaluate)


def test_a_finished_run_holds_what_a_reader_needs(study: dict[str, Any], tmp_path: Path):
    done = searched(study, tmp_path / "run")
    assert (done["trials"], done["final"], done["baseline"]) == (4, 4, "final")
    assert done["ended"] == ALL
    assert done["under_way"] == []
    run = read_run(tmp_path / "run")
    assert [record.number for record in run.records] == [1, 2, 3, 4]
    assert run.baseline is not None
    assert run.baseline.value("accuracy") == judge(run.baseline.configuration, 0)["accuracy"]
    assert load_study(tmp_path / "run/study.yaml") == Study.from_dict(study)
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert environment
    events = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    told = [event.get("number", 0) for event in events if event["kind"] == "told"]
    assert told == [0, 1, 2, 3, 4]
    assert events[-1]["text"] == done["ended"]


def test_a_run_says_how_it_stands(study: dict[str, Any], tmp_path: Path):
    standing: list[str] = []

    def looking(configuration: Configuration, seed: int) -> dict[str, float]:
        standing.append(read_run(tmp_path / "run").standing)
        return judge(configuration, seed)

    searched(study, tmp_path / "run", Interrupting(call=2))
    assert read_run(tmp_path / "run").standing == "stopped"
    searched(study, tmp_path / "run", looking)
    assert set(standing) == {"under way"}
    assert read_run(tmp_path / "run").standing == f"ended: {ALL}"


def test_every_metric_of_a_run_says_what_it_means(study: dict[str, Any], tmp_path: Path):
    searched(study, tmp_path / "run")
    about = read_run(tmp_path / "run").metrics["accuracy"]
    assert set(about) == {"unit", "direction", "resource", "definition", "source"}


def test_the_package_can_be_called(study: dict[str, Any], tmp_path: Path):
    run = paretune.search(study, tmp_path / "run", evaluate=judge)
    assert len(run.records) == 4
    again = paretune.search(tmp_path / "run/study.yaml", tmp_path / "run", evaluate=judge)
    assert again.records == run.records


def test_paths_of_a_study_in_python_are_those_of_its_file(
    study: dict[str, Any], films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(study["model"], tmp_path / "model")
    shutil.copy(films, tmp_path / "films.csv")
    here = {**study, "model": "model", "task": {**study["task"], "name": "films.csv"}}
    monkeypatch.chdir(tmp_path)
    first = paretune.search(here, "run", evaluate=judge)
    paretune.search(Study.from_dict(here), "run", evaluate=judge)
    monkeypatch.chdir("/")
    again = paretune.search(tmp_path / "run/study.yaml", tmp_path / "run", evaluate=judge)
    assert again.records == first.records


def test_the_same_study_goes_on_where_its_run_stopped(study: dict[str, Any], tmp_path: Path):
    first = Interrupting(3)
    searched(study, tmp_path / "run", first)
    rest = Interrupting(99)
    done = searched(study, tmp_path / "run", rest)
    assert done["final"] == 4
    assert [r.number for r in read_run(tmp_path / "run").records] == [1, 2, 3, 4]
    assert not set(first.asked) & set(rest.asked)


def test_stopped_and_resumed_is_the_same_search(study: dict[str, Any], tmp_path: Path):
    searched(study, tmp_path / "whole")
    searched(study, tmp_path / "halves", Interrupting(2))
    searched(study, tmp_path / "halves")

    def tried(folder: Path) -> list[str]:
        return [record.configuration.digest for record in read_run(folder).records]

    assert tried(tmp_path / "halves") == tried(tmp_path / "whole")


def test_ctrl_c_once_finishes_the_trial_and_leaves_a_readable_run(
    study: dict[str, Any], tmp_path: Path
):
    done = searched(study, tmp_path / "run", Interrupting(3))
    assert done["ended"] == "interrupted"
    assert done["under_way"] == []
    run = read_run(tmp_path / "run")
    assert [record.state for record in run.records] == ["final", "final"]


def test_ctrl_c_twice_stops_now_and_nothing_stored_is_lost(study: dict[str, Any], tmp_path: Path):
    broken = Interrupting(3, times=2)
    done = searched(study, tmp_path / "run", broken)
    assert done["under_way"] == [2]
    run = read_run(tmp_path / "run")
    assert [record.state for record in run.records] == ["final", "running"]
    rest = Interrupting(99)
    assert searched(study, tmp_path / "run", rest)["final"] == 4
    assert rest.asked[0] == broken.asked[-1]


def test_ctrl_c_during_the_baseline_leaves_a_run_that_can_go_on(
    study: dict[str, Any], tmp_path: Path
):
    done = searched(study, tmp_path / "run", Interrupting(1, times=2))
    assert (done["trials"], done["under_way"]) == (0, [0])
    assert read_run(tmp_path / "run").baseline is None
    assert searched(study, tmp_path / "run")["baseline"] == "final"


def test_a_larger_budget_adds_trials_and_repeats_none(study: dict[str, Any], tmp_path: Path):
    calls = Interrupting(99)
    searched(study, tmp_path / "run", calls)
    larger = {**study, "budget": {"trials": 8}}
    searched(larger, tmp_path / "run", calls)
    assert [record.number for record in read_run(tmp_path / "run").records] == list(range(1, 8))
    assert len(set(calls.asked[1:])) == len(calls.asked) - 1


def test_minutes_count_across_resumes(study: dict[str, Any], tmp_path: Path):
    searched(study, tmp_path / "run", Interrupting(2))
    spent = read_run(tmp_path / "run").bill["hours"]["value"] * 60
    assert spent > 0
    less = {**study, "budget": {"minutes": spent / 2}}
    done = searched(less, tmp_path / "run")
    assert done["ended"].startswith("the budget of")
    assert done["trials"] == 1


def test_a_run_of_another_study_is_refused_and_left_alone(study: dict[str, Any], tmp_path: Path):
    searched(study, tmp_path / "run")
    before = (tmp_path / "run/study.yaml").read_text()
    with pytest.raises(RunError, match="seed: 0 there, 1 here"):
        searched({**study, "seed": 1}, tmp_path / "run")
    assert (tmp_path / "run/study.yaml").read_text() == before
    assert len(read_run(tmp_path / "run").records) == 4


def test_a_function_s_figures_and_made_models_are_not_mixed(study: dict[str, Any], tmp_path: Path):
    searched(study, tmp_path / "run")
    with pytest.raises(RunError, match="was judged by a function"):
        go_on(tmp_path / "run", trials=6, quiet=True)


def test_a_run_that_is_not_there_cannot_be_resumed(tmp_path: Path):
    with pytest.raises(RunError, match=r"no run\.json"):
        go_on(tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())


def test_a_baseline_that_failed_ends_a_search_whose_limits_lean_on_it(
    study: dict[str, Any], tmp_path: Path
):
    def failing(configuration: Configuration, seed: int) -> dict[str, float]:
        raise ValueError("no such layer")

    limited = {**study, "constraints": ["accuracy >= 0.9 * baseline"]}
    with pytest.raises(WorkFailed, match=r"the baseline failed .*ValueError: no such layer;"):
        searched(limited, tmp_path / "run", failing)
    assert read_run(tmp_path / "run").baseline is not None


def test_a_search_of_nothing_but_failures_says_the_first_one(study: dict[str, Any], tmp_path: Path):
    def failing(configuration: Configuration, seed: int) -> dict[str, float]:
        return {"accuracy": 0.5}

    with pytest.raises(WorkFailed, match=r"no trial succeeded; .* \(illegal\)") as said:
        searched(study, tmp_path / "run", failing)
    assert "evaluate returned no 'model_bytes'" in str(said.value)
    assert "\n" not in str(said.value)
    failures = [record.failure for record in read_run(tmp_path / "run").records]
    assert len(failures) == 4
    assert all(failures)


def test_a_baseline_that_failed_does_not_end_a_search_that_needs_none(
    study: dict[str, Any], tmp_path: Path
):
    calls = list[str]()

    def first_fails(configuration: Configuration, seed: int) -> Mapping[str, float]:
        calls.append(configuration.digest)
        return judge(configuration, seed) if len(calls) > 1 else {}

    done = searched(study, tmp_path / "run", first_fails)
    assert (done["baseline"], done["final"]) == ("failed", 4)


def test_a_run_that_died_before_it_began_is_given_to_search_again(
    study: dict[str, Any], tmp_path: Path
):
    run = tmp_path / "run"
    run.mkdir()
    name = Path(study["model"]).name
    write_json(run / "run.json", {"format": FORMAT, "name": name, "storage": LOCAL_STORAGE})
    connect(run, LOCAL_STORAGE)
    for look in (go_on, read_run):
        with pytest.raises(RunError, match="died before it began; give its study to `paretune"):
            look(run)
    assert searched(study, run)["final"] == 4


def test_a_sampler_with_one_fidelity_switches_rungs_off_and_says_so(
    study: dict[str, Any], tmp_path: Path
):
    searched({**study, "fidelity": {"rungs": [0.5, 1.0]}}, tmp_path / "run")
    assert load_study(tmp_path / "run/study.yaml").fidelity.rungs == (1.0,)
    assert "random knows one fidelity: rungs are off" in (tmp_path / "run/log.jsonl").read_text()


def test_an_objective_that_says_nothing_of_its_own_is_reported_and_not_searched(
    study: dict[str, Any],
):
    written = Study.from_dict({**study, "objectives": ["accuracy", "carbon", "energy"]})
    found, words = adjusted(written, judged=False)
    assert found.objectives == ("accuracy", "carbon")
    assert words == ["energy is a fixed multiple of carbon here: it is reported, and not searched"]
    assert adjusted(written, judged=True) == (written, [])


@pytest.mark.parametrize(("threads", "searched_for"), [(1, 2), (2, 3)])
def test_modelled_energy_follows_latency_on_one_thread_alone(
    study: dict[str, Any], threads: int, searched_for: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(meters, "rapl_domains", lambda folder: ())
    more = {"workload": {"threads": threads}, "settings": {"device": "server-cpu-thread"}}
    names = ["accuracy", "latency_p50", "energy"]
    written = Study.from_dict({**study, **more, "objectives": names})
    assert adjusted(written, judged=False)[0].objectives == tuple(names[:searched_for])


def test_custom_metrics_are_searched_with_a_function(study: dict[str, Any], tmp_path: Path):
    own = {
        **study,
        "objectives": ["charm", "model_bytes"],
        "custom_metrics": {"charm": {"direction": "maximize"}},
    }
    run = paretune.search(
        own, tmp_path / "run", evaluate=lambda c, s: {"charm": 1.0, **judge(c, s)}
    )
    assert run.metrics["charm"]["direction"] == "maximize"
    assert all(record.value("charm") == 1.0 for record in run.records)


def test_paper_tells_nothing_of_what_a_function_judges(study: dict[str, Any], tmp_path: Path):
    from paretune.search.rules import Knowledge
    from paretune.search.session import header_of, load_material
    from paretune.spaces.space import Space

    own = {
        **study,
        "objectives": ["accuracy", "parameters"],
        "constraints": ["model_bytes <= 1 kB"],
        "sampler": "greybox",
    }
    small = {"parameters": 3.0, "model_bytes": 10.0}
    assert searched(own, tmp_path / "run", lambda c, s: {**judge(c, s), **small})["final"] == 4
    made = Study.from_dict(own)
    material = load_material(made, tmp_path)
    space = Space.of(made.space, material.subject.paper)
    with closing(StudyStorage.open(tmp_path / "run", header_of(made))) as storage:
        on_paper = Knowledge(made, material, space, storage)
        judged = Knowledge(made, material, space, storage, judged=True)
        assert list(on_paper.problem().known) == [1]
        assert not judged.problem().known
        drawn = [c for c in space.sample(20) if not judged.lookup.objections(c)]
        assert drawn
        assert all(on_paper.refusals(c) and not judged.refusals(c) for c in drawn)


def test_a_run_without_a_finished_trial_has_an_empty_front(study: dict[str, Any], tmp_path: Path):
    from paretune.reports.tables import front_json, status

    searched(study, tmp_path / "run", Interrupting(1, times=2))
    run = read_run(tmp_path / "run")
    assert front_json(run)["trials"] == []
    assert status(run)["front"] == []


class Repeats:
    """Storage, study and judgement of a finished search, as `confirmations` wants them."""

    def __init__(self, storage: StudyStorage, study: Study) -> None:
        self.storage, self.study = storage, study

    def violations(self, record: Record) -> Mapping[str, float]:
        return {}

    def losses(self, record: Record) -> list[float] | None:
        from paretune.search.front import losses_of

        return losses_of(record, self.study.objective_rows())


@pytest.fixture
def finished(study: dict[str, Any], tmp_path: Path) -> Iterator[Repeats]:
    """A search that has ended, opened again."""
    from paretune.search.session import header_of

    searched(study, tmp_path / "run")
    made = Study.from_dict(study)
    storage = StudyStorage.open(tmp_path / "run", header_of(made))
    yield Repeats(storage, made)
    storage.close()


def test_the_front_and_the_baseline_are_confirmed_once_and_the_choice_under_a_new_seed(
    finished: Repeats,
):
    from paretune.search.confirm import Confirmer, confirmations, further_seeds
    from paretune.search.driver import Done

    wanted = confirmations(finished)  # type: ignore[arg-type]
    assert (0, 0) in wanted
    assert {seed for _, seed in wanted} == {0}
    assert len(wanted) == len(set(wanted))
    further = further_seeds(finished)  # type: ignore[arg-type]
    assert [seed for _, seed in further] == [1]
    confirmer = Confirmer(finished.storage, wanted, 0, lambda: further)
    made = []
    while isinstance(ask := confirmer.next(), Ask):
        made.append((ask.number, ask.seed))
        assert ask.purpose == "confirm"
        prior = confirmer.prior(ask)
        assert prior is not None
        confirmer.tell(prior)
    assert made == [*wanted, *further]
    again = Confirmer(finished.storage, confirmations(finished), 0)  # type: ignore[arg-type]
    assert isinstance(again.next(), Done)


def test_a_baseline_that_failed_is_not_confirmed(study: dict[str, Any], tmp_path: Path):
    from paretune.search.confirm import confirmations
    from paretune.search.session import header_of

    def first_fails(configuration: Configuration, seed: int) -> Mapping[str, float]:
        fails = configuration.get("precision") is None
        return {} if fails else judge(configuration, seed)

    searched(study, tmp_path / "run", first_fails)
    made = Study.from_dict(study)
    storage = StudyStorage.open(tmp_path / "run", header_of(made))
    wanted = confirmations(Repeats(storage, made))  # type: ignore[arg-type]
    storage.close()
    assert wanted
    assert 0 not in [number for number, _ in wanted]


def test_an_objective_that_the_task_cannot_have_is_refused_before_anything_is_stored(
    study: dict[str, Any], tmp_path: Path
):
    wrong = Study.from_dict({**study, "objectives": ["perplexity", "model_bytes"]})
    with pytest.raises(StudyError, match=r"perplexity cannot be searched for .*models no language"):
        start(wrong, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def own_films(study: dict[str, Any], films: Path, tmp_path: Path) -> Path:
    """Data that a test may change."""
    path = tmp_path / "own.csv"
    path.write_text(films.read_text())
    study["task"]["name"] = str(path)
    return path


def test_a_run_whose_data_changed_is_refused(
    study: dict[str, Any], own_films: Path, tmp_path: Path
):
    searched(study, tmp_path / "run", Interrupting(2))
    own_films.write_text(own_films.read_text().replace("the film", "this film"))
    with pytest.raises(
        RunError, match=r"own\.csv \(calibration, test, train, validation\) changed"
    ):
        searched(study, tmp_path / "run")
    assert len(read_run(tmp_path / "run").records) == 1


def test_a_run_whose_model_changed_is_refused(
    study: dict[str, Any], tiny_models: dict[str, Path], tmp_path: Path
):
    study["model"] = str(shutil.copytree(tiny_models["bert"], tmp_path / "model"))
    searched(study, tmp_path / "run", Interrupting(2))
    file = tmp_path / "model/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "hidden_dropout_prob": 0.123}))
    with pytest.raises(RunError, match=r"the model \S+ changed since"):
        searched(study, tmp_path / "run")


def test_other_library_versions_are_said_and_the_run_goes_on(
    study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from paretune.search import subject

    searched(study, tmp_path / "run", Interrupting(2))
    monkeypatch.setattr(subject, "_version", lambda name: "0.0")
    assert searched(study, tmp_path / "run")["final"] == 4
    log = (tmp_path / "run/log.jsonl").read_text()
    assert "here is torch" not in log
    assert "here is 0.0: figures may differ" in log


def test_workers_are_told_the_whole_way_to_the_run(
    study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from paretune.search import session
    from paretune.search.driver import Done
    from paretune.search.trial import TrialWork

    works = []

    def run(source: object, work: TrialWork, *_: object, here: bool) -> Done:
        works.append(work.run)
        return session.INTERRUPTED

    monkeypatch.setattr(session, "_run", run)
    monkeypatch.chdir(tmp_path)
    start(Study.from_dict(study), Path("run"), quiet=True)
    assert works == [tmp_path / "run"]


def test_a_cluster_without_ray_is_refused_before_anything_is_stored(
    study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "ray", None)
    wanted = Study.from_dict({**study, "engine": {"kind": "ray"}})
    with pytest.raises(BadRequest, match=r"pip install paretune\[ray\]"):
        start(wanted, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("figure", [float("nan"), float("inf")])
def test_a_figure_that_is_not_finite_is_a_failure_that_lasts(
    study: dict[str, Any], tmp_path: Path, figure: float
):
    def odd(configuration: Configuration, seed: int) -> dict[str, float]:
        return {**judge(configuration, seed), "accuracy": figure}

    with pytest.raises(WorkFailed, match=r"\(diverged\): evaluate returned (nan|inf) as"):
        searched(study, tmp_path / "run", odd)
    assert {record.attempts for record in read_run(tmp_path / "run").records} == {1}


@pytest.mark.parametrize(
    "space",
    [
        {"precision": {"methods": ["fp32", "int8"]}},
        {"finetuning": {"methods": ["full", "head"]}},
        {"finetuning": {"methods": ["full", "head", "lora"]}},
    ],
)
def test_the_driver_and_the_sampler_agree_on_the_initial_design(
    study: dict[str, Any], tmp_path: Path, space: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    from paretune.search import session
    from paretune.search.rules import initial_trials
    from paretune.search.samplers.candidates import Candidates
    from paretune.spaces.space import Space

    asked = set[int]()
    found = Candidates.stratified

    def stratified(self: Candidates, seen: Any, initial: int, *more: Any) -> Any:
        asked.add(initial)
        return found(self, seen, initial, *more)

    monkeypatch.setattr(Candidates, "stratified", stratified)
    made = {**study, "sampler": "greybox", "space": space, "budget": {"trials": 3}}
    searched(made, tmp_path / "run")
    material = session.load_material(Study.from_dict(made), tmp_path)
    assert asked == {initial_trials(Space.of(space, material.subject.paper))}
    assert read_run(tmp_path / "run").reference is not None


def test_the_rent_that_a_study_names_is_the_whole_instances(study: dict[str, Any]):
    from paretune.search.rules import tariff

    named = tariff(Study.from_dict({**study, "settings": {"usd_per_hour": 3.0}}))
    assert named.instance_per_hour == 3.0
    assert tariff(Study.from_dict(study)).instance_per_hour is None
