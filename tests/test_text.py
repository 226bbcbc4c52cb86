"""Plain text for the terminal."""

from __future__ import annotations

import pytest
from paretune.reports.text import render


def test_numbers_stand_right_and_words_left():
    text = render([{"name": "a", "bytes": 12}, {"name": "bb", "bytes": 3}])
    assert text.splitlines() == ["name  bytes", "a        12", "bb        3"]


def test_what_is_missing_is_a_dash():
    assert render([{"a": 1}, {"b": 2}]).splitlines() == ["a  b", "1  -", "-  2"]
    assert render({"a": None, "b": [], "c": {}}) == "a: -\nb: -\nc: -"


def test_nothing_is_said_to_be_nothing():
    assert render([]) == "(none)"


def test_a_mapping_in_a_mapping_is_indented():
    assert render({"a": {"b": 1, "c": {"d": 2}}}) == "a:\n  b: 1\n  c:\n    d: 2"


def test_rows_in_a_mapping_are_a_table():
    assert render({"rows": [{"x": 1}, {"x": 2}]}) == "rows:\n  x\n  1\n  2"


def test_truth_and_figures_are_written_for_people():
    row = {"yes": True, "share": 0.123456, "bytes": 1234567, "year": 2026}
    assert render(row) == "yes: yes\nshare: 0.1235\nbytes: 1,234,567\nyear: 2026"


@pytest.mark.parametrize("width", [40, 60, 100])
def test_a_table_fits_its_width_and_loses_no_word(width: int):
    words = [f"word{i}" for i in range(30)]
    rows = [{"name": "n", "short": 1, "long": " ".join(words), "other": " ".join(words[:9])}]
    text = render(rows, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert all(word in text for word in words)


def test_a_table_that_fits_is_left_alone():
    rows = [{"name": "a", "what": "a few words"}]
    assert render(rows, 100) == render(rows)


def test_no_column_is_squeezed_to_nothing():
    rows = [{f"column {i}": "x" * 30 for i in range(6)}]
    lines = render(rows, 20).splitlines()
    assert "xxxxxxxxxxxx" in lines[1]
