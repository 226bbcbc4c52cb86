"""Which points of a front are confirmed when there are more than the study asks for."""

from types import SimpleNamespace

import numpy as np
from paretune.search import confirm
from paretune.search.records import Record
from paretune.spaces.configuration import Configuration

LOSSES = np.array([[0.1, 90e6], [0.2, 50e6], [0.3, 49e6], [0.4, 10e6]])


def test_the_ends_of_a_front_are_not_the_first_to_be_dropped(monkeypatch):
    records = [Record(number, Configuration(), "final") for number in range(1, 5)]
    front = SimpleNamespace(judged=records, on=np.ones(4, dtype=bool), losses=LOSSES)
    monkeypatch.setattr(confirm, "current_front", lambda knowledge: front)
    monkeypatch.setattr(confirm, "recommend", lambda knowledge: 2)
    study = SimpleNamespace(seed=0, confirm=SimpleNamespace(points=3, seeds=0))
    storage = SimpleNamespace(records={record.number: record for record in records})
    wanted = confirm.confirmations(SimpleNamespace(study=study, storage=storage))
    assert sorted(wanted) == [(1, 0), (2, 0), (4, 0)]
