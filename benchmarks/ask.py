"""What one ask of the grey-box sampler takes: seconds and memory, by how much was seen before.

    python -m paretune.benchmarks.ask --problem hwgpt:s:a100 --trials 200 --asks 10

The history is drawn at random and told to an Optuna study in memory; then the sampler asks on, and
is told, as in a search. The first ask begins with empty memories. Some of the later ones fit
hyper-parameters anew or draw a new pool: hence median, mean and worst. Seconds are the processor's,
which other work on the machine disturbs least; set OMP_NUM_THREADS=1. Memory is what one more ask
holds at its peak, Python's and numpy's, beyond what was held before it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BadRequest, ParetuneError
from ..search.samplers import sampler
from .benchmark import Benchmark, made_by, random_draws
from .problems import FAMILIES, problem_named

if TYPE_CHECKING:
    from optuna.study import Study

MEBIBYTE = 2**20


def with_history(benchmark: Benchmark, trials: int) -> Study:
    """A study of that many random trials, which our own sampler goes on with."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        directions=["minimize"] * len(benchmark.objectives),
        sampler=sampler("greybox").make(benchmark.known(), 0),
    )
    study.add_trials(
        [
            optuna.create_trial(
                params=dict(drawn.params),
                distributions=dict(drawn.distributions),
                values=list(benchmark.losses(made_by(benchmark, drawn))),
            )
            for drawn in random_draws(benchmark, trials)
        ]
    )
    return study


def measured(benchmark: Benchmark, trials: int, asks: int) -> dict[str, Any]:
    """What asks take after a history; JSON-ready.

    Args:
        trials: of the history. asks: how many are timed, beside the first.

    Returns:
        `first`: seconds of the first ask; `seconds` of the later ones; `peak_bytes` of one more.

    Raises:
        BadRequest: fewer than three trials, before which nothing is fitted, or no ask.
    """
    if trials < 3 or asks < 1:
        raise BadRequest(f"needs 3 trials and 1 ask at least, not {trials} and {asks}")
    study = with_history(benchmark, trials)
    first, *seconds = [_ask(benchmark, study) for _ in range(1 + asks)]
    tracemalloc.start()
    _ask(benchmark, study)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "trials": trials,
        "objectives": len(benchmark.objectives),
        "first": first,
        "seconds": seconds,
        "peak_bytes": peak,
    }


def _ask(benchmark: Benchmark, study: Study) -> float:
    """One ask, then told; the seconds of the ask."""
    start = time.process_time()
    trial = study.ask()
    made = benchmark.suggest(trial)
    seconds = time.process_time() - start
    study.tell(trial, benchmark.losses(made))
    return seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    asked = _parser().parse_args(arguments)
    try:
        benchmark = problem_named(asked.problem, asked.data)
        rows = [measured(benchmark, trials, asked.asks) for trials in asked.trials]
    except ParetuneError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if asked.json:
        print(json.dumps({"problem": asked.problem, "rows": rows}))
        return 0
    print(f"{asked.problem}, seconds an ask")
    print("trials  objectives   first  median    mean   worst  peak MiB")
    for row in rows:
        later = np.array(row["seconds"])
        figures = (row["first"], np.median(later), later.mean(), later.max())
        print(
            f"{row['trials']:>6}  {row['objectives']:>10}"
            + "".join(f"  {figure:6.3f}" for figure in figures)
            + f"  {row['peak_bytes'] / MEBIBYTE:8.1f}"
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m paretune.benchmarks.ask")
    examples = ", ".join(row.example for row in FAMILIES.values())
    parser.add_argument("--problem", default="mixed", help=examples)
    parser.add_argument(
        "--trials", type=int, nargs="+", default=[200, 5000], help="sizes of the history"
    )
    parser.add_argument("--asks", type=int, default=10, help="asks that are timed")
    parser.add_argument("--data", type=Path, default=Path("bench-data"))
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    return parser


if __name__ == "__main__":
    sys.exit(main())
