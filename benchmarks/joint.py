"""Does joint search beat the usual habit? Both at equal time, on figures that were really measured.

    python -m paretune.benchmarks.joint record --run DIR --minutes 18      # the table
    python -m paretune.benchmarks.joint replay --run DIR --seeds 10        # both arms, by replay
    python -m paretune.benchmarks.joint fill --run DIR --seeds 10          # what a replay missed
    python -m paretune.benchmarks.joint live --run NEW --table DIR --arm joint --minutes 5

joint: the study's sampler over the whole space. habit: in the first half of the time the best
fine-tuning is looked for, uncompressed and eager, by validation accuracy; then it stays, and the
same sampler searches structure, recovery, precision and runtime. The habit goes on to its second
half at once when no fine-tuning is left to try, and keeps what it has seen.

Hypervolume is in units of the baseline, below a reference point 10 % beyond it in every objective.
One worker: minutes are minutes of work. A replay that asked what the table lacks says so and is no
comparison; `--held` keeps both arms to what is there. `replay` and `live` leave joint.json and
joint.md in --run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..errors import ParetuneError, RunError, WorkFailed
from ..evaluators.environment import environment
from ..search.budget import Budget
from ..search.driver import Driver, Rules
from ..search.engines.local import INTERRUPTED
from ..search.engines.replay import Replay, VirtualClock
from ..search.records import Record
from ..search.rules import Knowledge
from ..search.run import write_json
from ..search.samplers import sampler
from ..search.samplers.problem import Memory
from ..search.seeds import seed_of
from ..search.stages import StageStore, cache_root
from ..search.storage import StudyStorage
from ..search.study import load_study
from ..search.subject import load_material
from ..spaces.configuration import Choice, Configuration
from ..spaces.space import Space
from .joint_table import (
    Engine,
    Ground,
    Yardstick,
    every_configuration,
    read_table,
    record,
    table_seconds,
)

STUDY: Final = Path(__file__).parents[1] / "examples" / "joint.yaml"
QUALITY: Final = "accuracy"
"""By which the habit chooses its fine-tuning."""

MOMENTS: Final = tuple(i / 20 for i in range(1, 21))
"""Shares of the time after which the hypervolume is taken."""

SHOWN: Final = (0.25, 0.5, 0.75, 1.0)
"""The moments that are reported."""

BUDGET: Final = 0.25
"""Share of the table's work that an arm may spend, unless told otherwise."""


@dataclass(frozen=True)
class Search:
    """One search that an arm makes.

    Args:
        ground: what is searched. storage: where its records go.
        run: works for a driver. seed: of the sampler; trainings keep the study's.
        minutes: that it may take. memories: what samplers looked up before, by space.
        held: digests of the only configurations that may be asked; None: all that are legal.
    """

    ground: Ground
    storage: StudyStorage
    run: Engine
    seed: int
    minutes: float
    memories: dict[str, Memory] = field(default_factory=dict)
    held: frozenset[str] | None = None

    def over(self, wanted: Mapping[str, Mapping[str, Any]], minutes: float) -> None:
        """Goes on over a space until so many minutes are spent in all.

        Raises:
            WorkFailed: it was interrupted, so that it is no comparison.
        """
        if self.run(Driver(self.storage, self._rules(wanted, minutes))) is INTERRUPTED:
            raise WorkFailed("interrupted: a search that was broken off compares with nothing")

    def _rules(self, wanted: Mapping[str, Mapping[str, Any]], minutes: float) -> Rules:
        ground = self.ground
        space = Space.of(wanted, ground.material.subject.paper)
        knowledge = Knowledge(ground.study, ground.material, space, self.storage)
        memory = self.memories.setdefault(json.dumps(wanted, sort_keys=True), Memory())
        paper = knowledge.lookup.paper
        problem = replace(
            knowledge.problem(), memory=memory, paper=lambda c: paper(c) if self._holds(c) else None
        )
        row = sampler(ground.study.sampler)
        return replace(
            knowledge.rules(),
            refuse=lambda c: knowledge.refusals(c) if self._holds(c) else ["not in the table"],
            make_sampler=lambda number: row.make(problem, seed_of(self.seed, number, 0)),
            budget=Budget(minutes=minutes, trainings=ground.study.budget.trainings),
            reference=lambda first: Yardstick.of(first, ground.rows).reference,
        )

    def _holds(self, configuration: Configuration) -> bool:
        return self.held is None or configuration.digest in self.held


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


