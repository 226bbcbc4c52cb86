"""Does joint search beat the usual habit, and one technique alone? All at equal time, on figures
that were really measured.

    python -m paretune.benchmarks.joint record --run DIR --minutes 18      # the table
    python -m paretune.benchmarks.joint replay --run DIR --seeds 10        # every arm, by replay
    python -m paretune.benchmarks.joint fill --run DIR --seeds 10          # what a replay missed
    python -m paretune.benchmarks.joint live --run NEW --table DIR --arm joint --minutes 5

The arms stand in `joint_arms.py`. `--study` takes another study with every knob on a short list.
The table of `record` is a run: `paretune interactions DIR` says what its choices do together.

Hypervolume is in units of the baseline, below a reference point 10 % beyond it in every objective.
One worker: minutes are minutes of work. A replay that asked what the table lacks says so and is no
comparison; `--held` keeps all arms to what is there. With `--no-cost` samplers do not know what
candidates take. `replay` and `live` leave joint.json and joint.md in --run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..errors import ParetuneError, RunError
from ..evaluators.environment import environment
from ..search.engines.local import INTERRUPTED
from ..search.engines.replay import Replay, VirtualClock
from ..search.pareto import Array
from ..search.records import Record
from ..search.run import write_json
from ..search.samplers.problem import Memory
from ..search.stages import StageStore, cache_root
from ..search.storage import StudyStorage
from ..search.study import load_study
from ..search.subject import load_material
from ..spaces.configuration import Choice, Configuration
from .joint_arms import Search, arm_of, arms_of
from .joint_table import (
    Ground,
    Yardstick,
    every_configuration,
    read_table,
    record,
    table_seconds,
)

STUDY: Final = Path(__file__).parents[1] / "examples" / "joint.yaml"

WHOLE: Final = "fidelity.rungs=[1.0]"
"""A table holds whole trials, whatever the study's rungs."""

MOMENTS: Final = tuple(i / 20 for i in range(1, 21))
"""Shares of the time after which the hypervolume is taken."""

SHOWN: Final = (0.25, 0.5, 0.75, 1.0)
"""The moments that are reported."""

BUDGET: Final = 0.25
"""Share of the table's work that an arm may spend, unless told otherwise."""


@dataclass(frozen=True)
class Outcome:
    """What came of one search.

    Args:
        volumes: hypervolume at `MOMENTS`.
        trials, trainings: that were finished in time.
        settled: the fine-tuning that the habit settled on; None for joint search.
        missing: configurations that a replay could not answer.
    """

    volumes: list[float]
    trials: int
    trainings: int
    settled: Choice | None
    missing: tuple[Configuration, ...] = ()


def replayed(
    ground: Ground,
    records: Sequence[Record],
    arm: str,
    seed: int,
    minutes: float,
    *,
    workers: int = 1,
    memories: dict[str, Memory] | None = None,
    held: bool = False,
) -> Outcome:
    """One search of one arm, answered from a table.

    Args:
        ground: what is searched. records: the table.
        arm: of `arms_of`. seed: of the sampler. minutes: on the virtual clock.
        workers: asks under way at once.
        memories: shared between replays of one ground with one and the same `held`.
        held: only what the table holds may be asked: the rest of the space does not exist.
    """
    clock = VirtualClock()
    replay = Replay(records, clock)
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(StudyStorage.open(Path(folder), ground.header(), clock=clock)) as storage,
    ):
        search = Search(
            ground,
            storage,
            lambda source: replay.run(source, workers),
            seed,
            minutes,
            {} if memories is None else memories,
            frozenset(row.configuration.digest for row in records) if held else None,
        )
        settled = arm_of(ground, arm)(search)
        told = list(storage.records.values())
    return outcome(ground, told, 0.0, minutes, settled, tuple(replay.missing))


def outcome(
    ground: Ground,
    records: Sequence[Record],
    started: float,
    minutes: float,
    settled: Choice | None,
    missing: tuple[Configuration, ...] = (),
) -> Outcome:
    """What records came to; those that ended after the time count nothing."""
    yardstick = Yardstick.of(records, ground.rows)
    ended = [(record, (record.finished or 0.0) - started) for record in records]
    limits = [60.0 * minutes * share for share in MOMENTS]
    volumes = [yardstick.volume([r for r, at in ended if at <= limit]) for limit in limits]
    timely = [record for record, at in ended if at <= limits[-1] and record.state == "final"]
    trainings = {stage.training for record in timely for stage in record.stages} - {None}
    return Outcome(volumes, len(timely), len(trainings), settled, missing)


