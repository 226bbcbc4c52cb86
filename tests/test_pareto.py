"""Dominance and hypervolume against brute force, and the properties that define them."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from paretune.search.pareto import (
    attainment,
    contributions,
    front_probability,
    hypervolume,
    just_beyond,
    knee,
    non_dominated,
    non_dominated_ranks,
    reference_point,
)


def fronts(least=0, most=7, objectives=(1, 2, 3, 4)):
    """Small losses with many ties: `(n, m)` of whole numbers."""
    return st.tuples(st.integers(least, most), st.sampled_from(objectives)).flatmap(
        lambda shape: arrays(np.float64, shape, elements=st.integers(0, 4).map(float))
    )


def dominates(a, b):
    return bool((a <= b).all() and (a < b).any())


def brute_hypervolume(losses, reference):
    """Inclusion and exclusion over the boxes that the rows dominate."""
    rows = [row for row in losses if (row < reference).all()]
    total = 0.0
    for size in range(1, len(rows) + 1):
        for some in itertools.combinations(rows, size):
            corner = np.max(some, axis=0)
            total += (-1.0) ** (size + 1) * np.prod(reference - corner)
    return total


@given(fronts())
def test_a_row_is_on_the_front_when_no_other_dominates_it(losses):
    expected = [not any(dominates(other, row) for other in losses) for row in losses]
    assert non_dominated(losses).tolist() == expected


@given(fronts(least=3, most=3))
def test_dominance_is_a_strict_partial_order(losses):
    a, b, c = losses
    assert not dominates(a, a)
    assert not (dominates(a, b) and dominates(b, a))
    assert dominates(a, c) or not (dominates(a, b) and dominates(b, c))
    kept = non_dominated(np.array([a, b]))
    assert kept.tolist() == [not dominates(b, a), not dominates(a, b)]


def test_duplicates_are_both_kept():
    assert non_dominated(np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 2.0]])).tolist() == [
        True,
        True,
        False,
    ]


@given(fronts(least=1))
def test_ranks_peel_one_front_after_another(losses):
    ranks, left = non_dominated_ranks(losses), np.ones(len(losses), dtype=bool)
    for rank in range(int(ranks.max()) + 1):
        rows = np.flatnonzero(left)
        assert (ranks[rows[non_dominated(losses[rows])]] == rank).all()
        left[rows[non_dominated(losses[rows])]] = False
    assert not left.any()


@settings(max_examples=60)
@given(fronts(most=6))
def test_hypervolume_equals_inclusion_and_exclusion(losses):
    reference = np.full(losses.shape[1], 3.5)
    assert hypervolume(losses, reference) == pytest.approx(brute_hypervolume(losses, reference))


@given(fronts(least=1))
def test_hypervolume_never_falls_when_a_point_is_added(losses):
    reference = np.full(losses.shape[1], 3.5)
    assert hypervolume(losses, reference) >= hypervolume(losses[:-1], reference) - 1e-12


@given(fronts(least=1))
def test_a_contribution_is_what_is_lost_without_the_row(losses):
    reference = np.full(losses.shape[1], 3.5)
    alone = contributions(losses, reference)
    for i in range(len(losses)):
        without = hypervolume(np.delete(losses, i, axis=0), reference)
        assert alone[i] == pytest.approx(hypervolume(losses, reference) - without, abs=1e-9)


@pytest.mark.parametrize("size", [0, 1, 1001])
@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_sizes_from_none_to_many_are_answered(size, objectives):
    losses = np.random.default_rng(0).random((size, objectives))
    reference = np.ones(objectives)
    assert non_dominated(losses).shape == (size,)
    assert non_dominated_ranks(losses).shape == (size,)
    assert contributions(losses, reference).shape == (size,)
    assert (hypervolume(losses, reference) > 0) == (size > 0)


@pytest.mark.parametrize(
    "call",
    [
        non_dominated,
        non_dominated_ranks,
        knee,
        lambda x: hypervolume(x, np.ones(2)),
        lambda x: contributions(x, np.ones(2)),
        lambda x: reference_point(None, x),
        lambda x: front_probability(x, np.zeros_like(x), np.random.default_rng(0)),
        lambda x: attainment([x], 0.5),
    ],
)
def test_nan_is_refused_with_its_row(call):
    with pytest.raises(ValueError, match="row 1 holds NaN"):
        call(np.array([[1.0, 2.0], [np.nan, 1.0]]))


def test_a_reference_of_another_size_is_refused():
    with pytest.raises(ValueError, match="2 finite numbers"):
        hypervolume(np.zeros((1, 2)), np.zeros(3))


def test_the_users_limit_is_the_reference_where_there_is_one():
    initial = np.array([[10.0, 1.0], [1.0, 10.0]])
    free = reference_point(None, initial)
    capped = reference_point(None, initial, np.array([5.0, np.inf]))
    assert free == pytest.approx(10.0 * 10.0**0.1)
    assert capped[0] == 5.0
    assert capped[1] == free[1]


def test_the_reference_lies_beyond_the_baseline_and_a_hopeless_trial_does_not_move_it():
    initial = np.array([[2.0, 5.0], [3.0, 4.0]])
    point = reference_point(np.array([1.0, 8.0]), initial)
    assert (point > [3.0, 8.0]).all()
    hopeless = np.vstack([initial, [[50.0, 90.0]]])
    assert reference_point(np.array([1.0, 8.0]), hopeless)[0] < 5.0


def test_one_trial_alone_still_gives_a_reference_beyond_it():
    point = reference_point(None, np.array([[2.0, -0.8]]))
    assert (point > [2.0, -0.8]).all()
    with pytest.raises(ValueError, match="one finished trial"):
        reference_point(None, np.zeros((0, 2)))


@given(fronts(least=1))
def test_every_row_improves_on_a_point_just_beyond(losses):
    assert (losses < just_beyond(losses)).all()
    assert (losses * 1e9 < just_beyond(losses * 1e9)).all()


@given(fronts(least=1), st.floats(0.1, 10.0), st.floats(-5.0, 5.0))
def test_the_knee_does_not_depend_on_units(losses, factor, shift):
    chosen, moved = knee(losses), knee(losses * factor + shift)
    span = np.where(np.ptp(losses, axis=0) > 0, np.ptp(losses, axis=0), 1.0)
    sums = ((losses - losses.min(axis=0)) / span).sum(axis=1)
    assert sums[moved] == pytest.approx(sums[chosen])


def test_an_exact_front_is_certain_and_a_tie_in_noise_is_even():
    rng = np.random.default_rng(0)
    exact = np.array([[1.0, 2.0], [2.0, 1.0], [3.0, 3.0]])
    assert front_probability(exact, np.zeros((3, 2)), rng).tolist() == [1.0, 1.0, 0.0]
    tie = np.array([[1.0, 1.0], [1.0, 1.0]])
    noise = np.array([[0.1, 0.0], [0.1, 0.0]])
    assert front_probability(tie, noise, rng, 4000) == pytest.approx(0.5, abs=0.04)
    with pytest.raises(ValueError, match="never negative"):
        front_probability(tie, -noise, rng)


def test_what_every_run_attains_lies_behind_what_one_run_attains():
    runs = [np.array([[1.0, 3.0], [3.0, 1.0]]), np.array([[2.0, 2.0]])]
    assert attainment(runs, 0.5).tolist() == [[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]]
    assert attainment(runs, 1.0).tolist() == [[2.0, 3.0], [3.0, 2.0]]
    with pytest.raises(ValueError, match="share"):
        attainment(runs, 0.0)


def cells(losses, side):
    """Which unit cells of a box of whole numbers each row dominates: `(n, side ** m)`."""
    corners = np.array(list(itertools.product(range(side), repeat=losses.shape[1])))
    return (losses[:, None, :] <= corners[None]).all(axis=2)


@pytest.mark.parametrize("size", [0, 1, 2, 1001])
@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_volumes_are_counts_of_cells_and_ranks_peel_at_any_size(size, objectives):
    rng = np.random.default_rng(size + objectives)
    losses = rng.integers(0, 7, size=(size, objectives)).astype(float)
    reference, held = np.full(objectives, 6.0), cells(losses, 6)
    assert hypervolume(losses, reference) == pytest.approx(held.any(axis=0).sum())
    alone = (held & (held.sum(axis=0) == 1)).sum(axis=1)
    assert contributions(losses, reference) == pytest.approx(alone)

    better = (losses[:, None] <= losses[None]).all(axis=2) & (losses[:, None] < losses[None]).any(
        axis=2
    )
    assert (non_dominated(losses) == ~better.any(axis=0)).all()
    ranks, left, rank = np.full(size, -1), np.ones(size, dtype=bool), 0
    while left.any():
        front = left & ~(better & left[:, None]).any(axis=0)
        ranks[front], left, rank = rank, left & ~front, rank + 1
    assert (non_dominated_ranks(losses) == ranks).all()


@given(
    st.tuples(st.integers(0, 6), st.sampled_from([1, 2, 3, 4])).flatmap(
        lambda shape: arrays(
            np.float64, shape, elements=st.sampled_from([0.0, 1.0, 2.0, np.inf, -np.inf])
        )
    )
)
def test_infinite_losses_are_compared_like_others(losses):
    better = [[dominates(a, b) for b in losses] for a in losses]
    free = [not any(row[i] for row in better) for i in range(len(losses))]
    assert non_dominated(losses).tolist() == free
    ranks = non_dominated_ranks(losses)
    assert (ranks == 0).tolist() == free
    assert all(ranks[i] < ranks[j] for i, row in enumerate(better) for j, b in enumerate(row) if b)
    finite = np.where(losses == -np.inf, 0.0, losses)
    kept = finite[np.isfinite(finite).all(axis=1)]
    reference = np.full(losses.shape[1], 3.0)
    assert hypervolume(finite, reference) == pytest.approx(hypervolume(kept, reference))
    alone = contributions(finite, reference)
    assert alone[np.isfinite(finite).all(axis=1)] == pytest.approx(contributions(kept, reference))
    assert alone.sum() == pytest.approx(contributions(kept, reference).sum())


def test_a_volume_without_end_is_refused():
    for volume in (hypervolume, contributions):
        with pytest.raises(ValueError, match="row 1 holds minus infinity"):
            volume(np.array([[1.0, 2.0], [-np.inf, 1.0]]), np.ones(2))
