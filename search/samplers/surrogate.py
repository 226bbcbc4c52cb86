"""A small Gaussian process: Matern 5/2, a length scale for each feature or for several, noise.

Not a library: what the grey-box sampler needs, and nothing else, in numpy and scipy. Inputs and
outputs come standardised. At 100 points it fits in a tenth of a second on one thread.

Source: Rasmussen & Williams 2006, alg. 2.1, eq. 4.17, 5.9; the prior of the length scales grows
with the number of features as in arXiv 2402.02229.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

Array = NDArray[np.float64]

_ROOT5 = 5.0**0.5
_LOG_LENGTH = (-3.0, 6.0)
_LOG_SIGNAL = (-4.0, 4.0)
_LOG_NOISE = (-14.0, 0.0)

_BENT = 1.76
"""By so much the logarithm of the expected length is less along a knob than along a total."""


@dataclass(frozen=True)
class Lengths:
    """Which length scale each feature has, and how long each is expected to be.

    Args:
        of: `(d,)` the place of each feature's length.
        bent: `(g,)` figures may rise and fall again along it, as along a learning rate. Along
            sizes they go one way.
    """

    of: NDArray[np.intp]
    bent: NDArray[np.bool_]

    @staticmethod
    def each(count: int, *, bent: bool = False) -> Lengths:
        """One for every feature."""
        return Lengths(np.arange(count), np.full(count, bent))

    @staticmethod
    def one(count: int) -> Lengths:
        """One for all features together."""
        return Lengths(np.zeros(count, dtype=np.intp), np.zeros(min(1, count), dtype=bool))

    def __add__(self, more: Lengths) -> Lengths:
        """Those of these features and then of more."""
        of = np.concatenate([self.of, len(self.bent) + more.of])
        return Lengths(of, np.concatenate([self.bent, more.bent]))

    def kept(self, columns: NDArray[np.intp]) -> Lengths:
        """Those of some of the features."""
        left, of = np.unique(self.of[columns], return_inverse=True)
        return Lengths(of, self.bent[left])

    def centres(self) -> Array:
        """Logarithms of what they are expected to be: `(g,)` (arXiv 2402.02229, 4)."""
        centre = 2.0**0.5 + 0.5 * float(np.log(max(1, len(self.of))))
        return np.asarray(centre - _BENT * self.bent)


@dataclass(frozen=True)
class Kernel:
    """Hyper-parameters.

    Args:
        lengths: `(d,)`, in units of the standardised features.
        signal: variance of the function. noise: variance of one figure.
        slopes: `(s,)` prior variances of the slopes along s further columns, which have no length;
            none: there are no such columns.
    """

    lengths: Array
    signal: float
    noise: float
    slopes: Array = field(default_factory=lambda: np.zeros(0))

    def between(self, a: Array, b: Array) -> Array:
        """Prior covariance of `(n, d + s)` and `(k, d + s)`: `(n, k)`, without noise (eq. 4.17)."""
        d = len(self.lengths)
        r = np.sqrt(_squared(a[:, :d] / self.lengths, b[:, :d] / self.lengths))
        value = 1.0 + _ROOT5 * r + (5.0 / 3.0) * r**2
        value = self.signal * value * np.exp(-_ROOT5 * r)
        return np.asarray(value + _linear(a, b, self.slopes) if len(self.slopes) else value)

    def variance(self, at: Array) -> Array:
        """Prior variance at `(k, d + s)`: `(k,)`."""
        return np.asarray(self.signal + at[:, len(self.lengths) :] ** 2 @ self.slopes)


@dataclass(frozen=True)
class Posterior:
    """What is believed after seeing `(n, d)` inputs with their `(n,)` figures."""

    kernel: Kernel
    inputs: Array
    targets: Array
    factor: tuple[Array, bool]
    weights: Array

    def mean(self, at: Array) -> Array:
        """Mean of the function at `(k, d)` inputs, without the deviations that take most time."""
        return np.asarray(self.kernel.between(self.inputs, at).T @ self.weights)

    def predict(self, at: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the function, without noise, at `(k, d)` inputs."""
        cross = self.kernel.between(self.inputs, at)
        mean = cross.T @ self.weights
        half = solve_triangular(self.factor[0], cross, lower=True, check_finite=False)
        variance = self.kernel.variance(at) - np.einsum("nk,nk->k", half, half)
        return mean, np.sqrt(np.maximum(variance, 1e-12 * self.kernel.signal))

    @property
    def evidence(self) -> float:
        """Log probability density of the figures, but for a constant of their number (eq. 2.30)."""
        lost = 0.5 * self.targets @ self.weights + np.log(np.diag(self.factor[0])).sum()
        return -float(lost)

    def given(self, waiting: Array) -> Posterior:
        """The same once `(w, d)` more inputs have come out as believed.

        Parallel asks spread then (kriging believer, Ginsbourger et al. 2010).
        """
        if len(waiting) == 0:
            return self
        means, _ = self.predict(waiting)
        inputs, targets = np.vstack([self.inputs, waiting]), np.concatenate([self.targets, means])
        return condition(self.kernel, inputs, targets)