def compared(
    ground: Ground,
    records: Sequence[Record],
    seeds: int,
    minutes: float,
    workers: int = 1,
    held: bool = False,
) -> dict[str, Any]:
    """All arms over seeds 0, 1, ...: figures of each, and joint search against the others.

    JSON-ready. `difference` and `caught_up` are against the habit, None for a study without one;
    `best_other`: see `against_best`.
    """
    memories: dict[str, Memory] = {}
    found: dict[str, list[Outcome]] = {}
    for arm in arms_of(ground):
        found[arm] = []
        for seed in range(seeds):
            done = replayed(
                ground, records, arm, seed, minutes, workers=workers, memories=memories, held=held
            )
            found[arm].append(done)
            print(f"{arm} seed {seed}: {done.volumes[-1]:.5f}", file=sys.stderr)
    yardstick = Yardstick.of(records, ground.rows)
    ours, habit = found["joint"], found.get("habit")
    return {
        "recorded": len(records),
        "held_only": held,
        "costed": ground.costed,
        "table_minutes": table_seconds(records) / 60.0,
        "minutes": minutes,
        "workers": workers,
        "seeds": seeds,
        "reference": yardstick.reference,
        "baseline": {row.name: row_value(records, row.name) for row in ground.rows},
        "attainable": attainable(records, yardstick),
        "moments": list(SHOWN),
        "arms": {arm: _arm(outcomes) for arm, outcomes in found.items()},
        "difference": habit and difference(_at(ours), _at(habit)),
        "caught_up": habit and caught_up(ours, habit),
        "best_other": against_best({arm: _at(outcomes) for arm, outcomes in found.items()}),
        "missing": sorted({c.digest for rows in found.values() for o in rows for c in o.missing}),
        "every_moment": {
            arm: np.mean([o.volumes for o in outcomes], axis=0).tolist()
            for arm, outcomes in found.items()
        },
    }


def row_value(records: Sequence[Record], name: str) -> float | None:
    """The baseline's figure."""
    return next(record.value(name) for record in records if record.purpose == "baseline")


def attainable(records: Sequence[Record], yardstick: Yardstick) -> dict[str, float]:
    """Hypervolume of the whole table, and of what each fine-tuning reaches with all the rest."""
    groups: dict[str, list[Record]] = {}
    for row in records:
        choice = row.configuration.get("finetuning")
        groups.setdefault("none" if choice is None else _named(choice), []).append(row)
    found = {name: yardstick.volume(rows) for name, rows in sorted(groups.items())}
    return {"everything": yardstick.volume(records), **found}


def difference(ours: Array, theirs: Array) -> dict[str, Any]:
    """ours - theirs, paired by seed, with its 95 % interval (Student's t) at every moment.

    Args:
        ours, theirs: `(seeds, moments)` hypervolumes.
    """
    from scipy.stats import t

    rows = ours - theirs
    n = len(rows)
    mean = rows.mean(axis=0)
    half = np.full(len(mean), np.nan)
    if n > 1:
        half = t.ppf(0.975, n - 1) * rows.std(axis=0, ddof=1) / np.sqrt(n)
    return {
        "mean": mean.tolist(),
        "half_95": [None if np.isnan(h) else float(h) for h in half],
        "wins": (rows > 0).sum(axis=0).tolist(),
        "losses": (rows < 0).sum(axis=0).tolist(),
    }


def against_best(volumes: Mapping[str, Array]) -> dict[str, Any] | None:
    """Joint search against, at every moment, the other arm with the highest mean there.

    That arm is picked after the fact, which favours it. None where there is no other arm.

    Args:
        volumes: `(seeds, moments)` hypervolumes by arm, joint search's among them.

    Returns:
        `arm`: who that is at each moment; `difference` from it, as `difference` has it; `ratio` of
        the means, None where the other has reached nothing.
    """
    others = {arm: rows for arm, rows in volumes.items() if arm != "joint"}
    if not others:
        return None
    ours, names = volumes["joint"], list(others)
    best = np.argmax([rows.mean(axis=0) for rows in others.values()], axis=0)
    theirs = np.stack([others[names[k]][:, i] for i, k in enumerate(best)], axis=1)
    means = zip(ours.mean(axis=0), theirs.mean(axis=0), strict=True)
    return {
        "arm": [names[k] for k in best],
        "difference": difference(ours, theirs),
        "ratio": [float(mine / other) if other else None for mine, other in means],
    }


def caught_up(joint: Sequence[Outcome], habit: Sequence[Outcome]) -> float | None:
    """Share of the time after which joint search, on average, has what the habit ends with."""
    mean = np.mean([o.volumes for o in joint], axis=0)
    target = float(np.mean([o.volumes[-1] for o in habit]))
    return next((m for m, v in zip(MOMENTS, mean, strict=True) if v >= target), None)


