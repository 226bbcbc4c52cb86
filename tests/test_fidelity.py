"""Which paused trials go on."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paretune.evaluators.measurement import Measurement, missing
from paretune.search.fidelity import promotions, rank_flips
from paretune.search.limits import parse_limit
from paretune.search.records import Record, Rung
from paretune.search.rules import Knowledge
from paretune.search.study_sections import FidelitySection
from paretune.spaces.configuration import Configuration

RUNGS = (0.25, 0.5, 1.0)


def record(number, *figures, state="paused", purpose="search", stderr=None):
    """A trial with one pair of losses (or None) per rung reached; the first has an error."""
    rungs = tuple(
        Rung(
            i,
            {
                name: missing("s", "lost")
                if pair is None
                else Measurement(pair[j], "s", "measured", stderr=stderr if name == "a" else None)
                for j, name in enumerate("ab")
            },
            1.0,
        )
        for i, pair in enumerate(figures)
    )
    return Record(number, Configuration(), state, purpose=purpose, rungs=rungs)


def losses(one):
    values = [one.value("a"), one.value("b")]
    return None if None in values else values


def test_the_better_half_of_a_rung_goes_on():
    records = [record(i, (float(i), float(i))) for i in range(4)]
    assert promotions(records, losses, RUNGS) == [0, 1]


def test_a_single_trial_is_promoted_rather_than_none():
    assert promotions([record(7, (1.0, 1.0))], losses, RUNGS, share=0.25) == [7]


def test_dominance_decides_before_hypervolume():
    records = [record(0, (0.0, 9.0)), record(1, (9.0, 0.0)), record(2, (1.0, 9.5))]
    assert set(promotions(records, losses, RUNGS, share=2 / 3)) == {0, 1}


def test_of_equal_rank_the_one_that_adds_most_hypervolume_goes_first():
    records = [record(0, (0.0, 10.0)), record(1, (2.0, 2.0)), record(2, (2.1, 1.9))]
    records += [record(3, (10.0, 0.0))]
    first, second = promotions(records, losses, RUNGS)
    assert {first, second} == {0, 3}
    assert promotions(records[1:], losses, RUNGS, share=1 / 3) == [3]


def errors(one):
    return [one.measurements[name].stderr or 0.0 for name in "ab"]


def test_what_is_behind_by_less_than_the_error_goes_on_before_what_is_surely_behind():
    records = [
        record(0, (0.50, 1.0), stderr=0.05),
        record(1, (0.52, 2.0), stderr=0.05),
        record(2, (0.90, 1.5), stderr=0.05),
        record(3, (0.95, 1.6), stderr=0.05),
    ]
    assert promotions(records, losses, RUNGS) == [0, 2], "as if they were exact"
    assert promotions(records, losses, RUNGS, errors=errors) == [0, 1]


def test_of_equal_rank_those_go_on_that_cover_the_trade_off():
    front = [(1.0, 1000.0), (1.1, 990.0), (1.2, 980.0), (1.3, 970.0), (10.0, 1.0), (4.0, 30.0)]
    records = [record(i, pair) for i, pair in enumerate(front)]
    assert set(promotions(records, losses, RUNGS)) == {0, 4, 5}


def test_those_that_went_on_count_among_the_best():
    records = [
        record(0, (0.0, 0.0), (0.0, 0.0), state="running"),
        record(1, (1.0, 1.0)),
        record(2, (2.0, 2.0)),
    ]
    assert promotions(records, losses, RUNGS) == []
    assert promotions([*records, record(3, (3.0, 3.0))], losses, RUNGS) == [1]


def test_the_highest_rung_is_served_first():
    records = [record(0, (0.0, 0.0), (5.0, 5.0)), record(1, (1.0, 1.0)), record(2, (2.0, 2.0))]
    records += [record(3, (3.0, 3.0))]
    assert promotions(records, losses, RUNGS) == [0, 1]


def test_a_trial_is_judged_by_what_it_said_at_the_rung_itself():
    records = [record(0, (0.0, 0.0), (9.0, 9.0)), record(1, (1.0, 1.0))]
    assert 1 not in promotions(records, losses, RUNGS)


def test_baseline_repeats_and_missing_figures_are_never_promoted():
    records = [
        record(0, (0.0, 0.0), purpose="baseline"),
        record(1, None),
        record(2, (5.0, 5.0)),
        record(3, (6.0, 6.0)),
    ]
    assert promotions(records, losses, RUNGS, share=1 / 3) == [2]
    assert promotions([record(1, None)], losses, RUNGS) == []


def test_a_trial_within_the_limits_goes_before_a_better_one_beyond_them():
    beyond = {0: 0.5, 1: 0.2, 2: 0.0, 3: 0.0}
    records = [record(i, (float(i), float(i))) for i in beyond]

    def excess(one):
        return beyond[one.number]

    assert promotions(records, losses, RUNGS, excess=excess) == [2, 3]
    assert promotions(records, losses, RUNGS, share=1.0, excess=excess) == [2, 3, 1, 0]


def test_limits_on_what_training_changes_do_not_count_at_a_lower_rung():
    units = {"latency_p50": "second", "accuracy": "fraction"}
    limits = [parse_limit("latency_p50 <= 5 ms", units), parse_limit("accuracy >= 0.9", units)]

    def trial(number, loss, accuracy, latency):
        figures = {
            "accuracy": Measurement(accuracy, "fraction", "measured"),
            "latency_p50": Measurement(latency, "second", "measured"),
            "model_bytes": Measurement(loss, "byte", "exact"),
        }
        return Record(number, Configuration(), "paused", rungs=(Rung(0, figures, 1.0),))

    knowledge = SimpleNamespace(
        limits=lambda: limits,
        losses=lambda one: [one.value("model_bytes")],
        errors=lambda one: [0.0],
        study=SimpleNamespace(fidelity=FidelitySection(rungs=(0.5, 1.0))),
    )
    records = [trial(1, 1.0, 0.95, 0.02), trial(2, 2.0, 0.6, 0.004), trial(3, 3.0, 0.95, 0.004)]
    assert Knowledge.promote(knowledge, records) == [2]


def test_nothing_is_promoted_without_rungs_or_trials():
    assert promotions([], losses, RUNGS) == []
    assert promotions([record(0, (1.0, 1.0), state="final")], losses, (1.0,)) == []
    with pytest.raises(ValueError, match="in \\(0, 1\\]"):
        promotions([], losses, RUNGS, share=1.5)


pairs = st.tuples(st.integers(0, 5).map(float), st.integers(0, 5).map(float))


@given(st.lists(pairs, max_size=12), st.floats(0.2, 1.0))
def test_promotion_is_bounded_and_does_not_depend_on_the_order_of_records(figures, share):
    records = [record(i, pair) for i, pair in enumerate(figures)]
    promoted = promotions(records, losses, RUNGS, share)
    assert promoted == promotions(records[::-1], losses, RUNGS, share)
    assert len(promoted) == len(set(promoted)) <= max(1, len(records) * share + 1e-9)


def test_a_share_of_many_is_not_one_fewer_for_the_sake_of_a_digit():
    records = [record(i, (float(i), float(i))) for i in range(100)]
    assert len(promotions(records, losses, RUNGS, 0.29)) == 29


def test_a_rung_that_misleads_is_told():
    records = [
        record(0, (0.0, 0.0), (2.0, 2.0)),
        record(1, (1.0, 1.0), (1.0, 1.0)),
        record(2, (2.0, 2.0)),
    ]
    first, second = rank_flips(records, losses, RUNGS)
    assert (first.trials, first.pairs, first.flipped) == (2, 1, 1)
    assert first.lost == (0,)
    assert (second.trials, second.pairs) == (0, 0)
