"""Differences on the same items: what they say, and how often they are right."""

from dataclasses import replace

import numpy as np
import pytest
from paretune.errors import BadRequest
from paretune.evaluators.catalogue import metric
from paretune.evaluators.metric import Predictions
from paretune.evaluators.quality.paired import paired_difference
from scipy.stats import binomtest


def judged(right: np.ndarray) -> Predictions:
    """A classifier that is right where it is told."""
    right = np.asarray(right, dtype=bool)
    logits = np.stack([right, ~right], 1).astype(float)
    return Predictions(np.arange(len(right)), labels=np.zeros(len(right), int), logits=logits)


def test_equal_candidates_do_not_differ():
    a = judged(np.arange(50) % 3 > 0)
    found = paired_difference(a, a, metric("accuracy"))
    assert (found.mean, found.p, found.n) == (0.0, 1.0, 50)
    assert found.low < 0 < found.high  # fifty equal answers do not prove equality


def test_the_test_is_mcnemars():
    a = judged([True] * 30 + [True] * 9 + [False] * 2 + [False] * 9)
    b = judged([True] * 30 + [False] * 9 + [True] * 2 + [False] * 9)
    found = paired_difference(a, b, metric("accuracy"))
    assert found.mean == pytest.approx(7 / 50)
    assert found.p == pytest.approx(binomtest(9, 11).pvalue)


def test_exchanging_the_candidates_changes_the_sign_alone():
    rng = np.random.default_rng(0)
    a, b = judged(rng.random(80) < 0.8), judged(rng.random(80) < 0.7)
    one = paired_difference(a, b, metric("accuracy"))
    other = paired_difference(b, a, metric("accuracy"))
    assert one.mean == -other.mean
    assert one.p == other.p
    assert one.low == pytest.approx(-other.high)


def test_pairing_sees_more_than_two_figures_apart():
    rng = np.random.default_rng(1)
    base = rng.random(400) < 0.7
    better = base | (rng.random(400) < 0.08)
    found = paired_difference(judged(better), judged(base), metric("accuracy"))
    apart = np.sqrt(base.var() / 400 + better.var() / 400)
    assert found.stderr < apart / 2
    assert found.p < 0.01


def test_other_items_are_refused():
    a = judged([True] * 10)
    with pytest.raises(BadRequest, match=r"different items \(10 and 5, 5 in common\)"):
        paired_difference(a, judged([True] * 5), metric("accuracy"))


def test_the_same_numbers_of_another_split_are_refused():
    a = judged([True] * 10)
    other = replace(a, labels=np.ones(10, dtype=int))
    with pytest.raises(BadRequest, match="other labels"):
        paired_difference(a, other, metric("accuracy"))
    with pytest.raises(BadRequest, match="other labels"):
        paired_difference(a, replace(a, labels=None), metric("accuracy"))


def test_a_metric_without_items_is_refused():
    a = judged([True] * 10)
    with pytest.raises(BadRequest, match="latency_p50 has no per-item values"):
        paired_difference(a, a, metric("latency_p50"))


def test_one_item_is_no_comparison():
    a = judged([True])
    with pytest.raises(BadRequest, match="at least two"):
        paired_difference(a, a, metric("accuracy"))


def test_likelihoods_are_compared_by_students_test():
    rng = np.random.default_rng(2)
    tokens = np.full(100, 10)
    nll = rng.gamma(4.0, 5.0, 100)
    a = Predictions(np.arange(100), nll=nll, tokens=tokens, text_bytes=4 * tokens)
    b = replace(a, nll=nll + 1.0 + rng.normal(0, 0.1, 100))
    found = paired_difference(a, b, metric("bits_per_byte"))
    assert found.mean == pytest.approx(-1.0 / 40 / np.log(2), rel=0.02)
    assert found.low < found.mean < found.high < 0
    assert found.p < 1e-10
    same = paired_difference(a, a, metric("bits_per_byte"))
    assert (same.mean, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(("both", "only_a", "only_b"), [(0.6, 0.1, 0.1), (0.9, 0.02, 0.05)])
def test_the_interval_holds_the_truth_as_often_as_it_says(both, only_a, only_b):
    rng = np.random.default_rng(4)
    held, rejected, runs = 0, 0, 400
    for _ in range(runs):
        kind = rng.choice(4, 120, p=[both, only_a, only_b, 1 - both - only_a - only_b])
        found = paired_difference(
            judged(kind < 2), judged((kind == 0) | (kind == 2)), metric("accuracy")
        )
        held += found.low <= only_a - only_b <= found.high
        rejected += found.p < 0.05
    assert held / runs > 0.93
    if only_a == only_b:
        assert rejected / runs < 0.07
