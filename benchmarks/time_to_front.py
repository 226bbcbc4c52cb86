"""How soon is a front found, and by what: sampler, store, or knowing what candidates take?

    python -m paretune.benchmarks.time_to_front --study examples/sst2.yaml --run DIR --seeds 10

Answered from the table of `joint.py` (its `record`), one worker, once per way and seed; the ways
stand in `time_to_front_ways.py`. The goals are what naive TPE holds on average after so many
trials, the baseline first among them, and shares of the table's whole hypervolume, in the units of
`joint.py`. A search ends at the last goal. Seconds are those of trials; what asking takes is told
apart. A table holds whole trials: what rungs save is for `rungs.py`.

Leaves time_to_front.json and time_to_front.md in --run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import chain, combinations
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..errors import ParetuneError
from ..search.records import Record
from ..search.run import write_json
from ..search.samplers.problem import Memory
from ..search.stages import cache_root
from ..search.study import load_study
from ..search.subject import load_material
from .joint import STUDY, WHOLE
from .joint_table import Ground, Yardstick, read_table, table_seconds
from .time_to_front_ways import NAIVE, OURS, WAYS, Course, Race, Way

SHARES: Final = (0.75, 0.9, 0.95, 0.99)
"""Of the table's whole hypervolume, each a goal."""

SECONDS: Final = (100, 200, 300, 400, 600, 800, 1600, 3200, 6400, 12800)
"""After which the hypervolume is told."""

FIRST: Final = 6
"""Long trainings of a search that are told."""


def compared(
    ground: Ground,
    records: Sequence[Record],
    seeds: int,
    trials: int,
    ways: Mapping[str, Way] = WAYS,
) -> dict[str, Any]:
    """Every way over seeds 0, 1, ...: when each goal was held, and ratios to ours. JSON-ready.

    Args:
        trials: of naive TPE, whose mean hypervolume then is the first goal.
        ways: by name, those named `NAIVE` and `OURS` among them.
    """
    whole = Yardstick.of(records, ground.rows).volume(records)
    highest = max(SHARES) * whole
    naive = _courses(Race(ground, records, highest, trials), NAIVE, ways[NAIVE], seeds)
    first = float(np.mean([course.after(trials) for course in naive]))
    goals = {f"{NAIVE} after {trials} trials": first, **{f"{s:.0%}": s * whole for s in SHARES}}
    race = Race(ground, records, max(goals.values()))
    found = {name: _courses(race, name, way, seeds) for name, way in ways.items() if name != NAIVE}
    found = {NAIVE: naive, **found}
    times = {
        goal: {name: [c.until(volume) for c in rows] for name, rows in found.items()}
        for goal, volume in goals.items()
    }
    ends = {name: [course.seconds[-1] for course in rows] for name, rows in found.items()}
    return {
        "recorded": len(records),
        "seeds": seeds,
        "trials": trials,
        "table_seconds": table_seconds(records),
        "whole": whole,
        "goals": goals,
        "seconds": times,
        "soonest": {goal: soonest(ground, records, volume) for goal, volume in goals.items()},
        "ratios": {
            goal: {name: ratio(told[name], told[OURS], ends[name]) for name in found}
            for goal, told in times.items()
        },
        "asked": {name: [len(c.volumes) for c in rows] for name, rows in found.items()},
        "asking_seconds": {
            name: rows[0].asking / len(rows[0].volumes) for name, rows in found.items()
        },
        "moments": list(SECONDS),
        "volumes": {
            name: [[c.at(s) for s in SECONDS] for c in rows] for name, rows in found.items()
        },
        "first_trainings": {
            name: [c.trainings[:FIRST] for c in rows] for name, rows in found.items()
        },
    }


def soonest(ground: Ground, records: Sequence[Record], volume: float) -> float:
    """Seconds that no search of the table can be below: the baseline's, and the cheapest long
    trainings whose trials hold that much between them; all other work counts nothing.

    Args:
        records: the baseline first. volume: that the whole table holds.
    """
    yardstick = Yardstick.of(records, ground.rows)
    seconds = {s.key: s.seconds for r in records for s in r.stages if s.training is not None}
    needed = [frozenset(s.key for s in r.stages if s.key in seconds) for r in records]
    kinds = sorted({*needed}, key=sorted)
    chosen = chain.from_iterable(combinations(kinds, n) for n in range(len(kinds) + 1))
    sets = {needed[0].union(*some) for some in chosen}
    enough = [
        sum(seconds[key] for key in bought - needed[0])
        for bought in sets
        if yardstick.volume([r for r, n in zip(records, needed, strict=True) if n <= bought])
        >= volume
    ]
    return records[0].seconds + min(enough)


