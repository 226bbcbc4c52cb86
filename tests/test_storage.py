import errno
import json
import os
import sqlite3
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from paretune.errors import BadRequest, RunError, StorageFailed
from paretune.search import run as run_module
from paretune.search.driver import Driver
from paretune.search.engines.local import run_here
from paretune.search.lease import STALE_SECONDS
from paretune.search.records import Record
from paretune.search.run import FORMAT, read_run, run_id
from paretune.search.storage import StudyStorage, differences, move

HERE = Path(__file__).parent


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    import search_cases

    return search_cases


def database(folder):
    return sqlite3.connect(folder / "study.db")


def test_a_finished_run_reads_back_as_it_was_stored(toy, tmp_path):
    _, records = toy.finish(tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert [toy.plain(r) for r in (run.baseline, *run.records)] == records
    assert [row.name for row in run.objectives] == ["error", "bytes"]
    assert run.bill["worker_hours"]["value"] > 0


def test_a_fresh_snapshot_is_read_without_optuna_or_torch(toy, tmp_path):
    toy.finish(tmp_path / "run")
    script = (
        "import sys; from pathlib import Path; from paretune.search.run import read_run; "
        f"run = read_run(Path({str(tmp_path / 'run')!r})); "
        "print(len(run.records), sorted({'optuna', 'torch', 'sqlalchemy'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["7", "[]"]


def test_a_lost_snapshot_is_made_again(toy, tmp_path):
    toy.finish(tmp_path / "run")
    before = read_run(tmp_path / "run")
    (tmp_path / "run" / "snapshot.json").unlink()
    assert read_run(tmp_path / "run") == before
    assert (tmp_path / "run" / "snapshot.json").is_file()


def test_a_run_that_goes_on_is_read_up_to_its_last_record(toy, tmp_path):
    storage = StudyStorage.open(tmp_path / "run", toy.header())
    driver = Driver(storage, toy.rules())
    for number in range(3):
        ask = driver.next()
        driver.tell(toy.work(ask, driver.prior(ask), lambda *_: None))
        run = read_run(tmp_path / "run")
        assert run.baseline is not None
        assert len(run.records) == number
    storage.close()


def test_the_driver_leaves_one_plain_file(toy, tmp_path):
    toy.finish(tmp_path / "run")
    assert {p.name for p in (tmp_path / "run").iterdir() if p.name.startswith("study")} == {
        "study.db"
    }
    with database(tmp_path / "run") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_optuna_sees_values_in_the_users_directions_and_scalars(toy, tmp_path):
    _, records = toy.finish(tmp_path / "run")
    study = optuna.load_study(
        study_name="toy", storage=f"sqlite:///{tmp_path / 'run' / 'study.db'}"
    )
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 8
    assert study.trials[0].params == {}
    for trial, record in zip(study.trials, records, strict=True):
        assert trial.values == [trial.user_attrs["error"], trial.user_attrs["bytes"]]
        assert trial.user_attrs["record"]["configuration"] == record["configuration"]
        assert not trial.intermediate_values


def test_a_failure_is_told_without_values_and_keeps_its_reason(toy, tmp_path):
    rules = toy.rules(budget=toy.Budget(trials=2))

    def work(ask, prior, report):
        record = toy.work(ask, prior, report)
        return record if ask.number == 0 else toy.failed(record, "diverged")

    toy.finish(tmp_path / "run", rules, work)
    study = optuna.load_study(
        study_name="toy", storage=f"sqlite:///{tmp_path / 'run' / 'study.db'}"
    )
    assert study.trials[1].state.name == "FAIL"
    assert study.trials[1].values is None
    assert study.trials[1].user_attrs["failure"] == "diverged"


def test_a_final_record_without_an_objectives_figure_is_no_complete_trial(toy, tmp_path):
    storage = StudyStorage.open(tmp_path / "run", toy.header())
    record = Record(0, toy.BASELINE, "running", purpose="baseline")
    storage.add(record)
    storage.finish(record.with_state("final"), {})
    storage.close()
    run = read_run(tmp_path / "run")
    assert run.baseline is not None
    assert run.baseline.state == "final"
    study = optuna.load_study(
        study_name="toy", storage=f"sqlite:///{tmp_path / 'run' / 'study.db'}"
    )
    assert study.trials[0].state.name == "FAIL"


def test_broken_limits_are_told_as_constraints(toy, tmp_path):
    rules = toy.rules(violations=lambda record: {"bytes <= 9 kB": record.value("bytes") - 9000})
    toy.finish(tmp_path / "run", rules)
    study = optuna.load_study(
        study_name="toy", storage=f"sqlite:///{tmp_path / 'run' / 'study.db'}"
    )
    for trial in study.trials:
        assert trial.constraints == {"bytes <= 9 kB": trial.user_attrs["bytes"] - 9000}


def test_a_second_driver_is_refused(toy, tmp_path):
    storage = StudyStorage.open(tmp_path / "run", toy.header())
    with pytest.raises(RunError, match=f"held by process {os.getpid()}"):
        StudyStorage.open(tmp_path / "run", toy.header())
    storage.close()
    StudyStorage.open(tmp_path / "run", toy.header()).close()


def test_a_driver_of_another_process_is_refused(toy, tmp_path):
    storage = StudyStorage.open(tmp_path / "run", toy.header())
    script = (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); import search_cases;"
        "from pathlib import Path;"
        "from paretune.search.storage import StudyStorage;"
        f"StudyStorage.open(Path({str(tmp_path / 'run')!r}), search_cases.header())"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    storage.close()
    assert out.returncode != 0
    assert "RunError: this run is held by process" in out.stderr


def held_by(folder, **owner):
    with database(folder) as connection:
        found = connection.execute("SELECT value_json FROM study_user_attributes WHERE key='lease'")
        lease = json.loads(found.fetchone()[0])
        lease["owner"] = {"host": os.uname().nodename, "pid": 1, "born": 0.0, **owner}
        update = "UPDATE study_user_attributes SET value_json=? WHERE key='lease'"
        connection.execute(update, (json.dumps(lease),))


def test_the_lease_of_a_dead_process_is_taken_over(toy, tmp_path):
    toy.finish(tmp_path / "run")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    held_by(tmp_path / "run", pid=gone.pid)
    StudyStorage.open(tmp_path / "run", toy.header()).close()


def test_the_lease_of_a_process_whose_number_was_given_away_is_taken_over(toy, tmp_path):
    toy.finish(tmp_path / "run")
    held_by(tmp_path / "run", pid=os.getpid(), born=12.0)
    StudyStorage.open(tmp_path / "run", toy.header()).close()


def test_a_driver_on_another_host_holds_until_it_is_silent_for_long(toy, tmp_path):
    toy.finish(tmp_path / "run")
    held_by(tmp_path / "run", host="elsewhere")
    with pytest.raises(RunError, match="elsewhere"):
        StudyStorage.open(tmp_path / "run", toy.header())
    from time import time

    later = time() + STALE_SECONDS + 1
    StudyStorage.open(tmp_path / "run", toy.header(), clock=lambda: later).close()


def test_a_driver_that_was_taken_over_stops(toy, tmp_path):
    now = [0.0]
    storage = StudyStorage.open(tmp_path / "run", toy.header(), clock=lambda: now[0])
    held_by(tmp_path / "run", host="elsewhere")
    now[0] = 100.0
    with pytest.raises(RunError, match="taken this run over"):
        storage.beat()


def test_time_is_counted_over_drivers_and_not_between_them(toy, tmp_path):
    now = [1000.0]
    storage = StudyStorage.open(tmp_path / "run", toy.header(), clock=lambda: now[0])
    now[0] += 60
    storage.close()
    now[0] += 5000
    storage = StudyStorage.open(tmp_path / "run", toy.header(), clock=lambda: now[0])
    now[0] += 30
    assert storage.spent_seconds() == 90
    storage.close()
    assert read_run(tmp_path / "run").bill["hours"]["value"] == 90 / 3600


def test_another_study_in_the_folder_is_refused_and_the_difference_named(toy, tmp_path):
    toy.finish(tmp_path / "run")
    with pytest.raises(RunError, match=r"study\.seed: 0 there, 1 here"):
        StudyStorage.open(tmp_path / "run", toy.header(seed=1))


def test_a_resume_may_change_the_budget(toy, tmp_path):
    toy.finish(tmp_path / "run")
    StudyStorage.open(tmp_path / "run", toy.header(budget={"trials": 99})).close()


def test_differences_name_the_innermost_path():
    there = {"a": {"b": 1, "c": [1]}, "d": 2}
    here = {"a": {"b": 1, "c": [2]}, "e": 3}
    assert differences(there, here) == [
        "a.c: [1] there, [2] here",
        "d: 2 there, None here",
        "e: None there, 3 here",
    ]


def test_a_folder_without_a_run_says_so(tmp_path):
    with pytest.raises(RunError, match=r"no run\.json"):
        read_run(tmp_path)


def test_another_format_is_refused(toy, tmp_path):
    toy.finish(tmp_path / "run")
    about = tmp_path / "run" / "run.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "format": 99}))
    with pytest.raises(RunError, match="format 99"):
        read_run(tmp_path / "run")


def test_a_run_has_a_name_of_its_own_that_stays_when_its_study_moves(toy, tmp_path):
    for name in ("run", "other"):
        toy.finish(tmp_path / name)
    mine = run_id(tmp_path / "run")
    assert mine != run_id(tmp_path / "other")
    move(tmp_path / "run", f"sqlite:///{tmp_path / 'elsewhere.db'}")
    assert run_id(tmp_path / "run") == mine


def test_a_full_disk_says_what_to_do_and_keeps_what_was_stored(toy, tmp_path, monkeypatch):
    storage = StudyStorage.open(tmp_path / "run", toy.header())
    driver = Driver(storage, toy.rules())
    ask = driver.next()
    driver.tell(toy.work(ask, driver.prior(ask), lambda *_: None))
    with monkeypatch.context() as patch:
        full = sqlite3.OperationalError("database or disk is full")
        patch.setattr("time.sleep", lambda seconds: None)
        patch.setattr(
            "sqlalchemy.engine.default.DefaultDialect.do_commit",
            lambda *_: (_ for _ in ()).throw(full),
        )
        with pytest.raises(StorageFailed, match=r"disk is full.*free some space.*paretune resume"):
            driver.next()
    storage.close()
    done, records = toy.finish(tmp_path / "run")
    assert "7 trials and the baseline" in done.reason
    assert len(records) == 8


def test_a_read_only_folder_can_still_be_read(toy, tmp_path, monkeypatch):
    toy.finish(tmp_path / "run")
    (tmp_path / "run" / "snapshot.json").unlink()

    def refuse(path, data):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(run_module, "write_json", refuse)
    assert len(read_run(tmp_path / "run").records) == 7


def test_a_snapshot_that_does_not_fit_the_disk_is_an_error(toy, tmp_path, monkeypatch):
    toy.finish(tmp_path / "run")
    (tmp_path / "run" / "snapshot.json").unlink()

    def refuse(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_module, "write_json", refuse)
    with pytest.raises(StorageFailed, match="No space left"):
        read_run(tmp_path / "run")


def test_a_run_may_lie_in_another_database_and_be_found_there(toy, tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    storage = StudyStorage.open(tmp_path / "run", toy.header(), url)
    run_here(Driver(storage, toy.rules()), toy.work)
    storage.close()
    assert not (tmp_path / "run" / "study.db").exists()
    assert len(read_run(tmp_path / "run").records) == 7
    done, _ = toy.finish(tmp_path / "run")
    assert "7 trials and the baseline" in done.reason
    with pytest.raises(RunError, match="move it"):
        StudyStorage.open(tmp_path / "run", toy.header(), "sqlite:///elsewhere.db")


def test_a_run_moves_to_another_database_and_goes_on_there(toy, tmp_path):
    _, records = toy.finish(tmp_path / "run", toy.rules(budget=toy.Budget(trials=4)))
    move(tmp_path / "run", f"sqlite:///{tmp_path / 'shared.db'}")
    (tmp_path / "run" / "study.db").unlink()
    _, after = toy.finish(tmp_path / "run")
    assert after[:4] == records
    _, whole = toy.finish(tmp_path / "other")
    assert after == whole


def test_confirmations_stand_beside_the_trial(toy, tmp_path):
    toy.finish(tmp_path / "run")
    storage = StudyStorage.open(tmp_path / "run", toy.header())
    repeat = replace(storage.records[2], purpose="confirm", seed=1)
    storage.confirm(repeat)
    storage.confirm(replace(repeat, seed=2))
    storage.close()
    run = read_run(tmp_path / "run")
    assert [r.seed for r in run.confirmations[2]] == [1, 2]
    assert next(r for r in run.records if r.number == 2).seed == 0


def test_only_the_last_draft_can_be_taken_back(toy, tmp_path):
    storage = StudyStorage.open(tmp_path / "run", toy.header())
    first = storage.draw(toy.suggest, toy.sampler(1))
    storage.discard(first)
    again = storage.draw(toy.suggest, toy.sampler(1))
    assert again == first
    storage.admit(Record(0, again.configuration, "running"))
    storage.draw(toy.suggest, toy.sampler(2))
    with pytest.raises(ValueError, match="only the last"):
        storage.discard(first)
    storage.close()


@pytest.mark.slow
def test_optuna_dashboard_opens_the_study(toy, tmp_path):
    """Its own interface answers about every trial, with nothing of ours loaded."""
    from io import BytesIO

    toy.finish(tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the dashboard's own
        from optuna_dashboard import wsgi

        app = wsgi(optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'run' / 'study.db'}"))

        def get(path):
            status = []
            environ = {
                "REQUEST_METHOD": "GET", "PATH_INFO": path, "SERVER_NAME": "localhost",
                "SERVER_PORT": "80", "wsgi.url_scheme": "http", "wsgi.input": BytesIO(),
                "QUERY_STRING": "", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.errors": sys.stderr,
            }  # fmt: skip
            body = b"".join(app(environ, lambda code, headers, *_: status.append(code)))
            assert status == ["200 OK"]
            return json.loads(body)

        studies = get("/api/studies")["study_summaries"]
        study = get(f"/api/studies/{studies[0]['study_id']}")
    assert [s["study_name"] for s in studies] == ["toy"]
    assert len(study["trials"]) == 8
    assert len(study["best_trials"]) >= 1


def test_a_resume_shows_the_budget_that_it_was_given(toy, tmp_path):
    toy.finish(tmp_path / "run")
    toy.finish(tmp_path / "run", budget={"trials": 9})
    assert read_run(tmp_path / "run").study["budget"] == {"trials": 9}


def test_a_driver_that_is_refused_leaves_the_header_alone(toy, tmp_path):
    storage = StudyStorage.open(tmp_path / "run", toy.header())
    with pytest.raises(RunError, match="held by"):
        StudyStorage.open(tmp_path / "run", toy.header(budget={"trials": 9}))
    storage.close()
    assert read_run(tmp_path / "run").study["budget"] == {"trials": 8}


@pytest.mark.parametrize("text", ["", "{", "[1]", f'{{"format": {FORMAT}}}'])
def test_a_damaged_run_file_is_named(toy, tmp_path, text):
    toy.finish(tmp_path / "run")
    (tmp_path / "run/run.json").write_text(text)
    with pytest.raises(RunError, match=r"run\.json (is damaged|has format)"):
        read_run(tmp_path / "run")


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}"])
def test_a_damaged_snapshot_is_made_anew(toy, tmp_path, text):
    toy.finish(tmp_path / "run")
    (tmp_path / "run/snapshot.json").write_text(text)
    assert len(read_run(tmp_path / "run").records) == 7
    assert json.loads((tmp_path / "run/snapshot.json").read_text())["records"]


@pytest.mark.parametrize("url", ["nowhere", "abacus://host/name", "oracle://host/name"])
def test_a_database_that_nothing_opens_is_refused_before_the_run_is_touched(toy, tmp_path, url):
    toy.finish(tmp_path / "run")
    before = (tmp_path / "run/run.json").read_text()
    with pytest.raises(BadRequest, match=r"no database URL|install the database's driver"):
        move(tmp_path / "run", url)
    assert (tmp_path / "run/run.json").read_text() == before