def paragraph(result: Mapping[str, Any]) -> str:
    """The figures of `compared` as a short paragraph of Markdown."""
    arms = result["arms"]
    gap = against_best({arm: np.array(told["by_seed"]) for arm, told in arms.items()})
    rows = [
        [f"of {result['minutes']:.1f} min", *(f"{share:.0%}" for share in result["moments"])],
        ["---"] * (1 + len(result["moments"])),
        *(_arm_row(name, told) for name, told in arms.items()),
        *(_gap_rows(gap) if gap else []),
    ]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    best = result["attainable"]["everything"]
    shares = [f"{name} {told['mean'][-1] / best:.0%}" for name, told in arms.items()]
    lines += [
        "",
        f"Hypervolume in units of the baseline, mean ± standard deviation over {result['seeds']} "
        f"seeds, {result['workers']} worker(s), replayed from {result['recorded']} records. Of "
        f"what the table holds ({best:.4f}), in the end: {', '.join(shares)}.",
    ]
    if result["held_only"]:
        lines.append(
            "Only what the table holds could be asked. An incomplete table leaves each fine-tuning "
            "less of the space than joint search has, so it flatters joint search."
        )
    if not result.get("costed", True):
        lines.append("Samplers did not know what candidates take.")
    if result["missing"]:
        lines.insert(
            0,
            f"**No comparison yet**: {len(result['missing'])} configurations were asked that the "
            "table lacks; they failed at no cost. Run `record` or `fill`, then replay again.\n",
        )
    return "\n".join(lines) + "\n"


def fill(ground: Ground, folder: Path, seeds: int, minutes: float | None, workers: int = 1) -> int:
    """Runs what replays of all arms ask and the table lacks, until nothing is; how many."""
    added, memories = 0, dict[str, Memory]()
    while True:
        records = read_table(folder)
        given = _minutes(minutes, records, workers)
        missing = {
            c.digest: c
            for arm in arms_of(ground)
            for seed in range(seeds)
            for c in replayed(
                ground, records, arm, seed, given, workers=workers, memories=memories
            ).missing
        }
        if not missing:
            return added
        ended = record(ground, folder, list(missing.values()), None)
        new = len(read_table(folder)) - len(records)
        added += new
        if ended is INTERRUPTED or not new:
            return added


def lived(ground: Ground, folder: Path, arm: str, seed: int, minutes: float) -> Outcome:
    """One search of one arm for real, in a stage store that knows nothing yet.

    Raises:
        RunError: the folder exists, or the store has stages.
        UnknownName: an arm that this study does not have.
    """
    way = arm_of(ground, arm)
    if StageStore(cache_root()).entries():
        raise RunError(f"{cache_root()} has stages; set PARETUNE_CACHE to a new folder")
    if folder.exists():
        raise RunError(f"{folder} exists; give a new folder")
    with closing(ground.open(folder)) as storage:
        started = time.time()
        search = Search(ground, storage, ground.workers(folder, 1), seed, minutes)
        settled = way(search)
        return outcome(ground, list(storage.records.values()), started, minutes, settled)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    asked = _parser().parse_args(arguments)
    try:
        study = load_study(asked.study, [WHOLE])
        ground = Ground(study, load_material(study, cache_root() / "data"), not asked.no_cost)
        told: Mapping[str, Any] = asked.command(ground, asked)
    except ParetuneError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(told) if asked.json else told.get("text", json.dumps(told)))
    return 0


def _record(ground: Ground, asked: argparse.Namespace) -> dict[str, Any]:
    wanted = every_configuration(ground)
    ended = record(ground, asked.run, wanted, asked.minutes)
    there = read_table(asked.run)
    failed = sum(row.state == "failed" for row in there)
    return {
        "configurations": len(wanted) + 1,
        "recorded": len(there),
        "failed": failed,
        "minutes_of_work": round(table_seconds(there) / 60.0, 2),
        "ended": ended.reason,
    }


def _replay(ground: Ground, asked: argparse.Namespace) -> dict[str, Any]:
    records = read_table(asked.run)
    minutes = _minutes(asked.minutes, records, asked.workers)
    result = compared(ground, records, asked.seeds, minutes, asked.workers, asked.held)
    return _left(asked.run, {**_facts(ground), **result, "text": paragraph(result)})


def _fill(ground: Ground, asked: argparse.Namespace) -> dict[str, Any]:
    return {"added": fill(ground, asked.run, asked.seeds, asked.minutes, asked.workers)}


