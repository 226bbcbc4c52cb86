"""How good samplers search: hypervolume per evaluation on problems whose answers are known.

    python -m paretune.benchmarks.search --problem hwgpt:s:a100 --sampler greybox --evaluations 100
    python -m paretune.benchmarks.search --problem hwgpt:s:a100 --optimum

Prints a table, or JSON with `--json`; figures are means over seeds with their standard deviation.
`--optimum` searches the whole space for what there is to reach; later runs find it in the cache.
Problems stand in `problems.py`, samplers in `contenders.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..errors import BadRequest, ParetuneError
from ..search.stages import cache_root
from .benchmark import Benchmark, fingerprint
from .contenders import CONTENDERS, Contender, contender
from .curves import file_of, remembered
from .optimum import greatest
from .problems import FAMILIES, problem_named

CURVES: Final = 1
"""Raised when the way in which peers are asked changes: their curves are kept."""

SHOWN: Final = (5, 10, 15, 25, 50, 100, 200)
"""Evaluations after which the hypervolume is shown."""

MILLIONS: Final = 4
"""Points that each of the two searches for an optimum judges, in millions."""


def trace(benchmark: Benchmark, searcher: Contender, evaluations: int, seed: int) -> dict[str, Any]:
    """One study.

    Returns:
        `hypervolume` after each evaluation, of the points that keep the limits, without noise;
        `feasible`, the share of those; `seconds_per_ask`.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        directions=["minimize"] * len(benchmark.objectives),
        sampler=searcher.make(benchmark, seed),
    )
    losses, volumes, seconds = list[tuple[float, ...]](), list[float](), 0.0
    for _ in range(evaluations):
        start = time.perf_counter()
        trial = study.ask()
        made = benchmark.suggest(trial)
        seconds += time.perf_counter() - start
        beyond = benchmark.violations(made)
        if all(value <= 0.0 for value in beyond.values()):
            losses.append(benchmark.exact(made))
        if not searcher.sees_limits:
            for name, value in beyond.items():
                trial.set_constraint(name, value)
        study.tell(trial, benchmark.losses(made))
        volumes.append(benchmark.hypervolume(np.array(losses)))
    return {
        "seed": seed,
        "hypervolume": volumes,
        "feasible": len(losses) / evaluations,
        "seconds_per_ask": seconds / evaluations,
    }


def measured(
    problem: str, name: str, evaluations: int, seeds: int, data: Path, cache: Path
) -> dict[str, Any]:
    """Studies of one sampler on one problem, seeded 0, 1, ...; JSON-ready.

    Args:
        problem: of `FAMILIES`. name: of `CONTENDERS`.
        data: the folder of measured data. cache: where peers' curves and optima are kept.

    Returns:
        `hypervolume`: one list a seed, one value an evaluation; `feasible` and `seconds_per_ask`
        a seed; `optimum`, None where none was found yet; `versions`.

    Raises:
        UnknownName, DataError: see `problem_named`, `contender`.
        BadRequest: fewer than one evaluation or seed, or a sampler that cannot search the problem.
    """
    for what, count in (("evaluations", evaluations), ("seeds", seeds)):
        if count < 1:
            raise BadRequest(f"{what} must be at least 1, not {count}")
    searcher, benchmark = contender(name), problem_named(problem, data)
    traces = []
    for seed in range(seeds):
        if searcher.peer is None:
            traces.append(trace(benchmark, searcher, evaluations, seed))
        else:
            parts = (
                name,
                CURVES,
                _version(searcher.peer),
                seed,
                evaluations,
                fingerprint(benchmark),
            )
            path = file_of(cache, problem, *parts)
            made = remembered(path, partial(trace, benchmark, searcher, evaluations, seed))
            traces.append(made)
        print(f"{problem} {name} seed {seed}: {traces[-1]['hypervolume'][-1]:.4f}", file=sys.stderr)
    return {
        "problem": problem,
        "sampler": name,
        "objectives": list(benchmark.objectives),
        **{key: [row[key] for row in traces] for key in traces[0]},
        "optimum": optimum_of(problem, benchmark, cache),
        "versions": {
            package: _version(package)
            for package in ("paretune", "optuna", "numpy", "scipy", searcher.peer)
            if package is not None
        },
    }


