"""Starts the fresh process of a proof, and judges what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from ...errors import VerificationFailed

TIMEOUT_S: Final = 3600.0
OFFLINE: Final = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""The folder must do with what it holds, and with a base that is already here."""


def fresh_proof(folder: Path, threads: int) -> dict[str, Any]:
    """What a new process says of an exported folder; see `prove.prove`.

    Args:
        folder: with `paretune.json` and `proof.npz`.
        threads: of the workload.

    Raises:
        VerificationFailed: the folder does not open, or answers otherwise than it should.
    """
    command = [sys.executable, "-m", "paretune.reports.export.prove", str(folder)]
    environment = {**os.environ, **OFFLINE, "OMP_NUM_THREADS": str(threads)}
    try:
        done = subprocess.run(
            command,
            env=environment,
            timeout=TIMEOUT_S,
            capture_output=True,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise VerificationFailed(f"the proof took longer than {TIMEOUT_S:g} s") from error
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
        raise VerificationFailed(f"a fresh process cannot use the folder: {last[0]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if found["shortfalls"]:
        figures = ", ".join(f"{name} {_short(value)}" for name, value in found["figures"].items())
        raise VerificationFailed(
            f"in {found['proved_in']} the exported model is not the searched one: "
            f"{'; '.join(found['shortfalls'])} (as {found['as']}: {figures})"
        )
    return found


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
