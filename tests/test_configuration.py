from __future__ import annotations

import pytest
from paretune.spaces.configuration import Choice, Configuration
from paretune.spaces.hyperparameter import Integer, OneOf, Real, narrow


def test_equal_meaning_gives_an_equal_digest_whatever_the_order():
    one = Configuration.of(precision=Choice.of("int4", group_size=32, embeddings="int8"))
    other = Configuration.of(precision=Choice.of("int4", embeddings="int8", group_size=32))
    assert one == other
    assert one.digest == other.digest


def test_a_configuration_survives_json():
    one = Configuration.of(finetuning=Choice.of("lora", rank=8, learning_rate=5e-4))
    assert Configuration.from_json(one.to_json()) == one


def test_an_unknown_slot_is_refused():
    with pytest.raises(KeyError, match="no slot 'precison'"):
        Configuration.of(precison=Choice.of("int8"))


@pytest.mark.parametrize(
    ("knob", "wanted"),
    [
        (Integer("rank", 2, 64, 8), [1, 8]),
        (Integer("rank", 2, 64, 8), [16, 8]),
        (Integer("rank", 2, 64, 8), 2.5),
        (Integer("rank", 2, 64, 8), [2, 4, 8]),
        (Real("lr", 1e-5, 1e-2, 1e-3), 1.0),
        (Real("lr", 1e-5, 1e-2, 1e-3), True),
        (OneOf("targets", ("qv", "all"), "qv"), "q"),
        (OneOf("group", (32, 64), 32), True),
        (OneOf("group", (32, 64), 32), {"value": [32]}),
    ],
)
def test_a_narrowing_outside_what_is_allowed_is_refused(knob, wanted):
    with pytest.raises(ValueError, match=knob.name):
        narrow(knob, wanted)


def test_exact_values_of_a_number_become_an_ordered_choice():
    knob = narrow(Integer("rank", 2, 64, 8), {"values": [4, 8, 16]})
    assert knob == OneOf("rank", (4, 8, 16), 8, ordered=True)
