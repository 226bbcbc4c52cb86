"""Artifact: the folder that a Deploy writes, and what it says of itself.

FOLDER/artifact.json   {"format": 1, "runtime": name, "version": n, "task_kind": ...,
                        "files": {relative name: {"bytes": n, "sha256": hex}}}
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ...errors import VerificationFailed
from ..task import TaskKind

NAME: Final = "artifact.json"
FORMAT: Final = 1


@dataclass(frozen=True)
class Description:
    """What `artifact.json` says.

    Args:
        runtime: the row that wrote it and opens it.
        version: that row's version.
        task_kind: what it answers.
        files: bytes and SHA-256 of every file beside it, by relative name.
    """

    runtime: str
    version: int
    task_kind: TaskKind
    files: dict[str, tuple[int, str]]


def describe(folder: Path, runtime: str, version: int, task_kind: TaskKind) -> None:
    """Writes `artifact.json` over the files that now lie in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
    listed = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in files
    }
    body = {"format": FORMAT, "runtime": runtime, "version": version, "task_kind": task_kind}
    (folder / NAME).write_text(json.dumps({**body, "files": listed}, indent=1))


def read_description(folder: Path) -> Description:
    """What a folder says of itself.

    Raises:
        VerificationFailed: it is no artifact, or one of another format.
    """
    path = folder / NAME
    try:
        body: dict[str, Any] = json.loads(path.read_text())
        if body["format"] != FORMAT:
            raise VerificationFailed(
                f"{path} has format {body['format']!r}, this version reads {FORMAT}; export it anew"
            )
        files = {name: (int(f["bytes"]), str(f["sha256"])) for name, f in body["files"].items()}
        return Description(body["runtime"], int(body["version"]), body["task_kind"], files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise VerificationFailed(f"{folder} is no artifact ({error!r}); export it anew") from error


def verify_files(folder: Path) -> Description:
    """Compares every file of an artifact with what was written.

    Raises:
        VerificationFailed: the first file that is missing or differs, in bytes or in content.
    """
    described = read_description(folder)
    for name, (size, sha256) in described.files.items():
        path = folder / name
        if not path.is_file():
            raise VerificationFailed(f"{path} is missing; export it anew")
        found = path.stat().st_size
        if found != size:
            raise VerificationFailed(f"{path} has {found} bytes instead of {size}; export it anew")
        if _sha256(path) != sha256:
            raise VerificationFailed(f"{path} is not what was written (SHA-256); export it anew")
    return described


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
