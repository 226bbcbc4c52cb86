"""`paretune.json`: what an exported folder says of itself, and whether its files are still that.

The file lists every other one with bytes and SHA-256. It cannot list itself, so it must stand there
exactly as it was written: any change of a byte shows as another text or as a wrong digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ...errors import BadRequest, VerificationFailed
from ...spaces.configuration import digest
from ...spaces.task import TaskKind

NAME: Final = "paretune.json"
LAYOUT: Final = 1
"""Version of this file; another one is refused."""


@dataclass(frozen=True)
class Description:
    """What an exported folder is.

    Args:
        format: the row of `targets()` that wrote it and opens it.
        closeness: how near it is to what was searched; decides what must be proved.
        run, trial, seed: where it comes from.
        configuration: as searched, JSON.
        runtime: that the trial ran on.
        kind: what it answers. labels: class names in the order of the outputs.
        task: `name`, `max_length`, `digest`, `texts`: how many an item has, 2 for pairs.
        base: the given model: `id` as the study names it, `digest` of its files, and the study's
            `allow_pickle` and `trust_remote_code`; absent is false.
        workload: for which speed was and is measured.
        options: what opening needs that the files do not say.
        remarks: where it differs from what was searched.
        figures, baseline: Measurements by metric, on the validation split, of the trial and of the
            run's baseline.
        test, baseline_test: the same on the test split, of the very models that the search judged;
            empty where they were not confirmed.
        made_with: versions and processor of the proof before handing over.
        proved: figures of that proof.
        files: bytes and SHA-256 of every other file, by relative name.
        over_seeds: lowest and highest figure of the test split by metric, where the trial was also
            trained under further seeds.
    """

    format: str
    closeness: str
    run: str
    trial: int
    seed: int
    configuration: Mapping[str, Any]
    runtime: str
    kind: TaskKind
    labels: tuple[str, ...]
    task: Mapping[str, Any]
    base: Mapping[str, Any]
    workload: Mapping[str, Any]
    options: Mapping[str, Any]
    remarks: tuple[str, ...]
    figures: Mapping[str, Any]
    baseline: Mapping[str, Any]
    test: Mapping[str, Any]
    baseline_test: Mapping[str, Any]
    made_with: Mapping[str, str]
    proved: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    over_seeds: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Bytes of all listed files."""
        return sum(int(file["bytes"]) for file in self.files.values())


def write_description(folder: Path, described: Description) -> Description:
    """Lists the files that now lie in a folder, and writes `paretune.json` beside them."""
    listed = {name: _state(folder / name) for name in _names(folder)}
    described = replace(described, files=listed)
    (folder / NAME).write_text(_text(asdict(described)), encoding="utf-8")
    return described


def read_description(folder: Path) -> Description:
    """What an exported folder says of itself.

    Raises:
        BadRequest: it was not made by an export, or by one of another layout.
        VerificationFailed: `paretune.json` is not what was written.
    """
    path = folder / NAME
    if not path.is_file():
        raise BadRequest(f"{folder} has no {NAME}; give a folder that `paretune export` wrote")
    try:
        text = path.read_text(encoding="utf-8")
        body: dict[str, Any] = json.loads(text)
        layout, said = body.pop("layout"), body.pop("digest")
        written = said == digest(body) and text == _text(body)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise VerificationFailed(f"{path} is damaged ({error}); export it anew") from error
    if layout != LAYOUT:
        raise BadRequest(
            f"{path} has layout {layout!r}, this version reads {LAYOUT}; use the version of "
            "paretune that wrote it, or export it anew"
        )
    if not written:
        raise VerificationFailed(f"{path} is not what was written; export it anew")
    tuples = {name: tuple(body[name]) for name in ("labels", "remarks")}
    return Description(**{**body, **tuples})


def check_files(folder: Path, described: Description) -> None:
    """Compares every file of a folder with what was written. Hidden ones are nobody's concern.

    Raises:
        VerificationFailed: every file that is missing, differs, or was not there.
    """
    present = set(_names(folder))
    wrong = [f"{name} is missing" for name in sorted(set(described.files) - present)]
    wrong += [f"{name} was not exported" for name in sorted(present - set(described.files))]
    for name in sorted(present & set(described.files)):
        wanted, found = described.files[name], _state(folder / name)
        if found["bytes"] != wanted["bytes"]:
            wrong.append(f"{name} has {found['bytes']} bytes instead of {wanted['bytes']}")
        elif found["sha256"] != wanted["sha256"]:
            wrong.append(f"{name} is not what was written (SHA-256)")
    if wrong:
        raise VerificationFailed(f"{folder}: {'; '.join(wrong)}; export it anew")


def _names(folder: Path) -> list[str]:
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    hidden = [path for path in paths if any(part.startswith(".") for part in path.parts)]
    return sorted(path.as_posix() for path in set(paths) - set(hidden) - {Path(NAME)})


def _state(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": found}


def _text(body: Mapping[str, Any]) -> str:
    whole = {"layout": LAYOUT, **body, "digest": digest(body)}
    return json.dumps(whole, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