def _live(ground: Ground, asked: argparse.Namespace) -> dict[str, Any]:
    minutes = asked.minutes
    if minutes is None:
        raise RunError("a live run needs --minutes")
    live = lived(ground, asked.run, asked.arm, asked.seed, minutes)
    told = {**_facts(ground), "arm": asked.arm, "seed": asked.seed, "minutes": minutes}
    told |= {"costed": ground.costed, "live": _arm([live])}
    text = f"{asked.arm}, seed {asked.seed}, {minutes:g} min: live {live.volumes[-1]:.4f}"
    if asked.table is not None:
        again = replayed(ground, read_table(asked.table), asked.arm, asked.seed, minutes)
        told["replayed"] = _arm([again])
        told["live_over_replayed"] = live.volumes[-1] / again.volumes[-1]
        text += f", replayed {again.volumes[-1]:.4f}, ratio {told['live_over_replayed']:.3f}"
    return _left(asked.run, {**told, "text": text + "\n"})


def _facts(ground: Ground) -> dict[str, Any]:
    machine = environment()
    kept = ("python", "platform", "processor", "threads", "memory_bytes", "packages")
    return {
        "study": ground.study.to_json(),
        "configurations": len(every_configuration(ground)) + 1,
        "machine": {name: machine[name] for name in kept},
    }


def _left(folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    write_json(folder / "joint.json", {k: v for k, v in result.items() if k != "text"})
    (folder / "joint.md").write_text(result["text"], encoding="utf-8")
    return result


def _minutes(given: float | None, records: Sequence[Record], workers: int) -> float:
    return BUDGET * table_seconds(records) / 60.0 / workers if given is None else given


def _at(outcomes: Sequence[Outcome]) -> np.ndarray:
    """`(seeds, moments shown)` hypervolumes."""
    places = [MOMENTS.index(share) for share in SHOWN]
    return np.array([outcome.volumes for outcome in outcomes])[:, places]


def _arm_row(name: str, told: Mapping[str, Any]) -> list[str]:
    cells = zip(told["mean"], told["deviation"], strict=True)
    return [name, *(f"{mean:.4f} ± {spread:.4f}" for mean, spread in cells)]


def _gap_rows(gap: Mapping[str, Any]) -> list[list[str]]:
    """Joint search against the best of the others, a row for each way to say it."""
    apart = gap["difference"]
    spread = ["" if half is None else f" ± {half:.4f}" for half in apart["half_95"]]
    won = zip(apart["wins"], apart["losses"], strict=True)
    return [
        ["best of the others", *gap["arm"]],
        [
            "joint - best of the others (95 %)",
            *(f"{mean:+.4f}{half}" for mean, half in zip(apart["mean"], spread, strict=True)),
        ],
        ["joint / best of the others", *("-" if r is None else f"{r:.3f}" for r in gap["ratio"])],
        ["seeds won : lost", *(f"{wins}:{losses}" for wins, losses in won)],
    ]


def _arm(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    rows = _at(outcomes)
    spread = rows.std(axis=0, ddof=1) if len(rows) > 1 else np.zeros(rows.shape[1])
    return {
        "mean": rows.mean(axis=0).tolist(),
        "deviation": spread.tolist(),
        "by_seed": rows.tolist(),
        "trials": [outcome.trials for outcome in outcomes],
        "trainings": [outcome.trainings for outcome in outcomes],
        "settled": [outcome.settled and _named(outcome.settled) for outcome in outcomes],
    }


def _named(choice: Choice) -> str:
    rank = dict(choice.settings).get("rank")
    return choice.method if rank is None else f"{choice.method} r{rank}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m paretune.benchmarks.joint")
    verbs = parser.add_subparsers(required=True, metavar="record | replay | fill | live")
    commands = {"record": _record, "replay": _replay, "fill": _fill, "live": _live}
    for name, command in commands.items():
        verb = verbs.add_parser(name)
        verb.set_defaults(command=command)
        verb.add_argument("--run", type=Path, required=True, help="the run's folder")
        verb.add_argument("--study", type=Path, default=STUDY, help="every knob on a short list")
        verb.add_argument("--minutes", type=float, help="of work that may be spent")
        verb.add_argument("--json", action="store_true", help="JSON on standard output")
        verb.add_argument(
            "--no-cost", action="store_true", help="samplers do not know what candidates take"
        )
        if name in ("replay", "fill"):
            verb.add_argument("--seeds", type=int, default=10, help="of the sampler: 0, 1, ...")
            verb.add_argument("--workers", type=int, default=1, help="asks under way at once")
        if name == "replay":
            verb.add_argument("--held", action="store_true", help="search only what the table has")
        if name == "live":
            verb.add_argument("--arm", required=True, help="joint, habit or alone-SLOT")
            verb.add_argument("--seed", type=int, default=0, help="of the sampler")
            verb.add_argument("--table", type=Path, help="to compare with its replay")
    return parser


if __name__ == "__main__":
    sys.exit(main())
