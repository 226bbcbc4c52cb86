"""Scales fitted to weights alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paretune.spaces.precision import half_quadratic as file
from paretune.spaces.precision.half_quadratic import half_quadratic, lost
from paretune.spaces.profile import Format
from paretune.spaces.runtimes.grid import extremes

FORMATS = (Format("int8"), Format("int4", 32), Format("int4", 128), Format("int3", 64))


def heavy(*shape: int, seed: int = 0) -> torch.Tensor:
    """Weights with outliers: a cubed normal."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) ** 3 * 0.02


@given(seed=st.integers(0, 500), columns=st.integers(1, 150), form=st.sampled_from(FORMATS))
@settings(max_examples=40, deadline=None)
def test_no_group_loses_more_than_with_round_to_nearest(seed, columns, form):
    rows = heavy(5, columns, seed=seed)
    found = half_quadratic(rows, form)
    assert (lost(rows, found) <= lost(rows, extremes(rows, form))).all()
    assert found.zero.min() >= max(found.low, 0)
    assert found.zero.max() <= found.high
    assert torch.equal(found.zero, found.zero.round())


@pytest.mark.parametrize("form", FORMATS[1:], ids=str)
def test_weights_with_outliers_gain(form):
    rows = heavy(64, 512)
    gained = lost(rows, half_quadratic(rows, form)).sum() / lost(rows, extremes(rows, form)).sum()
    assert gained < 0.97


@pytest.mark.parametrize("form", FORMATS[1:], ids=str)
def test_scales_are_numbers_that_fp16_holds(form):
    scale = half_quadratic(heavy(64, 512), form).scale
    assert torch.equal(scale, scale.half().float())
    assert (scale > 0).all()


def test_zeros_and_one_value_stay_exact():
    for rows in (torch.zeros(3, 70), torch.full((3, 64), 0.25)):
        grid = half_quadratic(rows, Format("int4", 32))
        assert torch.allclose(grid.values(grid.nearest(rows)), rows, atol=1e-4)


def test_tables_are_fitted_a_few_rows_at_a_time(monkeypatch):
    rows = heavy(50, 96)
    whole = half_quadratic(rows, Format("int4", 32))
    monkeypatch.setattr(file, "_ROWS", 7)
    parts = half_quadratic(rows, Format("int4", 32))
    assert torch.equal(whole.scale, parts.scale)
    assert torch.equal(whole.zero, parts.zero)