def joint(search: Search) -> None:
    """The whole space, all the time."""
    search.over(search.ground.study.space, search.minutes)


def habit(search: Search) -> Choice:
    """First the fine-tuning alone, then everything else on the best one; which one that was."""
    space = search.ground.study.space
    search.over({"finetuning": space["finetuning"]}, search.minutes / 2)
    best = best_finetuning(list(search.storage.records.values()))
    fixed = {"methods": [best.method], best.method: dict(best.settings)}
    search.over({**space, "finetuning": fixed}, search.minutes)
    return best


ARMS: Final[dict[str, Callable[[Search], Choice | None]]] = {"joint": joint, "habit": habit}


def best_finetuning(records: Sequence[Record]) -> Choice:
    """The fine-tuning of the most accurate record that changes nothing else; the first of equals.

    Raises:
        RunError: none has a figure; the first half was too short for one training.
    """
    plain = [
        (value, -record.number, choice)
        for record in records
        if record.state == "final" and len(record.configuration.choices) == 1
        for choice in [record.configuration.get("finetuning")]
        for value in [record.value(QUALITY)]
        if choice is not None and value is not None
    ]
    if not plain:
        raise RunError("no fine-tuning was finished in half of the time; give more --minutes")
    return max(plain, key=lambda row: row[:2])[2]


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
        arm: of `ARMS`. seed: of the sampler. minutes: on the virtual clock.
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
        settled = ARMS[arm](search)
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
    """Both arms over seeds 0, 1, ...: figures of each and their paired difference, JSON-ready."""
    memories: dict[str, Memory] = {}
    found: dict[str, list[Outcome]] = {}
    for arm in ARMS:
        found[arm] = []
        for seed in range(seeds):
            done = replayed(
                ground, records, arm, seed, minutes, workers=workers, memories=memories, held=held
            )
            found[arm].append(done)
            print(f"{arm} seed {seed}: {done.volumes[-1]:.5f}", file=sys.stderr)
    yardstick = Yardstick.of(records, ground.rows)
    return {
        "recorded": len(records),
        "held_only": held,
        "table_minutes": table_seconds(records) / 60.0,
        "minutes": minutes,
        "workers": workers,
        "seeds": seeds,
        "reference": yardstick.reference,
        "baseline": {row.name: row_value(records, row.name) for row in ground.rows},
        "attainable": attainable(records, yardstick),
        "moments": list(SHOWN),
        "arms": {arm: _arm(outcomes) for arm, outcomes in found.items()},
        "difference": difference(found["joint"], found["habit"]),
        "caught_up": caught_up(found["joint"], found["habit"]),
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


def difference(joint: Sequence[Outcome], habit: Sequence[Outcome]) -> dict[str, Any]:
    """joint - habit, paired by seed, at the moments shown, with its 95 % interval (Student's t)."""
    from scipy.stats import t

    rows = _at(joint) - _at(habit)
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


def caught_up(joint: Sequence[Outcome], habit: Sequence[Outcome]) -> float | None:
    """Share of the time after which joint search, on average, has what the habit ends with."""
    mean = np.mean([o.volumes for o in joint], axis=0)
    target = float(np.mean([o.volumes[-1] for o in habit]))
    return next((m for m, v in zip(MOMENTS, mean, strict=True) if v >= target), None)


def paragraph(result: Mapping[str, Any]) -> str:
    """The figures of `compared` as a short paragraph of Markdown."""
    arms, gap = result["arms"], result["difference"]
    lines = [
        f"| share of {result['minutes']:.1f} min | joint | habit | joint - habit (95 %) | wins |",
        "|---|---|---|---|---|",
    ]
    for i, share in enumerate(result["moments"]):
        cells = [f"{arms[a]['mean'][i]:.4f} ± {arms[a]['deviation'][i]:.4f}" for a in arms]
        half = gap["half_95"][i]
        spread = "" if half is None else f" ± {half:.4f}"
        wins = f"{gap['wins'][i]}:{gap['losses'][i]}"
        lines.append(
            f"| {share:.0%} | {cells[0]} | {cells[1]} | {gap['mean'][i]:+.4f}{spread} | {wins} |"
        )
    best = result["attainable"]["everything"]
    shares = [arms[a]["mean"][-1] / best for a in ("joint", "habit")]
    lines += [
        "",
        f"Hypervolume in units of the baseline, mean ± standard deviation over {result['seeds']} "
        f"seeds, {result['workers']} worker(s), replayed from {result['recorded']} records. Of "
        f"what the table holds ({best:.4f}) joint search reaches {shares[0]:.0%}, "
        f"the habit {shares[1]:.0%}.",
    ]
    if result["held_only"]:
        lines.append(
            "Only what the table holds could be asked. An incomplete table leaves each fine-tuning "
            "less of the space than joint search has, so it flatters joint search."
        )
    if result["missing"]:
        lines.insert(
            0,
            f"**No comparison yet**: {len(result['missing'])} configurations were asked that the "
            "table lacks; they failed at no cost. Run `record` or `fill`, then replay again.\n",
        )
    return "\n".join(lines) + "\n"


def fill(ground: Ground, folder: Path, seeds: int, minutes: float | None, workers: int = 1) -> int:
    """Runs what replays of both arms ask and the table lacks, until nothing is; how many."""
    added, memories = 0, dict[str, Memory]()
    while True:
        records = read_table(folder)
        given = _minutes(minutes, records, workers)
        missing = {
            c.digest: c
            for arm in ARMS
            for seed in range(seeds)
            for c in replayed(
                ground, records, arm, seed, given, workers=workers, memories=memories
            ).missing
        }
        if not missing:
            return added
        ended = record(ground, folder, list(missing.values()), None)
        added += len(read_table(folder)) - len(records)
        if ended is INTERRUPTED:
            return added


def lived(ground: Ground, folder: Path, arm: str, seed: int, minutes: float) -> Outcome:
    """One search of one arm for real, in a stage store that knows nothing yet.

    Raises:
        RunError: the folder exists, or the store has stages.
    """
    if StageStore(cache_root()).entries():
        raise RunError(f"{cache_root()} has stages; set PARETUNE_CACHE to a new folder")
    if folder.exists():
        raise RunError(f"{folder} exists; give a new folder")
    with closing(ground.open(folder)) as storage:
        started = time.time()
        search = Search(ground, storage, ground.workers(folder, 1), seed, minutes)
        settled = ARMS[arm](search)
        return outcome(ground, list(storage.records.values()), started, minutes, settled)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    asked = _parser().parse_args(arguments)
    try:
        study = load_study(asked.study)
        ground = Ground(study, load_material(study, cache_root() / "data"))
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
    told["live"] = _arm([live])
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
        if name in ("replay", "fill"):
            verb.add_argument("--seeds", type=int, default=10, help="of the sampler: 0, 1, ...")
            verb.add_argument("--workers", type=int, default=1, help="asks under way at once")
        if name == "replay":
            verb.add_argument("--held", action="store_true", help="search only what the table has")
        if name == "live":
            verb.add_argument("--arm", choices=list(ARMS), required=True)
            verb.add_argument("--seed", type=int, default=0, help="of the sampler")
            verb.add_argument("--table", type=Path, help="to compare with its replay")
    return parser


if __name__ == "__main__":
    sys.exit(main())