def optimum_of(problem: str, benchmark: Benchmark, cache: Path) -> float | None:
    """The optimum in closed form, or what `search_optimum` found before; else None."""
    if benchmark.optimum is not None:
        return benchmark.optimum
    path = _optimum_file(problem, benchmark, cache)
    return max(remembered(path, dict)["found"]) if path.is_file() else None


def search_optimum(problem: str, data: Path, cache: Path, evaluations: int) -> dict[str, Any]:
    """Two searches of the whole space, kept in the cache: `found`, and their `evaluations`.

    Where the optimum is known without, `found` is that and nothing is searched.
    """
    benchmark = problem_named(problem, data)
    if benchmark.optimum is not None:
        return {"problem": problem, "found": [benchmark.optimum], "evaluations": 0}
    path = _optimum_file(problem, benchmark, cache)
    path.unlink(missing_ok=True)

    def search() -> dict[str, Any]:
        found = [greatest(benchmark, evaluations, seed) for seed in range(2)]
        return {"problem": problem, "found": found, "evaluations": evaluations}

    return remembered(path, search)


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and standard deviation over seeds, after the evaluations in `SHOWN` and the last."""
    volumes = np.array(result["hypervolume"])
    last = volumes.shape[1]
    shown = [n for n in SHOWN if n < last] + [last]
    spread = volumes.std(axis=0, ddof=1) if len(volumes) > 1 else np.zeros(last)
    return {
        "evaluations": shown,
        "mean": [float(volumes[:, n - 1].mean()) for n in shown],
        "deviation": [float(spread[n - 1]) for n in shown],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    asked = _parser().parse_args(arguments)
    try:
        if asked.optimum:
            millions = int(1e6 * asked.millions)
            told = search_optimum(asked.problem, asked.data, asked.cache, millions)
            lines = [f"{found:.5f}" for found in told["found"]]
        else:
            told = measured(
                asked.problem,
                asked.sampler,
                asked.evaluations,
                asked.seeds,
                asked.data,
                asked.cache,
            )
            told["summary"] = summary(told)
            lines = list(_lines(told))
    except ParetuneError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(told) if asked.json else "\n".join(lines))
    return 0


def _lines(told: Mapping[str, Any]) -> Sequence[str]:
    rows, optimum = told["summary"], told["optimum"]
    figures = zip(rows["evaluations"], rows["mean"], rows["deviation"], strict=True)
    lines = [
        f"{n:>6}  {mean:.4f}  sd {deviation:.4f}"
        + (f"  {mean / optimum:.1%} of the optimum" if optimum else "")
        for n, mean, deviation in figures
    ]
    if min(told["feasible"]) < 1.0:
        lines.append(f"{np.mean(told['feasible']):.0%} of the points keep the limits")
    return [*lines, f"{np.mean(told['seconds_per_ask']):.3f} s an ask"]


def _optimum_file(problem: str, benchmark: Benchmark, cache: Path) -> Path:
    return file_of(cache, problem, "optimum", fingerprint(benchmark))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise BadRequest(
            f"this needs {package}, which is not installed: pip install {package}"
        ) from None


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Options `--data` and `--cache`."""
    parser.add_argument("--data", type=Path, default=Path("bench-data"))
    parser.add_argument(
        "--cache",
        type=Path,
        default=cache_root() / "benchmarks",
        help="peers' curves and optima are kept there",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m paretune.benchmarks.search")
    examples = ", ".join(row.example for row in FAMILIES.values())
    parser.add_argument("--problem", default="hwgpt:s:a100", help=examples)
    parser.add_argument("--sampler", default="greybox", help=", ".join(CONTENDERS))
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3, help="studies, seeded 0, 1, ...")
    parser.add_argument("--optimum", action="store_true", help="search the whole space instead")
    parser.add_argument(
        "--millions", type=float, default=MILLIONS, help="of points, for each of two searches"
    )
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    add_folders(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
