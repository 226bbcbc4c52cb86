"""Every row of every slot's table, on three families: paper and practice agree."""

from __future__ import annotations

import gc
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
from paretune.spaces.load import Load
from paretune.spaces.models import inspect_model, profile_of
from paretune.spaces.slots import slots
from paretune.spaces.testing import (
    CHECKS,
    Case,
    MemoryBench,
    Specimen,
    cases_of,
    check_off,
    check_row,
)

FAMILIES = {"bert": "classification", "llama": "language-modelling", "gpt2": "language-modelling"}
ROWS = [(slot, method) for slot in slots() for method in slots()[slot].techniques]


@pytest.fixture(scope="module", autouse=True)
def _settled(tiny_models):
    """Libraries' objects are not looked through again each time that a runner is closed."""
    gc.freeze()
    yield
    gc.unfreeze()


@lru_cache
def specimen(family: str, folder: Path) -> Specimen:
    source = inspect_model(str(folder))
    profile = profile_of(source, FAMILIES[family], 3)
    loaded = Load(source, profile).apply(None, MemoryBench(None), 0)
    # as behind a training: gradients are then asked on classifiers too
    return Specimen.of(replace(loaded, paper=replace(loaded.paper, learnt=("*",))))


@lru_cache(maxsize=1)
def cases(slot: str, method: str, family: str, folder: Path) -> list[Case]:
    """All cases of a row on a family; the checks of one row follow each other and share them."""
    return cases_of(slots()[slot].techniques[method], specimen(family, folder))


@pytest.mark.parametrize(
    ("slot", "method", "family", "check"),
    [(*row, family, check) for row in ROWS for family in FAMILIES for check in CHECKS],
)
def test_the_contract(slot, method, family, check, tiny_models):
    row = cases(slot, method, family, tiny_models[family])
    check_row(check, row)


@pytest.mark.parametrize(("slot", "method"), ROWS)
def test_a_row_has_the_name_it_stands_under(slot, method):
    assert slots()[slot].techniques[method].name == method


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("slot", list(slots()))
def test_a_slot_left_as_it_is_changes_nothing(slot, family, tiny_models):
    check_off(slots()[slot], specimen(family, tiny_models[family]))


@pytest.mark.parametrize(("slot", "method"), ROWS)
def test_every_row_is_legal_on_some_family(slot, method, tiny_models):
    row = slots()[slot].techniques[method]
    tried = [c for family in FAMILIES for c in cases_of(row, specimen(family, tiny_models[family]))]
    assert any(not case.objections for case in tried)
