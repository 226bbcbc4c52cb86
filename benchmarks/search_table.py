"""Search efficiency as a page: every problem by every sampler, and docs/search-efficiency.md.

    python -m paretune.benchmarks.search_table --seeds 3 --evaluations 200 --ours 50

Run by `make bench-search`. Peers' curves come from the cache where they are there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..errors import ParetuneError
from .benchmark import Searchable
from .contenders import contender
from .joint import difference
from .problems import FAMILIES, problem_named
from .search import MILLIONS, SHOWN, add_folders, measured, optimum_of, search_optimum

PEERS: Final = (
    "optuna-random",
    "optuna-tpe",
    "optuna-tpe-multivariate",
    "optuna-nsga2",
    "optuna-nsga3",
)

SLOW_SEEDS: Final = 3
"""Most studies of a sampler whose asks take seconds."""

SLOW_OBJECTIVES: Final = 3
"""Most objectives with which it is asked at all."""

LATE: Final = (100, 200)
"""Evaluations of a peer that ours is held against."""

PAGE: Final = Path(__file__).parents[1] / "docs" / "search-efficiency.md"

Results = Mapping[str, Mapping[str, Any]]
"""By sampler, what `measured` returns for one problem."""


def page(results: Mapping[str, Results], command: str) -> str:
    """The page in Markdown.

    Args:
        results: by problem, by sampler; the first sampler is ours. command: what was run.
    """
    versions = {
        name: number
        for rows in results.values()
        for told in rows.values()
        for name, number in told["versions"].items()
    }
    written = ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))
    lines = [
        "# Search efficiency",
        "",
        "How much of the front each sampler has after so many evaluations: the share of the box",
        "between ideal and reference point that is dominated (hypervolume), mean ± standard",
        "deviation over seeds. Differences are ours - theirs, paired by seed, with 95 % intervals",
        "(Student's t). Samplers named `greybox` see what a candidate is on paper, peers see the",
        "choices alone. Seconds an ask depend on what else the machine did, and a peer's may be of",
        "an earlier run. Samplers whose asks take seconds get fewer seeds and evaluations, and no",
        "problem of four objectives. Written by `make bench-search`; how long that takes:",
        "[CONTRIBUTING.md](../CONTRIBUTING.md).",
        "",
        f"    {command}",
        "",
        f"Versions: {written}.",
    ]
    for problem, rows in results.items():
        lines += ["", *_section(problem, rows)]
    return "\n".join(lines) + "\n"


def _section(problem: str, rows: Results) -> Iterator[str]:
    ours, *_ = rows
    optimum = rows[ours]["optimum"]
    volumes = {name: np.array(told["hypervolume"]) for name, told in rows.items()}
    about = FAMILIES[problem.partition(":")[0]].about
    yield f"## {problem}"
    yield ""
    known = "no optimum was searched" if optimum is None else f"the best known is {optimum:.4f}"
    yield f"{about[0].upper()}{about[1:]}; {known}."
    yield ""
    shown = [n for n in SHOWN if n <= max(v.shape[1] for v in volumes.values())]
    shown = shown or [max(v.shape[1] for v in volumes.values())]
    yield from _table(
        ["evaluations", *map(str, shown), "s an ask", "within limits"],
        [
            [
                f"{name} ({len(v)})",
                *(_spread(v, n) for n in shown),
                f"{np.mean(rows[name]['seconds_per_ask']):.2f}",
                f"{np.mean(rows[name]['feasible']):.0%}",
            ]
            for name, v in volumes.items()
        ],
    )
    if optimum is not None:
        yield ""
        ends = [
            f"{name} {v[:, -1].mean() / optimum:.1%} ({v.shape[1]})" for name, v in volumes.items()
        ]
        yield f"Of the best known, at the end (evaluations): {', '.join(ends)}."
    yield ""
    yield from _table(
        [f"{ours} against", *(f"has its {n} after" for n in LATE), *map(str, shown)],
        [
            [
                name,
                *(_reached(volumes[ours], v, n) for n in LATE),
                *(_paired(volumes[ours], v, n) for n in shown),
            ]
            for name, v in volumes.items()
            if name != ours
        ],
    )


def _spread(volumes: np.ndarray, n: int) -> str:
    if n > volumes.shape[1]:
        return ""
    column = volumes[:, n - 1]
    spread = f" ± {column.std(ddof=1):.4f}" if len(column) > 1 else ""
    return f"{column.mean():.4f}{spread}"


def _reached(ours: np.ndarray, theirs: np.ndarray, n: int) -> str:
    """Evaluations after which our mean is what theirs is after n."""
    if n > theirs.shape[1]:
        return ""
    there = np.flatnonzero(ours.mean(axis=0) >= theirs[:, n - 1].mean())
    return str(there[0] + 1) if len(there) else f"more than {ours.shape[1]}"


def _paired(ours: np.ndarray, theirs: np.ndarray, n: int) -> str:
    if n > min(ours.shape[1], theirs.shape[1]):
        return ""
    seeds = min(len(ours), len(theirs))
    told = difference(ours[:seeds, n - 1 : n], theirs[:seeds, n - 1 : n])
    half = told["half_95"][0]
    return f"{told['mean'][0]:+.4f}" + ("" if half is None else f" ± {half:.4f}")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(row)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    asked = _parser().parse_args(arguments)
    try:
        results = {problem: _searched(problem, asked) for problem in asked.problems}
    except ParetuneError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    names = ("problems", "samplers", "seeds", "evaluations", "ours", "slow")
    told = [f"--{name} {_words(getattr(asked, name))}" for name in names]
    text = page(results, " ".join(["python -m paretune.benchmarks.search_table", *told]))
    asked.to.write_text(text, encoding="utf-8")
    print(f"written: {asked.to}")
    return 0


def _searched(problem: str, asked: argparse.Namespace) -> dict[str, dict[str, Any]]:
    benchmark = problem_named(problem, asked.data)
    searched = isinstance(benchmark, Searchable) and asked.millions
    if searched and optimum_of(problem, benchmark, asked.cache) is None:
        search_optimum(problem, asked.data, asked.cache, int(1e6 * asked.millions))
    found = {}
    for name in asked.samplers:
        row = contender(name)
        if row.slow and len(benchmark.objectives) > SLOW_OBJECTIVES:
            continue
        count, seeds = (asked.evaluations if row.peer else asked.ours), asked.seeds
        if row.slow:
            count, seeds = min(count, asked.slow), min(seeds, SLOW_SEEDS)
        found[name] = measured(problem, name, count, seeds, asked.data, asked.cache)
    return found


def _words(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m paretune.benchmarks.search_table")
    parser.add_argument("--problems", nargs="+", default=["hwgpt:s:a100"])
    parser.add_argument(
        "--samplers", nargs="+", default=["greybox", *PEERS], help="the first is held against each"
    )
    parser.add_argument("--seeds", type=int, default=3, help="studies, seeded 0, 1, ...")
    parser.add_argument("--evaluations", type=int, default=200, help="of each peer")
    parser.add_argument("--ours", type=int, default=50, help="evaluations of our own samplers")
    parser.add_argument(
        "--slow", type=int, default=100, help="most evaluations where an ask takes seconds"
    )
    parser.add_argument(
        "--millions",
        type=float,
        default=MILLIONS,
        help="of points for each of two searches for an optimum that is not known; 0: none",
    )
    parser.add_argument("--to", type=Path, default=PAGE, help="the page that is written")
    add_folders(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
