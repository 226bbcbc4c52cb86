"""The fresh process of a proof: opens an exported folder as its users will, and asks it.

`python -m paretune.reports.export.prove FOLDER` prints one line of JSON: the figures, and what they
lack. It builds no model of its own: what answers is what lies in the folder.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...evaluators.compute.quantile import quantile
from ...evaluators.compute.timing import Patience, answering, timing_session
from ...evaluators.devices.here import device_problem
from ...evaluators.host import HostLock
from ...search.stages import cache_root
from ...spaces.paper import Workload
from ...spaces.steps import Runner
from .compare import compared, shortfalls
from .description import Description, read_description
from .made_with import made_with
from .proof import Proof, answered, load_proof
from .targets import target_of

TIMING_SECONDS = 5.0
"""Most seconds that the timing keeps the host to itself, as in the search."""


def prove(folder: Path) -> dict[str, Any]:
    """Figures of an exported folder, and its shortfalls.

    Returns:
        `figures` (of `compared`, then `latency_p50_ms` with `latency_stderr_ms` and the
        `cpu_share` that the process got and the `probe_ms` that the machine took meanwhile,
        `model_bytes`),
        `proved_in`, `as` (the closeness that was demanded), `shortfalls`.

    Raises:
        VerificationFailed: it does not open.
    """
    described, proof = read_description(folder), load_proof(folder)
    target, workload = target_of(described.format), _at_home(Workload(**described.workload))
    runner = target.open(folder, described, workload.threads, workload.torch_device)
    try:
        figures = compared(proof, answered(proof, runner, described.kind))
        figures |= _speed(runner, proof, workload)
        figures["model_bytes"] = sum(path.stat().st_size for path in runner.files())
    finally:
        runner.close()
    here = made_with(workload) == dict(described.made_with)
    demanded = described.closeness if here else "other computation"
    return {
        "figures": figures,
        "proved_in": target.library(described),
        "as": demanded,
        "shortfalls": [*shortfalls(figures, demanded), *_tokenizer(folder, described, proof)],
    }


def _at_home(workload: Workload) -> Workload:
    """The same on a device that this machine has: a folder made on a GPU opens without one."""
    absent = device_problem(workload.device) is not None
    return replace(workload, device="here") if absent else workload


def _speed(runner: Runner, proof: Proof, workload: Workload) -> dict[str, float | None]:
    patience = Patience(budget_s=TIMING_SECONDS)
    answering(runner, proof.timed, workload)()  # the first answer may compile the graph
    with HostLock(cache_root() / "host").measuring():
        timings = timing_session(runner, proof.timed, workload, patience)
    value, stderr = quantile(timings.seconds, 0.5)
    error = None if stderr is None else 1e3 * stderr
    probe = timings.probe_seconds
    return {
        "latency_p50_ms": 1e3 * value,
        "latency_stderr_ms": error,
        "cpu_share": timings.cpu_share,
        "probe_ms": None if probe is None else 1e3 * probe,
    }


def _tokenizer(folder: Path, described: Description, proof: Proof) -> list[str]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        return [f"the tokenizer does not load: {str(error).splitlines()[0]}"]
    largest = int(proof.input_ids.max())
    if largest >= len(tokenizer):
        return [f"the tokenizer has {len(tokenizer)} tokens, the data has token {largest}"]
    return []


if __name__ == "__main__":
    print(json.dumps(prove(Path(sys.argv[1]))))
