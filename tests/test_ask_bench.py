"""The benchmark of an ask: figures for what was asked, and refusals."""

import json

import pytest
from paretune.benchmarks.ask import main, measured
from paretune.benchmarks.problems import problem_named
from paretune.errors import BadRequest


def test_an_ask_is_timed_after_each_history(capsys):
    arguments = ["--problem", "zdt1", "--trials", "10", "20", "--asks", "2"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [["10", "2"], ["20", "2"]]
    assert main([*arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [len(row["seconds"]) for row in rows] == [2, 2]
    assert all(row["first"] > 0.0 and row["peak_bytes"] > 0 for row in rows)


def test_too_short_a_history_and_unknown_problems_are_refused(capsys):
    with pytest.raises(BadRequest, match="not 2 and 1"):
        measured(problem_named("zdt1", None), 2, 1)
    assert main(["--problem", "zdt9"]) == 2
    assert "'zdt9'" in capsys.readouterr().err
