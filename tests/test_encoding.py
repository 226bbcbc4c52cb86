"""What the surrogate sees against plain definitions."""

import math
from statistics import fmean, pstdev, pvariance

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paretune.search.samplers.encoding import Knobs, Scaling
from paretune.search.samplers.surrogate import Lengths

VALUES = {
    "rate": st.floats(1e-6, 1.0),
    "share": st.floats(-1.0, 1.0),
    "kind": st.sampled_from(["a", "b", None, True, 2.5]),
    "lists": st.sampled_from([[1, 2], [3]]),
    **{f"width_{i}": st.integers(1, 64) for i in range(5)},
}
ROWS = st.lists(st.fixed_dictionaries({}, optional=VALUES), min_size=1, max_size=12)


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def slow_encoding(sample, row):
    """Knob by knob, straight from the words of the module."""
    names = sorted({name for one in sample for name in one})
    seen = {name: [one[name] for one in sample if name in one] for name in names}
    numeric = [name for name in names if all(map(is_number, seen[name]))]
    layers = [name for name in numeric if name.startswith("width_")]
    layers = layers if len(layers) >= 4 else []
    out = []
    for name in numeric:
        if name in layers:
            continue
        low, high = min(seen[name]), max(seen[name])
        log = low > 0 and high >= 10 * low
        value = row.get(name)
        if not is_number(value) or (log and value <= 0):
            ends = (math.log(low), math.log(high)) if log else (low, high)
            out.append(sum(ends) / 2)
        else:
            out.append(math.log(value) if log else value)
    for name in names:
        if name not in numeric:
            out += [float(str(row.get(name)) == text) for text in sorted({*map(str, seen[name])})]
    if layers:
        there = [row[name] for name in layers if name in row]
        out += [sum(there), pvariance(there) if there else 0.0]
        out += [row.get(name, fmean(there) if there else 0.0) for name in layers]
    return out


@given(ROWS, st.fixed_dictionaries({}, optional=VALUES))
@settings(max_examples=80, deadline=None)
def test_an_encoding_is_that_of_its_words(sample, row):
    numbering = Knobs.of(sample)
    encoded = numbering.encode(row)
    assert encoded == pytest.approx(slow_encoding(sample, row), abs=1e-9)
    assert len(numbering.lengths().of) == len(encoded)


@pytest.mark.parametrize("size", [1, 2, 1001])
@pytest.mark.parametrize("asked", [0, 1, 1001])
def test_a_scaling_is_that_of_its_words(size, asked):
    rng = np.random.default_rng(size)
    sample = rng.integers(0, 4, size=(size, 6)).astype(float)
    sample[:, 3] = 2.0  # says nothing
    sample[:, 4] = 5.0 - 3.0 * sample[:, 1]  # says what another does
    scaling = Scaling.of(sample, Lengths.each(6))
    columns = [sample[:, j] for j in range(6)]
    kept = []
    for j, column in enumerate(columns):
        if column.std() > 0 and not any(
            abs(np.corrcoef(column, columns[i])[0, 1]) >= 0.9999 for i in kept
        ):
            kept.append(j)
    assert scaling.keep.tolist() == kept
    rows = 10 * rng.standard_normal((asked, 6))
    scaled = scaling(rows)
    assert scaled.shape == (asked, len(kept))
    for place, j in enumerate(kept):
        centre, spread = fmean(columns[j]), pstdev(columns[j])
        slow = [(value - centre) / spread for value in rows[:, j]]
        assert scaled[:, place] == pytest.approx([min(max(value, -4.0), 4.0) for value in slow])