def ratio(
    theirs: Sequence[float | None], ours: Sequence[float | None], ends: Sequence[float]
) -> dict[str, Any] | None:
    """theirs / ours, paired by seed: geometric mean, 95 % interval by Student's t on logarithms.

    Args:
        theirs, ours: seconds to a goal by seed, None where it was never held.
        ends: when each of their searches ended, which stands for a time that there is not: the
            ratio is then at least what is told.

    Returns:
        `mean`, `low`, `high` (None with one seed), `at_least`; None where ours never held it.

    >>> ratio([8.0, 8.0], [2.0, 2.0], [9.0, 9.0])
    {'mean': 4.0, 'low': 4.0, 'high': 4.0, 'at_least': False}
    """
    from scipy.stats import t

    if None in ours:
        return None
    held = [end if own is None else own for own, end in zip(theirs, ends, strict=True)]
    logs = np.log(np.array(held) / np.array(ours, dtype=float))
    n, mean = len(logs), float(logs.mean())
    told = {"mean": float(np.exp(mean)), "low": None, "high": None, "at_least": None in theirs}
    if n > 1:
        half = float(t.ppf(0.975, n - 1) * logs.std(ddof=1) / np.sqrt(n))
        told |= {"low": float(np.exp(mean - half)), "high": float(np.exp(mean + half))}
    return told


def paragraph(result: Mapping[str, Any]) -> str:
    """The figures of `compared` as Markdown: seconds to each goal, ratios, hypervolume by time."""
    goals, seeds = result["goals"], result["seeds"]
    rows = [["seconds of work, ratio to ours (95 %)", *(f"{g}: {v:.4f}" for g, v in goals.items())]]
    for name in result["volumes"]:
        cells = (_cell(result["seconds"][g][name], result["ratios"][g][name]) for g in goals)
        rows.append([name, *cells])
    rows.append(["no search below", *(f"{result['soonest'][goal]:.0f}" for goal in goals)])
    held = [["hypervolume after seconds", *(str(s) for s in result["moments"])]]
    for name, volumes in result["volumes"].items():
        held.append([name, *(f"{v:.4f}" for v in np.mean(volumes, axis=0))])
    asking = [f"{name} {s:.2f}" for name, s in result["asking_seconds"].items()]
    return "\n".join([
        *_table(rows),
        "",
        f"Geometric means over {seeds} seeds, one worker, from {result['recorded']} records "
        f"({result['table_seconds']:.0f} s when all is shared); the whole table holds "
        f"{result['whole']:.4f}. `>`: not every seed got there; its whole time counts.",
        "",
        *_table(held),
        "",
        f"A search that held the last goal ended there. Seconds that asking took beside it, a "
        f"trial of seed 0: {', '.join(asking)}.",
        "",
    ])  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m paretune.benchmarks.time_to_front")
    parser.add_argument("--run", type=Path, required=True, help="the run's folder")
    parser.add_argument("--study", type=Path, default=STUDY, help="every knob on a short list")
    parser.add_argument("--seeds", type=int, default=10, help="of the sampler: 0, 1, ...")
    parser.add_argument("--trials", type=int, default=60, help="of naive TPE, for the first goal")
    asked = parser.parse_args(arguments)
    try:
        study = load_study(asked.study, [WHOLE])
        ground = Ground(study, load_material(study, cache_root() / "data"))
        result = compared(ground, read_table(asked.run), asked.seeds, asked.trials)
    except ParetuneError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    text = paragraph(result)
    write_json(asked.run / "time_to_front.json", result)
    (asked.run / "time_to_front.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _courses(race: Race, name: str, way: Way, seeds: int) -> list[Course]:
    memories: dict[str, Memory] = {}
    courses = []
    for seed in range(seeds):
        done = race.run(way, seed, memories)
        courses.append(done)
        print(
            f"{name} seed {seed}: {len(done.volumes)} trials, {done.seconds[-1]:.0f} s, "
            f"{done.volumes[-1]:.5f}",
            file=sys.stderr,
        )
    return courses


def _cell(times: Sequence[float | None], told: Mapping[str, Any] | None) -> str:
    there = [t for t in times if t is not None]
    if not there:
        return "never"
    middle = f"{np.exp(np.mean(np.log(there))):.0f}"
    if len(there) < len(times):
        middle += f" ({len(there)} of {len(times)} seeds)"
    if told is None:
        return middle
    sign = "> " if told["at_least"] else ""
    spread = "" if told["low"] is None else f" ({told['low']:.2f} to {told['high']:.2f})"
    return f"{middle}, {sign}x {told['mean']:.2f}{spread}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *rest = rows
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest)]


if __name__ == "__main__":
    sys.exit(main())
