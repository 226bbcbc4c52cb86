"""A searched point leaves as a folder that a fresh process has proved, or not at all."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from paretune.errors import BadRequest, UnknownName, VerificationFailed
from paretune.reports.export import export_trial, verify_export
from paretune.reports.export import export as exporting
from paretune.search.records import Ask, Record
from paretune.search.run import Header, write_json
from paretune.search.study import Study
from paretune.search.trial import Laboratory
from paretune.spaces.configuration import Choice, Configuration

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FULL = Choice.of("full", learning_rate=5e-3)
LORA = Choice.of(
    "lora", rank=4, alpha_ratio=2.0, targets="attention-qv", learning_rate=2e-2, merge="keep"
)
ONNX = Choice.of("onnxruntime")
INT8 = Choice.of("int8", embeddings="int8", head="fp32")
BF16 = Choice.of("bf16", embeddings="bf16", head="fp32")


def reviews(path: Path, *, labels: bool = True) -> Path:
    """Six letters and a word that decides, but for every tenth text; or a text alone."""
    draw = random.Random(0)
    letters = [chr(c) for c in range(97, 123)]
    with path.open("w") as file:
        file.write("text,label\n" if labels else "text\n")
        for _ in range(600):
            label = draw.choice(["good", "bad"])
            words = [*draw.choices(letters, k=6), label]
            draw.shuffle(words)
            said = label if draw.random() < 0.9 else "good"
            file.write(" ".join(words) + (f",{said}\n" if labels else "\n"))
    return path


class Bed:
    """A run folder whose trials are made when a test first asks for them."""

    def __init__(self, folder: Path, model: Path, task: Path, quality: str = "accuracy") -> None:
        self.folder = folder
        folder.mkdir()
        output = 0 if quality == "accuracy" else 2
        self.study = Study.from_dict(
            {
                "model": str(model),
                "task": {"name": str(task), "max_length": 12},
                "workload": {"prompt_tokens": 12, "output_tokens": output},
                "objectives": [quality, "model_bytes"],
                "budget": {"trials": 9},
            }
        )
        (folder / "study.yaml").write_text(self.study.dump_yaml())
        write_json(folder / "run.json", {"format": 1, "name": "x", "storage": "sqlite:///study.db"})
        self.numbers: dict[str, str] = {}
        self.records: list[Record] = []

    def trial(self, **choices: Choice) -> str:
        """The number of the trial of this configuration, made if it is new."""
        configuration = Configuration.of(**choices)
        if configuration.digest not in self.numbers:
            self.numbers[configuration.digest] = str(len(self.records))
            self.add(configuration)
        return self.numbers[configuration.digest]

    def add(self, configuration: Configuration) -> None:
        number = len(self.records)
        ask = Ask(number, configuration, 0, 0, "search" if number else "baseline")
        blank = Record(number, configuration, "running", 0, ask.purpose)
        self.records.append(Laboratory.of(self.folder).judge(ask, blank, lambda *what: None))
        self.write()

    def write(self) -> None:
        rows = self.study.objective_rows()
        figures = self.records[0].measurements
        about = {"direction": "minimize", "resource": "quality", "definition": "-"}
        metrics = {n: {**about, "unit": m.unit} for n, m in figures.items()}
        metrics |= {row.name: {**metrics[row.name], **asdict(row)} for row in rows}
        header = Header("reviews", self.study.to_json(), rows, metrics)
        write_json(
            self.folder / "snapshot.json",
            {
                "stamp": [],
                "format": 1,
                "header": header.to_json(),
                "notes": {},
                "records": [record.to_json() for record in self.records],
                "confirmations": {},
                "spent_seconds": 1.0,
            },
        )


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("cache")
        patch.setenv("PARETUNE_CACHE", str(root))
        yield root


@pytest.fixture(scope="session")
def bed(tmp_path_factory, tiny_models, cache):
    root = tmp_path_factory.mktemp("export")
    made = Bed(root / "run", tiny_models["bert"], reviews(root / "reviews.csv"))
    made.trial(finetuning=FULL)
    return made


@pytest.fixture(scope="session")
def exported(bed, tmp_path_factory):
    """The baseline as a plain folder, and what was said of it."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    said = export_trial(bed.folder, "0", folder, None)
    return folder, said


def test_a_plain_trial_becomes_a_transformers_folder_with_identical_answers(bed, exported):
    folder, said = exported
    assert (said["format"], said["trial"]) == ("hf", 0)
    assert said["proved_in"].startswith("transformers ")
    assert said["agreement"] == 1
    assert said["largest_difference"] <= 1e-4
    assert said["accuracy"] == said["searched_accuracy"] > 0.8
    assert said["latency_p50_ms"] > 0
    assert (
        said["bytes"]
        == sum(p.stat().st_size for p in folder.iterdir())
        - (folder / "paretune.json").stat().st_size
    )
