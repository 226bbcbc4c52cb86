"""Limits: what a person may write, and what it means."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paretune.errors import StudyError, UnknownName
from paretune.search.limits import (
    _KNOWN,
    Limit,
    convert,
    parse_limit,
    refuse_contradictions,
)

UNITS = {
    "model_bytes": "byte",
    "accuracy": "fraction",
    "latency_p50": "second",
    "flops": "FLOP",
    "mcc": "dimensionless",
    "carbon": "kg",
}


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("model_bytes <= 40 MB", 40e6),
        ("model_bytes<=40MiB", 40 * 2**20),
        ("model_bytes <= 4e7", 4e7),
        ("latency_p50 < 5 ms", 0.005),
        ("accuracy >= 90 %", 0.9),
        ("accuracy >= .9", 0.9),
        ("flops <= 2 GFLOP", 2e9),
        ("mcc > -0.5", -0.5),
        ("carbon <= 20 g", 0.02),
        ("model_bytes <= 40_000_000", 4e7),
    ],
)
def test_a_bound_is_held_in_the_unit_of_its_metric(text, bound):
    assert parse_limit(text, UNITS).bound == pytest.approx(bound, rel=1e-12)


def test_a_limit_against_the_baseline_is_open_until_the_baseline_is_known():
    limit = parse_limit("accuracy >= 0.95 * baseline", UNITS)
    assert limit.open
    assert limit.satisfied({"accuracy": 0.0})
    closed = limit.resolve({"accuracy": 0.8})
    assert not closed.open
    assert closed.bound == pytest.approx(0.76)
    assert not closed.satisfied({"accuracy": 0.75})
    assert limit.resolve({}) == limit


def test_a_margin_below_the_baseline_may_be_written():
    limit = parse_limit("accuracy >= baseline - 1 %", UNITS).resolve({"accuracy": 0.9})
    assert limit.bound == pytest.approx(0.89)
    assert parse_limit("latency_p50 < baseline", UNITS).factor == 1.0


def test_an_unknown_metric_says_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'accuracy'"):
        parse_limit("acuracy >= 0.9", UNITS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_bytes <= 5 ms", "does not fit: the metric is in byte"),
        ("model_bytes <= 5 bananas", "does not fit"),
        ("accuracy >= 5 MB", "does not fit"),
        ("model_bytes", "cannot read the limit"),
        ("1 <= model_bytes <= 2", "cannot read the limit"),
        ("model_bytes == 5", "cannot read"),
        ("accuracy >= big", "cannot read 'big'"),
        ("accuracy >= 90", "between 0 and 1"),
        ("accuracy > 1", "between 0 and 1"),
        ("model_bytes <= -1 MB", "nothing can keep"),
        ("accuracy >= 0 * baseline", "bounds nothing"),
        ("model_bytes <= 1__0", "is no number"),
    ],
)
def test_what_cannot_be_meant_is_one_clear_error(text, message):
    with pytest.raises(StudyError, match=message):
        parse_limit(text, UNITS)


def test_limits_that_exclude_each_other_are_refused():
    low, high = parse_limit("accuracy >= 0.9", UNITS), parse_limit("accuracy <= 0.8", UNITS)
    with pytest.raises(StudyError, match="nothing keeps both"):
        refuse_contradictions([low, high])
    with pytest.raises(StudyError, match="nothing keeps both"):
        refuse_contradictions(parse_limit(f"mcc {op} 0.5", UNITS) for op in ("<", ">="))
    refuse_contradictions(parse_limit(f"mcc {op} 0.5", UNITS) for op in ("<=", ">="))
    refuse_contradictions([high, parse_limit("accuracy >= 1.5 * baseline", UNITS)])


def test_a_figure_that_is_not_there_keeps_no_limit():
    limit = parse_limit("model_bytes <= 40 MB", UNITS)
    assert not limit.satisfied({})
    assert limit.violation({}) is None


@given(
    st.sampled_from(["<=", "<", ">=", ">"]),
    st.floats(-1e6, 1e6),
    st.floats(-1e6, 1e6),
)
def test_a_violation_is_positive_exactly_where_the_limit_is_broken(operator, bound, value):
    limit = Limit("mcc", operator, bound)
    violation = limit.violation({"mcc": value})
    assert violation is not None
    assert (violation > 0) == (not limit.satisfied({"mcc": value}))


def test_a_unit_that_pint_does_not_know_fits_itself_only():
    assert convert(3.0, "widgets", "widgets") == 3.0
    assert parse_limit("score >= 2 widgets", {"score": "widgets"}).bound == 2.0


def test_common_units_are_converted_as_pint_converts_them(monkeypatch):
    pairs = [(unit, wanted) for unit in _KNOWN for wanted in _KNOWN]

    def converted():
        found = {}
        for unit, wanted in pairs:
            try:
                found[unit, wanted] = convert(37.3, unit, wanted)
            except ValueError:
                found[unit, wanted] = None
        return found

    short = converted()
    monkeypatch.setattr("paretune.search.limits._KNOWN", {})
    assert short == converted()


def test_a_limit_in_common_units_is_read_without_pint():
    code = (
        "import sys\nfrom paretune.search.limits import parse_limit\n"
        "parse_limit('model_bytes <= 40 MB', {'model_bytes': 'byte'})\n"
        "parse_limit('accuracy >= 90 %', {'accuracy': 'fraction'})\n"
        "sys.exit('pint' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
