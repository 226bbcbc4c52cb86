from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paretune.errors import StepFailed
from paretune.spaces.profile import Format, Head, Profile, Weight
from paretune.spaces.runtimes.packing import (
    pack_groups,
    pack_int8,
    packed,
    unpack_groups,
    unpacked,
)
from paretune.spaces.runtimes.payload import Part, parts, stored_format

DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.int8,
    "uint8": torch.uint8,
}
FORMATS = (
    Format(),
    Format("bf16"),
    Format("int8"),
    Format("int4"),
    Format("int4", 64),
    Format("int4", 128),
    Format("fp16"),
    Format("int3"),
    Format("int3", 64),
)
WEIGHTS = (
    Weight("linear.weight", (24, 50), "ffn", "matrix"),
    Weight("conv.weight", (50, 24), "ffn", "matrix", input_axis=0),
    Weight("table.weight", (30, 33), "ffn", "table"),
    Weight("linear.bias", (24,), "ffn", "vector"),
)


def profile(form: Format) -> Profile:
    head = Head("classification", 2)
    return Profile("bert", 32, 10, 8, 2, (), head, formats=(("ffn", form),))


def values(shape, seed=0, scale=1.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1.0, 1e4])
def test_an_int8_weight_is_off_by_half_a_step_at_most(scale):
    rows = values((40, 70), scale=scale)
    found = pack_int8(rows)
    error = (found["int8"].float() * found["scale"][:, None] - rows).abs()
    assert (error <= found["scale"][:, None] * 0.5001).all()


@given(
    seed=st.integers(0, 2**16),
    columns=st.integers(1, 150),
    size=st.sampled_from([32, 64, 128]),
    name=st.sampled_from(["int4", "int3"]),
)
@settings(max_examples=60, deadline=None)
def test_a_weight_in_groups_is_off_by_half_a_step_at_most(seed, columns, size, name):
    rows = values((3, columns), seed) + values((3, 1), seed + 1)
    found = pack_groups(rows, Format(name, size))
    step = found["scale"].float().repeat_interleave(size, dim=1)[:, :columns]
    restored = unpack_groups(found)[:, :columns]
    assert ((restored - rows).abs() <= step * 0.5001 + 1e-7).all()


def test_what_four_bits_hold_exactly_survives():
    rows = (torch.arange(64) % 16 - 5).float()[None] * 0.25
    found = pack_groups(rows, Format("int4", 32))
    assert torch.equal(unpack_groups(found), rows)


def test_the_first_weight_lies_in_the_low_half_of_a_byte():
    rows = torch.zeros(1, 32)
    rows[0, 0] = 15.0
    assert pack_groups(rows, Format("int4", 32))["int4"][0, 0, 0] == 15


@pytest.mark.parametrize("name", ["int8", "int4", "int3"])
def test_zeros_stay_zeros(name):
    weight = WEIGHTS[0]
    zeros = torch.zeros(weight.shape)
    assert torch.equal(unpacked(packed(profile(Format(name)), weight, zeros), weight), zeros)


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("weight", WEIGHTS, ids=lambda weight: weight.name)
def test_the_parts_on_paper_are_the_parts_that_are_made(form, weight):
    found = packed(profile(form), weight, values(weight.shape))
    promised = parts(profile(form), weight)
    assert {part.name: (DTYPES[part.dtype], part.shape) for part in promised} == {
        name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in found.items()
    }
    assert sum(part.bytes for part in promised) == sum(tensor.nbytes for tensor in found.values())


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("weight", WEIGHTS, ids=lambda weight: weight.name)
def test_a_weight_comes_back_as_the_module_lays_it_out(form, weight):
    given = values(weight.shape)
    restored = unpacked(packed(profile(form), weight, given), weight)
    assert restored.shape == given.shape
    assert restored.is_contiguous()
    limit = {"fp32": 0.0, "fp16": 0.001, "bf16": 0.01, "int8": 0.01, "int4": 0.15, "int3": 0.3}
    error = (restored - given).norm() / given.norm()
    assert error <= limit[stored_format(profile(form), weight).name]


def test_what_three_bits_hold_exactly_survives():
    rows = (torch.arange(64) % 8 - 3).float()[None] * 0.25
    assert torch.equal(unpack_groups(pack_groups(rows, Format("int3", 32))), rows)


def test_eight_weights_of_three_bits_lie_in_three_bytes_lowest_first():
    rows = torch.zeros(1, 32)
    rows[0, 0], rows[0, 1] = 7.0, 1.0
    assert pack_groups(rows, Format("int3", 32))["int3"][0, 0, :3].tolist() == [7 + 8, 0, 0]
    rows[0, :2], rows[0, 7] = 0.0, 7.0
    assert pack_groups(rows, Format("int3", 32))["int3"][0, 0, :3].tolist() == [0, 0, 7 << 5]


def test_int3_takes_three_bits_and_five_eighths_of_a_weight_in_groups_of_32():
    weight = Weight("w", (8, 1024), "ffn", "matrix")
    found = sum(part.bytes for part in parts(profile(Format("int3", 32)), weight))
    assert found * 8 / weight.count == pytest.approx(3 + 16 / 32 + 4 / 32)


def test_int4_takes_four_bits_and_five_eighths_of_a_weight_in_groups_of_32():
    weight = Weight("w", (8, 1024), "ffn", "matrix")
    found = sum(part.bytes for part in parts(profile(Format("int4", 32)), weight))
    assert found * 8 / weight.count == pytest.approx(4 + 16 / 32 + 4 / 32)


def test_vectors_never_go_below_sixteen_bits():
    bias = WEIGHTS[-1]
    for name in ("int8", "int4", "int3"):
        assert parts(profile(Format(name)), bias) == (Part("plain", "fp32", (24,)),)
    assert parts(profile(Format("bf16")), bias) == (Part("plain", "bf16", (24,)),)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_is_a_diverged_training(bad):
    given = values(WEIGHTS[0].shape)
    given[3, 4] = bad
    with pytest.raises(StepFailed, match=r"linear.weight holds NaN or infinity") as caught:
        packed(profile(Format("int8")), WEIGHTS[0], given)
    assert caught.value.kind == "diverged"


def test_a_weight_too_large_for_fp16_is_refused_with_what_to_do():
    given = values(WEIGHTS[0].shape)
    given[3, 4] = 70_000.0
    with pytest.raises(
        StepFailed, match=r"linear.weight is too large for fp16; choose bf16"
    ) as bad:
        packed(profile(Format("fp16")), WEIGHTS[0], given)
    assert bad.value.kind == "illegal"


def test_packing_leaves_the_given_tensor_alone():
    given = values(WEIGHTS[0].shape)
    before = given.clone()
    for form in FORMATS:
        packed(profile(form), WEIGHTS[0], given)
    assert torch.equal(given, before)
