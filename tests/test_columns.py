"""Rounding column by column, against slow and direct solutions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paretune.spaces.precision.columns import DAMPING, _factor, by_columns, output_error
from paretune.spaces.profile import Format
from paretune.spaces.runtimes.grid import Grid, extremes

FORMATS = (Format("int8"), Format("int4", 32), Format("int4", 64), Format("int3", 32))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(count: int, tokens: int = 400, seed: int = 1) -> torch.Tensor:
    """The gram of inputs that share a few directions, as hidden states do."""
    shared = normal(tokens, 6, seed=seed) @ normal(6, count, seed=seed + 1)
    inputs = (shared + 0.3 * normal(tokens, count, seed=seed + 2)).double()
    return inputs.t() @ inputs


def damped(gram: torch.Tensor) -> torch.Tensor:
    return gram + DAMPING * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)


def one_by_one(rows: torch.Tensor, gram: torch.Tensor, grid: Grid, order: list[int]):
    """OBQ in a given order: after each column the best change of those that are left (eq. 2, 3)."""
    left, inverse = rows.double().clone(), torch.linalg.inv(damped(gram))
    integers = torch.zeros_like(left)
    for place in order:
        step = grid.scale[:, place // grid.size].double()
        zero = grid.zero[:, place // grid.size].double()
        whole = (torch.round(left[:, place] / step) + zero).clamp(grid.low, grid.high)
        lost = left[:, place] - (whole - zero) * step
        left -= torch.outer(lost / inverse[place, place], inverse[place])
        integers[:, place], left[:, place] = whole, (whole - zero) * step
        # the column leaves the inverse: Gaussian elimination of one row (eq. 3)
        inverse = inverse - torch.outer(inverse[:, place], inverse[place]) / inverse[place, place]
        inverse[place], inverse[:, place] = 0.0, 0.0
    return integers, left


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_blocks_of_columns_give_what_column_by_column_gives(form, ordered):
    rows, gram = normal(7, 200), correlated(200)
    grid = extremes(rows, form)
    sizes = gram.diagonal()
    order = torch.argsort(sizes, descending=True).tolist() if ordered else list(range(200))
    integers, values = one_by_one(rows, gram, grid, order)
    found = by_columns(rows, gram, grid, ordered=ordered)
    assert torch.equal(found.double(), integers)
    assert (grid.values(found).double() - values).abs().max() <= 1e-6


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_inputs_that_have_nothing_in_common_make_it_round_to_nearest(form):
    rows = normal(9, 100)
    grid = extremes(rows, form)
    for gram in (torch.eye(100), 7.0 * torch.eye(100), torch.diag(torch.arange(100.0))):
        found = by_columns(rows, gram.double(), grid, ordered=True)
        assert torch.equal(found, grid.nearest(rows))


def test_inputs_of_zeros_make_it_round_to_nearest():
    rows = normal(4, 40)
    grid = extremes(rows, Format("int4", 32))
    found = by_columns(rows, torch.zeros(40, 40, dtype=torch.float64), grid, ordered=True)
    assert torch.equal(found, grid.nearest(rows))


@given(seed=st.integers(0, 500), columns=st.integers(40, 150), ordered=st.booleans())
@settings(max_examples=25, deadline=None)
def test_outputs_are_nearer_than_after_round_to_nearest(seed, columns, ordered):
    rows, gram = normal(16, columns, seed=seed), correlated(columns, seed=seed)
    for form in FORMATS[1:]:
        grid = extremes(rows, form)
        found = by_columns(rows, gram, grid, ordered=ordered)
        assert found.min() >= grid.low
        assert found.max() <= grid.high
        error = output_error(grid.values(found) - rows, gram).sum()
        nearest = output_error(grid.values(grid.nearest(rows)) - rows, gram).sum()
        assert error < 0.8 * nearest


def test_what_was_pruned_stays_pruned():
    rows, gram = normal(8, 96), correlated(96)
    rows[rows.abs() < 0.5] = 0.0
    for form in FORMATS:
        grid = extremes(rows, form)
        values = grid.values(by_columns(rows, gram, grid, ordered=True))
        assert (values[rows == 0] == 0).all()


def test_fewer_tokens_than_columns_do_no_harm():
    rows, gram = normal(8, 300), correlated(300, tokens=20)
    grid = extremes(rows, Format("int4", 32))
    found = grid.values(by_columns(rows, gram, grid, ordered=True))
    nearest = grid.values(grid.nearest(rows))
    assert output_error(found - rows, gram).sum() < output_error(nearest - rows, gram).sum()
    assert (found - rows).norm() < 3 * (nearest - rows).norm()


def test_the_factor_is_of_the_inverse():
    gram = correlated(50)
    factor = _factor(gram, DAMPING)
    assert torch.equal(factor, factor.triu())
    identity = factor.t() @ factor @ damped(gram)
    assert torch.allclose(identity, torch.eye(50, dtype=torch.float64), atol=1e-9)


def test_output_error_is_that_of_the_outputs():
    inputs, change = normal(30, 12), normal(5, 12, seed=1)
    gram = (inputs.t() @ inputs).double()
    expected = (inputs @ change.t()).square().sum(dim=0)
    assert torch.allclose(output_error(change, gram), expected, rtol=1e-4)
