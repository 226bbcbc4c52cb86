"""How good samplers search: hypervolume per evaluation on problems that were measured elsewhere.

    python -m paretune.benchmarks.search --problem hwgpt:s:a100 --sampler greybox --evaluations 100

Prints a table, or JSON with `--json`; figures are means over seeds with their standard deviation.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ParetuneError, UnknownName
from ..search.samplers import TABLE, sampler
from ..search.samplers.problem import Problem
from .hwgpt import HwGpt

SHOWN = (5, 10, 15, 25, 50, 100, 200)
"""Evaluations after which the hypervolume is shown."""


def problem_named(text: str, folder: Path) -> HwGpt:
    """The problem of that name.

    Args:
        text: `hwgpt:SCALE:DEVICE`. folder: the measured data.

    Raises:
        UnknownName: no such problem.
    """
    family, *rest = text.split(":")
    if family != "hwgpt" or len(rest) != 2:
        raise UnknownName("problem", text, ["hwgpt:s:a100", "hwgpt:s:h100", "hwgpt:s:P100"])
    return HwGpt(rest[0], rest[1], folder)


def trace(problem: HwGpt, name: str, evaluations: int, seed: int) -> dict[str, Any]:
    """One study: hypervolume after each evaluation, and seconds per ask."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    reference = tuple(problem.bounds[1].tolist())
    known = Problem(problem.suggest, paper=problem.paper, reference=lambda: reference)
    study = optuna.create_study(
        directions=["minimize"] * len(problem.objectives), sampler=sampler(name).make(known, seed)
    )
    losses, volumes, seconds = [], [], []
    for _ in range(evaluations):
        start = time.perf_counter()
        trial = study.ask()
        configuration = problem.suggest(trial)
        seconds.append(time.perf_counter() - start)
        losses.append(problem.losses(configuration))
        study.tell(trial, losses[-1])
        volumes.append(problem.hypervolume(np.array(losses)))
    return {"seed": seed, "hypervolume": volumes, "seconds_per_ask": float(np.mean(seconds))}


def summary(traces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds, after the evaluations in `SHOWN`."""
    volumes = np.array([row["hypervolume"] for row in traces])
    shown = [n for n in SHOWN if n <= volumes.shape[1]]
    spread = volumes.std(axis=0, ddof=1) if len(volumes) > 1 else np.zeros(volumes.shape[1])
    return {
        "evaluations": shown,
        "mean": [float(volumes[:, n - 1].mean()) for n in shown],
        "deviation": [float(spread[n - 1]) for n in shown],
        "seconds_per_ask": float(np.mean([row["seconds_per_ask"] for row in traces])),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m paretune.benchmarks.search")
    parser.add_argument("--problem", default="hwgpt:s:a100", help="hwgpt:SCALE:DEVICE")
    parser.add_argument("--sampler", default="greybox", help=", ".join(TABLE))
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3, help="studies, seeded 0, 1, ...")
    parser.add_argument("--data", type=Path, default=Path("../shared/bench"))
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    asked = parser.parse_args(arguments)
    try:
        problem = problem_named(asked.problem, asked.data)
        traces = []
        for seed in range(asked.seeds):
            traces.append(trace(problem, asked.sampler, asked.evaluations, seed))
            print(f"seed {seed}: {traces[-1]['hypervolume'][-1]:.4f}", file=sys.stderr)
    except ParetuneError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    result = {"problem": asked.problem, "sampler": asked.sampler, **summary(traces)}
    if asked.json:
        print(json.dumps({**result, "traces": traces}))
    else:
        for n, mean, deviation in zip(
            result["evaluations"], result["mean"], result["deviation"], strict=True
        ):
            print(f"{n:>6}  {mean:.4f}  sd {deviation:.4f}")
        print(f"{result['seconds_per_ask']:.3f} s an ask")
    return 0


if __name__ == "__main__":
    sys.exit(main())
