"""The Gaussian process against closed forms; the acquisition against sampling."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paretune.search.pareto import hypervolume
from paretune.search.samplers.acquisition import (
    chebyshev_improvement,
    expected_improvement,
    log_probability_below,
    open_boxes,
)
from paretune.search.samplers.belief import Scale, fitting_count, learn
from paretune.search.samplers.problem import Memory
from paretune.search.samplers.surrogate import (
    Array,
    Kernel,
    Lengths,
    condition,
    fit,
    negative_log_posterior,
)
from scipy.optimize import approx_fprime
from scipy.stats import multivariate_normal, norm


def test_the_gradient_of_the_likelihood_is_the_slope_of_its_value():
    rng = np.random.default_rng(0)
    inputs, targets = rng.standard_normal((12, 3)), rng.standard_normal(12)
    shared = Lengths.each(1, bent=True) + Lengths.one(2)
    for lengths, logs in (Lengths.each(3), [0.3, -0.2, 0.8]), (shared, [0.3, -0.2]):
        theta = np.array([*logs, 0.1, -2.0])

        def value(t: Array, lengths: Lengths = lengths) -> float:
            return negative_log_posterior(t, inputs, targets, lengths)[0]

        slope = approx_fprime(theta, value, 1e-6)
        found = negative_log_posterior(theta, inputs, targets, lengths)[1]
        assert found == pytest.approx(slope, rel=1e-3)


def test_a_process_without_noise_goes_through_what_it_saw():
    inputs = np.linspace(-1, 1, 6)[:, None]
    targets = np.sin(3 * inputs[:, 0])
    mean, deviation = condition(Kernel(np.ones(1), 1.0, 1e-10), inputs, targets).predict(inputs)
    assert mean == pytest.approx(targets, abs=1e-4)
    assert deviation == pytest.approx(0.0, abs=1e-3)


def test_far_from_everything_the_prior_is_left():
    believed = condition(Kernel(np.ones(2), 2.0, 1e-6), np.zeros((1, 2)), np.array([5.0]))
    mean, deviation = believed.predict(np.full((1, 2), 100.0))
    assert mean[0] == pytest.approx(0.0, abs=1e-9)
    assert deviation[0] == pytest.approx(2.0**0.5)


def test_the_fit_finds_which_feature_matters():
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((40, 3))
    kernel = fit(inputs, np.sin(2 * inputs[:, 1]), Lengths.each(3))
    assert np.argmin(kernel.lengths) == 1
    assert kernel.noise < 0.05


def test_features_that_share_a_length_have_one():
    rng = np.random.default_rng(2)
    inputs = rng.standard_normal((40, 4))
    kernel = fit(
        inputs,
        inputs[:, 1] + inputs[:, 2],
        Lengths(np.array([0, 1, 1, 2]), np.zeros(3, dtype=bool)),
    )
    assert kernel.lengths[1] == kernel.lengths[2] < kernel.lengths[0]


def test_one_row_is_enough_to_fit():
    kernel = fit(np.zeros((1, 2)), np.zeros(1), Lengths.each(2))
    assert np.isfinite(kernel.lengths).all()


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_expected_improvement_is_the_mean_over_samples(objectives):
    rng = np.random.default_rng(objectives)
    front, reference = rng.random((6, objectives)), np.ones(objectives)
    means, deviations = 0.6 * rng.random((4, objectives)), np.full((4, objectives), 0.2)
    expected = expected_improvement(means, deviations, *open_boxes(front, reference))
    now = hypervolume(front, reference)
    for i in range(4):
        draws = means[i] + deviations[i] * rng.standard_normal((3000, objectives))
        gains = [hypervolume(np.vstack([front, draw]), reference) - now for draw in draws]
        error = 4 * np.std(gains) / len(gains) ** 0.5
        assert expected[i] == pytest.approx(np.mean(gains), abs=error + 1e-6)


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(0, 8))
@settings(max_examples=40)
def test_without_doubt_the_expectation_is_the_improvement_itself(seed, objectives, size):
    rng = np.random.default_rng(seed)
    front, reference = rng.random((size, objectives)), np.ones(objectives)
    points = 1.3 * rng.random((5, objectives))
    gains = expected_improvement(points, np.zeros_like(points), *open_boxes(front, reference))
    now = hypervolume(front, reference)
    for point, gain in zip(points, gains, strict=True):
        grown = hypervolume(np.vstack([front, point]), reference)
        assert gain == pytest.approx(grown - now, abs=1e-9)


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(0, 8))
@settings(max_examples=40)
def test_boxes_share_nothing_and_hold_every_improving_point(seed, objectives, size):
    rng = np.random.default_rng(seed)
    front, reference = rng.random((size, objectives)), np.ones(objectives)
    low, high = open_boxes(front, reference)
    for point in 1.2 * rng.random((50, objectives)) - 0.1:
        inside = ((low < point) & (point <= high)).all(axis=1).sum()
        improves = (point < reference).all() and not (front <= point).all(axis=1).any()
        assert inside == int(improves)


def test_the_chebyshev_improvement_prefers_the_better_and_the_less_certain():
    seen, weights = np.full((1, 5), 0.5), np.full(5, 0.2)
    means = np.array([np.full(5, 0.3), np.full(5, 0.6), np.full(5, 0.6)])
    deviations = np.array([np.full(5, 0.1), np.full(5, 0.1), np.full(5, 0.4)])
    gain = chebyshev_improvement(means, deviations, seen, weights)
    assert gain[0] > gain[2] > gain[1]


def test_a_bound_at_the_mean_is_kept_half_of_the_time():
    logs = log_probability_below(np.zeros(2), np.zeros((1, 2)), np.ones((1, 2)))
    assert np.exp(logs[0]) == pytest.approx(0.25)


def test_positive_figures_are_taken_as_logarithms_and_hopeless_ones_drawn_in():
    scale = Scale.of(np.array([1.0, 10.0, 1e6]), reference=20.0)
    assert scale.log
    assert scale.drawn_in(np.array([1e6]))[0] == pytest.approx(scale.cap)
    assert scale(np.array([1e6]))[0] > scale.cap
    assert not Scale.of(np.array([-0.9, -0.5]), reference=-0.4).log
    assert not Scale.of(np.array([1e-9, 0.5, 2.0]), reference=1.1).log, "no decades, only 0"
    assert Scale.of(np.array([3.0]), None).spread == 1.0


def test_a_trial_under_way_is_taken_to_come_out_as_believed():
    rng = np.random.default_rng(0)
    inputs, targets = rng.standard_normal((10, 2)), rng.standard_normal(10)
    waiting, all_rows = np.array([[3.0, 3.0]]), np.ones(10, dtype=bool)
    before = learn(Memory(), inputs, targets, all_rows, Lengths.each(2))
    after = before.given(waiting)
    assert after.predict(waiting)[0] == pytest.approx(before.predict(waiting)[0], abs=1e-2)
    assert after.predict(waiting)[1][0] < before.predict(waiting)[1][0]


def test_hyper_parameters_are_fitted_each_time_to_fifty_and_then_every_fifth():
    assert [fitting_count(n) for n in (3, 50, 51, 54, 55)] == [3, 50, 50, 50, 55]


def shares(side, mean, deviation):
    """E[max(side - y, 0)] of a normal y, as its definition."""
    if side == -np.inf:
        return 0.0
    if deviation == 0.0:
        return max(side - mean, 0.0)
    z = (side - mean) / deviation
    return (side - mean) * norm.cdf(z) + deviation * norm.pdf(z)


@pytest.mark.parametrize("size", [0, 1, 1001])
@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_boxes_tile_what_is_open_also_among_ties(size, objectives):
    rng = np.random.default_rng(size + objectives)
    top = 7 if objectives < 4 else 5
    # Near one plane, so that many rows stay on the front.
    front = rng.integers(0, top, size=(size, objectives)).astype(float)
    front[:, -1] = np.maximum(top - front[:, :-1].sum(axis=1), 0) if objectives > 1 else 3.0
    low, high = open_boxes(front, np.full(objectives, float(top)))
    # The upper corner of a unit cell stands for the cell; below 0 all is open.
    cells = np.stack(np.meshgrid(*[np.arange(top + 1)] * objectives), axis=-1)
    for cell in cells.reshape(-1, objectives)[:: 1 if objectives < 4 else 7]:
        holding = ((low < cell) & (cell <= high)).all(axis=1).sum()
        # A row at its lower corner, or better, dominates a cell.
        assert holding == int(not (front <= cell - 1).all(axis=1).any())


@pytest.mark.parametrize("count", [0, 1, 1001])
def test_candidates_are_judged_together_as_one_by_one(count):
    rng = np.random.default_rng(count)
    front, reference = np.round(rng.random((20, 3)), 1), np.ones(3)
    low, high = open_boxes(front, reference)
    means = np.round(1.2 * rng.random((count, 3)), 1)  # many lie on a side of a box
    deviations = rng.choice([0.0, 1e-9, 0.1, 3.0], size=(count, 3))
    together = expected_improvement(means, deviations, low, high)
    assert together.shape == (count,)
    for i in range(0, count, 101):
        slow = sum(
            np.prod(
                [
                    shares(high[b, j], means[i, j], deviations[i, j])
                    - shares(low[b, j], means[i, j], deviations[i, j])
                    for j in range(3)
                ]
            )
            for b in range(len(low))
        )
        assert together[i] == pytest.approx(max(slow, 0.0), abs=1e-12)


def test_a_long_front_of_four_objectives_leaves_few_boxes_whichever_stands_apart():
    rng = np.random.default_rng(0)
    for apart in range(4):
        front = np.repeat(rng.random((150, 1)), 4, axis=1) + 0.01 * rng.random((150, 4))
        front[:, apart] = 1.0 - front[:, apart]
        assert len(open_boxes(front, np.full(4, 1.1))[0]) < 5000


def test_the_chebyshev_improvement_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    means, deviations = rng.random((30, 5)), rng.random((30, 5)) * 0.2
    seen, weights = rng.random((6, 5)), rng.dirichlet(np.ones(5))

    def distance(row):
        return max(weights * row) + 0.05 * sum(weights * row)

    best = min(map(distance, seen))
    fast = chebyshev_improvement(means, deviations, seen, weights)
    for i in range(30):
        decides = int(np.argmax(weights * means[i]))
        slow = shares(best, distance(means[i]), weights[decides] * deviations[i, decides])
        assert fast[i] == pytest.approx(slow, abs=1e-14)


def test_bounds_are_kept_with_the_product_of_their_chances_far_out_as_well():
    rng = np.random.default_rng(0)
    bounds, means = np.array([0.0, 1.0]), 30 * rng.standard_normal((40, 2))
    logs = log_probability_below(bounds, means, np.ones((40, 2)))
    assert logs == pytest.approx(norm.logcdf(bounds - means).sum(axis=1), rel=1e-9)


def matern(a, b, kernel):
    r = np.sqrt(sum(((x - y) / s) ** 2 for x, y, s in zip(a, b, kernel.lengths, strict=True)))
    z = 5.0**0.5 * r
    return kernel.signal * (1.0 + z + z**2 / 3.0) * np.exp(-z)


@pytest.mark.parametrize("size", [1, 2, 60])
@pytest.mark.parametrize("at", [0, 1, 1001])
def test_a_prediction_is_what_solving_directly_gives(size, at):
    rng = np.random.default_rng(size)
    kernel = Kernel(np.array([0.7, 1.5, 4.0]), 1.3, 1e-2)
    inputs, targets = rng.standard_normal((size, 3)), rng.standard_normal(size)
    inputs[-1] = inputs[0]  # one configuration seen twice
    points = rng.standard_normal((at, 3))
    believed = condition(kernel, inputs, targets)
    mean, deviation = believed.predict(points)
    assert mean.shape == deviation.shape == (at,)
    assert believed.mean(points) == pytest.approx(mean, abs=1e-12)
    prior = np.array([[matern(a, b, kernel) for b in inputs] for a in inputs])
    noisy = prior + (kernel.noise + 1e-8 * kernel.signal) * np.eye(size)
    for i in range(0, at, 143):
        cross = np.array([matern(a, points[i], kernel) for a in inputs])
        assert mean[i] == pytest.approx(cross @ np.linalg.solve(noisy, targets), abs=1e-8)
        variance = kernel.signal - cross @ np.linalg.solve(noisy, cross)
        assert deviation[i] ** 2 == pytest.approx(variance, abs=1e-7)


@pytest.mark.parametrize(
    "lengths",
    [Lengths.each(3), Lengths.each(1, bent=True) + Lengths.one(2), Lengths.one(3)],
)
def test_the_likelihood_is_that_of_a_normal_with_the_priors(lengths):
    rng = np.random.default_rng(0)
    inputs, targets = rng.standard_normal((15, 3)), rng.standard_normal(15)
    theta = np.concatenate([rng.standard_normal(len(lengths.bent)), [0.2, -3.0]])
    kernel = Kernel(np.exp(theta[:-2])[lengths.of], float(np.exp(0.2)), float(np.exp(-3.0)))
    prior = np.array([[matern(a, b, kernel) for b in inputs] for a in inputs])
    noisy = prior + (kernel.noise + 1e-8 * kernel.signal) * np.eye(15)
    centres = [(centre, 3.0**0.5) for centre in lengths.centres()]
    priors = [*centres, (0.0, 1.0), (np.log(1e-3), 2.0)]
    # Constants aside, which no fit sees.
    slow = -multivariate_normal.logpdf(targets, np.zeros(15), noisy) - 7.5 * np.log(2 * np.pi)
    slow += sum(0.5 * ((t - c) / w) ** 2 for t, (c, w) in zip(theta, priors, strict=True))
    assert negative_log_posterior(theta, inputs, targets, lengths)[0] == pytest.approx(slow)
