"""verify_export: an exported folder proved again, without the run that it came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...search.doubts import disturbed, drifted, pace
from .description import Description, check_files, read_description
from .fresh import fresh_proof


def verify_export(folder: Path) -> Mapping[str, Any]:
    """Compares every file with what was written, then asks the model anew in a fresh process.

    Args:
        folder: what `export_trial` wrote, wherever it lies now.

    Returns:
        As `export_trial`.

    Raises:
        BadRequest: it is no exported folder.
        VerificationFailed: a file differs (it is named), or the answers do.
    """
    folder = Path(folder)
    described = read_description(folder)
    check_files(folder, described)
    found = fresh_proof(folder, int(described.workload["threads"]))
    return summary(folder, described, found)


def summary(folder: Path, described: Description, found: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of a folder that was proved.

    Args:
        folder: where it lies.
        described: its `paretune.json`.
        found: what the fresh process said.
    """
    latency = described.figures.get("latency_p50", {}).get("value")
    size = described.figures.get("model_bytes", {}).get("value")
    return {
        "trial": described.trial,
        "format": described.format,
        "folder": str(folder),
        "files": len(described.files) + 1,
        "bytes": described.bytes,
        **found["figures"],
        "latency_doubts": latency_doubts(described, found),
        "searched_latency_p50_ms": None if latency is None else 1e3 * latency,
        "searched_model_bytes": None if size is None else round(size),
        "proved_in": found["proved_in"],
        "proved_as": found["as"],
    }


def latency_doubts(described: Description, found: Mapping[str, Any]) -> list[str]:
    """What speaks against comparing the proof's latency with the search's, a sentence each.

    Args:
        described: the folder's `paretune.json`. found: what the fresh process said.
    """
    searched = described.figures.get("latency_p50", {}).get("conditions", {})
    proved = {"threads": described.workload.get("threads"), **found["figures"]}
    words = ["the search timed it beside other work"] if disturbed(searched) else []
    words += ["this proof was timed beside other work"] if disturbed(proved) else []
    by = drifted(proved, searched)
    if by is not None:
        words.append(f"the machine was {pace(by)} for this proof as in the search")
    return words
