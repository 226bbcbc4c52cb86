"""Kills a small search at every write, one after the other, and resumes it; JSON lines on stdout.

Forks from a process that has imported everything, so that one kill costs two short searches.

    python kill_child.py FOLDER STEP    kills at writes 1, 1 + STEP, ... until one search survives
"""

import builtins
import io
import json
import os
import signal
import sqlite3
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import search_cases as toy
from paretune.search.budget import Budget
from paretune.search.run import read_run
from sqlalchemy.engine.default import DefaultDialect

WRITES = ("INSERT", "UPDATE", "DELETE", "CREATE")


def promote(records):
    """The best half of what has been seen at the lower rung."""
    seen = sorted((r.value("error"), r.number) for r in records if r.rungs and r.number)
    return [number for _, number in seen[: len(seen) // 2]]


def failing(calls, ask, prior, report):
    """Notes that it was called; the second trial fails once for a passing reason."""
    with calls.open("a") as file:
        file.write(json.dumps([ask.number, ask.rung, ask.attempt]) + "\n")
    record = toy.work(ask, prior, report, rungs=2)
    return toy.failed(record, "crashed") if (ask.number, ask.attempt) == (2, 0) else record


def search(folder):
    settings = toy.rules(
        budget=Budget(trials=5),
        rungs=2,
        promote=promote,
        violations=lambda record: {"bytes": (record.value("bytes") or 0.0) - 9000},
        reference=lambda records: {"error": 1.0, "bytes": 1e5},
    )
    done, records = toy.finish(folder / "run", settings, partial(failing, folder / "calls"))
    return {"done": done.reason, "records": records}


def killing(at):
    """Dies before or after the n-th write; counts them where `at` is None."""
    count = [0]

    def tick():
        count[0] += 1
        if count[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(holder, name):
        whole = getattr(holder, name)

        def ticking(*args, **kwargs):
            tick()
            result = whole(*args, **kwargs)
            tick()
            return result

        setattr(holder, name, ticking)

    for name in ("replace", "rename", "mkdir", "fsync"):
        around(os, name)
    around(DefaultDialect, "do_commit")
    execute = DefaultDialect.do_execute

    def do_execute(self, cursor, statement, *rest, **kwargs):
        execute(self, cursor, statement, *rest, **kwargs)
        if statement.lstrip().upper().startswith(WRITES):
            tick()

    DefaultDialect.do_execute = do_execute
    opened = builtins.open

    def writing(file, mode="r", *rest, **kwargs):
        made = opened(file, mode, *rest, **kwargs)
        if "w" in mode:
            tick()  # the file is there, and empty
        return made

    builtins.open = io.open = writing
    return count


def forked(job):
    """Runs a job in a fork; its result, None when it was killed."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            with os.fdopen(write, "w") as out:
                out.write(json.dumps(job()))
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return None
    assert os.waitstatus_to_exitcode(status) == 0
    return json.loads(text)


def killed_search(folder, at):
    count = killing(at)
    search(folder)
    return count[0]


def calls(folder):
    path = folder / "calls"
    return (
        [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []
    )


def finished(folder):
    """Numbers of the trials that were stored as ended, and what an intact database says."""
    if not (folder / "run" / "run.json").exists() or not (folder / "run" / "study.db").exists():
        return [], "ok"
    with sqlite3.connect(folder / "run" / "study.db") as connection:
        intact = connection.execute("PRAGMA integrity_check").fetchone()[0]
        try:
            rows = connection.execute(
                "SELECT value_json FROM trial_user_attributes WHERE key = 'record'"
            ).fetchall()
        except sqlite3.OperationalError:  # killed before the tables were there
            rows = []
    records = [json.loads(row[0]) for row in rows]
    return [r["number"] for r in records if r["state"] in ("final", "failed")], intact


def one(root, at):
    folder = root / f"{at}"
    folder.mkdir()
    survived = forked(partial(killed_search, folder, at))
    ended, intact = forked(partial(finished, folder))
    before = calls(folder)
    after = forked(partial(search, folder))
    again = [call for call in calls(folder)[len(before) :] if call[0] in ended]
    reread = forked(lambda: [toy.plain(r) for r in read_run(folder / "run").records])
    return {
        "at": at,
        "survived": survived,
        "intact": intact,
        "ended": ended,
        "repeated": again,
        "after": after,
        "read": reread,
    }


def main(root, step):
    (root / "warm").mkdir()
    search(root / "warm")  # what is loaded here need not be loaded after every fork
    (root / "whole").mkdir()
    whole = forked(partial(search, root / "whole"))
    print(json.dumps({"whole": whole, "calls": calls(root / "whole")}), flush=True)
    at = 1
    while True:
        outcome = one(root, at)
        print(json.dumps(outcome), flush=True)
        if outcome["survived"] is not None:
            return
        at += step


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
