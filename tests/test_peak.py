"""Peak memory is taken in a process of its own."""

import os
from pathlib import Path

import numpy as np
import pytest
from paretune.evaluators.memory.peak import peak_memory
from paretune.evaluators.memory.probe import high_water_bytes
from paretune.spaces.paper import Workload
from paretune.spaces.task import Batch

BATCH = Batch(*(np.zeros((2, 4), dtype=np.int64) for _ in range(4)))
MIB = 2**20
OPENER = """
import numpy as np

class Heavy:
    def __init__(self, mebibytes):
        self.weights = np.ones(mebibytes * 2**17)

    def logits(self, batch):
        return np.zeros((len(batch.input_ids), 2))

    def generate(self, batch, tokens):
        self.cache = np.ones(tokens * 2**17)
        return np.zeros((len(batch.input_ids), tokens))

    def close(self):
        pass

def open_it(folder, *, threads, device):
    return Heavy(int((folder / "mebibytes").read_text()))
"""


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch):
    (tmp_path / "heavy_opener.py").write_text(OPENER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def made(mebibytes: int) -> Path:
        folder = tmp_path / f"artifact{mebibytes}"
        folder.mkdir()
        (folder / "mebibytes").write_text(str(mebibytes))
        return folder

    return made


def peak(folder: Path, **settings):
    return peak_memory(folder, BATCH, Workload(**settings), opener="heavy_opener:open_it")


def test_a_heavier_artifact_peaks_as_much_higher(artifact):
    light, heavy = peak(artifact(10)), peak(artifact(110))
    assert heavy.bytes - light.bytes == pytest.approx(100 * MIB, abs=8 * MIB)
    assert light.bytes > light.baseline_bytes > 0


def test_the_size_of_the_asking_process_does_not_matter(artifact):
    ballast = np.ones(200 * 2**17)
    found = peak(artifact(10))
    assert found.bytes < high_water_bytes()
    assert found.bytes < ballast.nbytes


def test_what_writing_needs_is_in_the_peak(artifact):
    folder = artifact(10)
    grown = peak(folder, output_tokens=60).bytes - peak(folder).bytes
    assert grown == pytest.approx(60 * MIB, abs=8 * MIB)


def test_an_artifact_that_does_not_open_has_no_peak_but_a_reason(tmp_path):
    found = peak(tmp_path / "nowhere")
    assert found.bytes is None
    assert "heavy_opener" in found.reason


def test_a_process_that_takes_too_long_is_ended(artifact):
    found = peak_memory(
        artifact(10), BATCH, Workload(), opener="heavy_opener:open_it", timeout_s=0.01
    )
    assert found.bytes is None
    assert "longer than 0.01 s" in found.reason
