"""The built-in docstrings task: masked, balanced, split by file, the same everywhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from paretune.errors import DataError
from paretune.evaluators.tasks import TaskSpec, docstrings, load_task
from paretune.evaluators.tasks.docstrings import PACKAGES, PER_CLASS, PINNED
from paretune.evaluators.tasks.rows import Rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("docstrings")


@pytest.fixture(scope="module")
def rows(folder: Path) -> Rows:
    """The extracted rows; under the pinned versions their digest is proved on the way."""
    return docstrings.docstring_rows(TaskSpec("docstrings"), folder)


def test_every_class_has_its_full_share_of_every_split(rows: Rows) -> None:
    for split, wanted in PER_CLASS.items():
        counts = Counter(row["label"] for row in rows.splits[split])
        assert counts == dict.fromkeys(PACKAGES, wanted)


def test_no_text_names_a_class(rows: Rows) -> None:
    names = re.compile(
        r"torch|numpy|pandas|scipy|sklearn|scikit|sympy|networkx|transformers|sqlalchemy"
        r"|hugging.?face|\bnp\b|\bpd\b|\bnx\b|(?<![a-z])np_",
        re.IGNORECASE,
    )
    told = [row["text"] for part in rows.splits.values() for row in part]
    assert [text for text in told if names.search(text)] == []


def test_no_two_texts_are_nearly_the_same(rows: Rows) -> None:
    # Checked on whole prefixes, another way than the extraction's word shingles.
    starts = Counter(
        " ".join(re.findall(r"\w+", row["text"].lower())[:25])
        for part in rows.splits.values()
        for row in part
    )
    assert [start for start, count in starts.items() if count > 1 and len(start) > 100] == []


def test_texts_have_a_usable_length(rows: Rows) -> None:
    lengths = [len(row["text"]) for part in rows.splits.values() for row in part]
    assert min(lengths) >= 60
    assert max(lengths) <= 320


def test_no_file_feeds_two_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    inner = docstrings._readable
    monkeypatch.setattr(docstrings, "_readable", lambda p: read.append(str(p)) or inner(p))
    docstrings._texts_of("networkx", docstrings._Distinct())
    assert read
    assert len(read) == len(set(read))


def test_the_pins_are_those_of_the_lock_file() -> None:
    lock = (Path(__file__).parents[1] / "requirements.lock").read_text(encoding="utf-8")
    pinned = dict(line.split("==") for line in lock.splitlines() if "==" in line)
    assert {name: pinned[name] for name in PINNED} == PINNED
    assert set(PINNED) == set(PACKAGES.values())


def test_rows_come_from_the_cache_the_second_time(
    folder: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docstrings, "_extracted", lambda: pytest.fail("extracted again"))
    again = docstrings.docstring_rows(TaskSpec("docstrings"), folder)
    assert docstrings.rows_digest(again.splits) == docstrings.rows_digest(rows.splits)


def test_pinned_versions_with_other_rows_are_refused(rows: Rows, tmp_path: Path) -> None:
    altered = {**rows.splits, "test": rows.splits["test"][1:]}
    local = {name: f"{number}+cpu" for name, number in PINNED.items()}
    with pytest.raises(DataError, match=r"reinstall .* as requirements.lock pins them"):
        docstrings._check(altered, local, tmp_path / "rows.json")


def test_other_versions_are_accepted_with_other_rows(rows: Rows, tmp_path: Path) -> None:
    altered = {**rows.splits, "test": rows.splits["test"][1:]}
    docstrings._check(altered, {**PINNED, "numpy": "2.5.0"}, tmp_path / "rows.json")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(docstrings, "PACKAGES", {"nosuchpackage": "no-such-package"})
    with pytest.raises(DataError, match="no-such-package, which is not installed"):
        docstrings.docstring_rows(TaskSpec("docstrings"), tmp_path)
    with pytest.raises(DataError, match="cannot find the source of nosuchpackage"):
        docstrings._extracted()


def test_classes_are_balanced_to_the_smallest() -> None:
    found = {
        "one": {split: ["a", "b", "c"] for split in PER_CLASS},
        "two": {split: ["d", "e"] for split in PER_CLASS},
    }
    labels = [row["label"] for row in docstrings._balanced(found)["train"]]
    assert labels == ["one", "two", "one", "two"]
    found["two"]["test"] = []
    with pytest.raises(DataError, match="no usable docstring for test in two"):
        docstrings._balanced(found)


def test_docstrings_of_modules_classes_and_functions_are_found() -> None:
    tree = ast.parse(
        '"m"\nclass A:\n    "c"\n    def f(self):\n        "f"\n        "not this"\n'
        'async def g():\n    "g"\n    def h():\n        "h"\nx = "nor this"\ndef e(): 3\n'
    )
    assert list(docstrings._docstrings(tree)) == ["m", "c", "f", "g", "h"]


def test_source_is_read_without_importing_it(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from paretune.evaluators.tasks import docstrings; "
        "docstrings._texts_of('networkx', docstrings._Distinct()); "
        "sys.exit('networkx' in sys.modules or 'torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_task_encodes(tiny_models: dict[str, Path], folder: Path, rows: Rows) -> None:
    task = load_task(TaskSpec("docstrings", max_length=16), tiny_models["bert"], folder)
    assert task.labels == tuple(PACKAGES)
    assert {split: len(items) for split, items in task.splits.items()} == {
        "train": 1200,
        "calibration": 300,
        "validation": 400,
        "test": 2000,
    }
    head = task.splits["validation"].labels[:100]
    assert len(set(head.tolist())) == 10, "a leading share holds every class"
