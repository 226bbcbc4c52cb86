"""What the surrogates believe about every objective and every measured limit.

Each unknown figure has a Gaussian process of its own on a standardised scale (logarithmic where all
figures are positive and none is next to nothing).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .problem import Memory
from .surrogate import Kernel, Lengths, Posterior, condition, fit

Array = NDArray[np.float64]

REFIT_EACH, REFIT_STEP = 50, 5
"""Hyper-parameters are fitted anew for each trial up to 50, then for every fifth."""

MOST_FITTED, MOST_ROWS = 200, 600
"""Rows that hyper-parameters are fitted to, and rows that are conditioned on: bounds on seconds."""


LOG_SPAN = 1e3
"""Figures that come below the reference by more than this factor are taken plainly: costs span
decades, but of what may come as near to 0 as it likes each step nearer would count as much as the
last."""


@dataclass(frozen=True)
class Scale:
    """One kind of figure on a scale where its spread is 1.

    Args:
        log: taken as logarithms. centre, spread: of what was seen.
        cap: figures beyond it (scaled) are drawn in: a hopeless trial must not bend the surface.
        floor: figures below it count as it, where logarithms are taken.
    """

    log: bool
    centre: float
    spread: float
    cap: float = np.inf
    floor: float = 0.0

    @staticmethod
    def of(values: Array, reference: float | None) -> Scale:
        """The scale for `(n,)` figures, n >= 1.

        Args:
            reference: figures far beyond it teach nothing; None: no such thing.
        """
        most = float(values.max() if reference is None else reference)
        log = most > 0 and float(values.min()) > most / LOG_SPAN
        moved, floor = (np.log(values), most / LOG_SPAN) if log else (values, 0.0)
        if reference is None:
            return Scale(log, float(moved.mean()), float(moved.std()) or 1.0, floor=floor)
        end = float(np.log(reference) if log else reference)
        # Nearer to the reference it would take away what most of a random design says.
        cap = end + max(end - float(moved.min()), 0.0)
        drawn_in = np.minimum(moved, cap)
        centre, spread = float(drawn_in.mean()), float(drawn_in.std()) or 1.0
        return Scale(log, centre, spread, (cap - centre) / spread, floor)

    def __call__(self, values: Array) -> Array:
        """Figures on the scale."""
        moved = np.log(np.maximum(values, self.floor)) if self.log else values
        return np.asarray((moved - self.centre) / self.spread)

    def back(self, scaled: Array) -> Array:
        """Figures from where they lie on the scale."""
        moved = self.centre + self.spread * scaled
        return np.asarray(np.exp(moved) if self.log else moved)

    def drawn_in(self, values: Array) -> Array:
        """Figures on the scale, none beyond the cap."""
        return np.minimum(self(values), self.cap)


def fitted_kernel(
    memory: Memory, inputs: Array, targets: Array, lengths: Lengths, slopes: Array | None = None
) -> Kernel:
    """The hyper-parameters for these rows, and a function of them alone."""
    step = -(-len(inputs) // MOST_FITTED)
    rows, figures = np.ascontiguousarray(inputs[::step]), np.ascontiguousarray(targets[::step])
    parts = [rows, figures, lengths.of, lengths.bent]
    parts += [] if slopes is None else [slopes]
    name = hashlib.sha256(b"".join(part.tobytes() for part in parts)).digest()
    return memory.recall(("kernel", name), lambda: fit(rows, figures, lengths, slopes=slopes))


def fitting_count(finished: int) -> int:
    """How many of the finished trials, by number, hyper-parameters are fitted to."""
    return finished if finished <= REFIT_EACH else finished - finished % REFIT_STEP


def learn(
    memory: Memory,
    inputs: Array,
    targets: Array,
    fitted: NDArray[np.bool_],
    lengths: Lengths,
    slopes: Array | None = None,
) -> Posterior:
    """What is believed about one figure.

    Args:
        inputs: `(n, d)` standardised features, in the order of trial numbers.
        targets: `(n,)` figures on their scale.
        fitted: `(n,)` whether hyper-parameters are fitted to the row.
        lengths: of the features.
        slopes: `(s,)` prior variances of the slopes along s further inputs; None: none.
    """
    kernel = fitted_kernel(memory, inputs[fitted], targets[fitted], lengths, slopes)
    return condition(kernel, inputs[-MOST_ROWS:], targets[-MOST_ROWS:])