def condition(kernel: Kernel, inputs: Array, targets: Array) -> Posterior:
    """The process given figures (alg. 2.1).

    Args:
        inputs: `(n, d)` standardised features.
        targets: `(n,)` standardised figures.
    """
    covariance = kernel.between(inputs, inputs)
    covariance[np.diag_indices_from(covariance)] += kernel.noise + 1e-8 * kernel.signal
    factor = cho_factor(covariance, lower=True, check_finite=False)
    weights = cho_solve(factor, targets, check_finite=False)
    return Posterior(kernel, inputs, targets, factor, weights)


def fit(
    inputs: Array,
    targets: Array,
    lengths: Lengths,
    iterations: int = 60,
    slopes: Array | None = None,
) -> Kernel:
    """The most probable hyper-parameters; a function of its arguments alone.

    Args:
        inputs: `(n, d)` standardised features, n >= 1; with slopes `(n, d + s)`.
        targets: `(n,)` standardised figures.
        lengths: of the features.
        iterations: most steps of L-BFGS, from the mode of the prior.
        slopes: `(s,)` prior variances of the slopes along the last s columns; None: none.
    """
    slopes = np.zeros(0) if slopes is None else slopes
    width, linear = inputs.shape[1] - len(slopes), _linear(inputs, inputs, slopes)
    start, _ = _priors(lengths)
    bounds = [_LOG_LENGTH] * (len(start) - 2) + [_LOG_SIGNAL, _LOG_NOISE]
    found = minimize(
        negative_log_posterior,
        np.clip(start, [low for low, _ in bounds], [high for _, high in bounds]),
        args=(inputs[:, :width], targets, lengths, linear),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": iterations},
    )
    return replace(_kernel(found.x, lengths), slopes=slopes)


def negative_log_posterior(
    theta: Array, inputs: Array, targets: Array, lengths: Lengths, linear: Array | None = None
) -> tuple[float, Array]:
    """Minus the log posterior of log hyper-parameters, and its gradient (eq. 5.9).

    Args:
        theta: `(g + 2,)`: log lengths, log signal, log noise.
        lengths: of the features, g of them.
        linear: `(n, n)` covariance that hyper-parameters do not touch, None: there is none.
    """
    kernel, n = _kernel(theta, lengths), len(inputs)
    scaled = inputs / kernel.lengths
    r = np.sqrt(_squared(scaled, scaled))
    decay = kernel.signal * np.exp(-_ROOT5 * r)
    covariance = decay * (1.0 + _ROOT5 * r + (5.0 / 3.0) * r**2)
    noisy = covariance + (kernel.noise + 1e-8 * kernel.signal) * np.eye(n)
    noisy = noisy if linear is None else noisy + linear
    factor = cho_factor(noisy, lower=True, check_finite=False)
    weights = cho_solve(factor, targets, check_finite=False)
    value = 0.5 * targets @ weights + np.log(np.diag(factor[0])).sum()

    # d value / d K = -W / 2, with W = w w' - K^-1; W is symmetric.
    pull = np.outer(weights, weights) - cho_solve(factor, np.eye(n), check_finite=False)
    # dK / d log length_j = 5/3 signal (1 + sqrt5 r) exp(-sqrt5 r) (difference_j / length_j)^2:
    # the sum over pairs by two products, never an (n, n, d) array.
    slope = pull * decay * (5.0 / 3.0) * (1.0 + _ROOT5 * r)
    pulls = slope.sum(axis=1) @ scaled**2 - np.einsum("nd,nd->d", scaled, slope @ scaled)
    signal = 0.5 * ((pull * covariance).sum() + 1e-8 * kernel.signal * np.trace(pull))
    noise = 0.5 * kernel.noise * np.trace(pull)
    shared = np.bincount(lengths.of, pulls, minlength=len(theta) - 2)
    gradient = -np.concatenate([shared, [signal, noise]])

    centre, width = _priors(lengths)
    distance = (theta - centre) / width
    return float(value + 0.5 * distance @ distance), gradient + distance / width


def _kernel(theta: Array, lengths: Lengths) -> Kernel:
    return Kernel(
        np.exp(theta[:-2])[lengths.of], float(np.exp(theta[-2])), float(np.exp(theta[-1]))
    )


def _linear(a: Array, b: Array, slopes: Array) -> Array:
    """Covariance of sloped planes along the last columns of `(n, ...)` and `(k, ...)`: `(n, k)`."""
    width = a.shape[1] - len(slopes)
    return np.asarray((a[:, width:] * slopes) @ b[:, width:].T)


def _priors(lengths: Lengths) -> tuple[Array, Array]:
    """Centres and widths of the logarithms' normal priors."""
    return (
        np.concatenate([lengths.centres(), [0.0, np.log(1e-3)]]),
        np.concatenate([np.full(len(lengths.bent), 3.0**0.5), [1.0, 2.0]]),
    )


def _squared(a: Array, b: Array) -> Array:
    """Squared distances of `(n, d)` and `(k, d)`: `(n, k)`."""
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2.0 * a @ b.T
    return np.asarray(np.maximum(square, 0.0))
