"""A session: from a study to a finished run, or from a run to more of it.

Everything that can be refused is refused before anything is stored. Then the engine loops, the
front is confirmed on the test split, and the run is closed in good order, whatever ended it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ..errors import RunError, WorkFailed
from ..evaluators.catalogue import metrics
from ..evaluators.environment import environment
from ..spaces.configuration import Configuration
from ..spaces.space import Space
from .adjust import adjusted
from .against import Z95
from .confirm import Confirmer, confirmations, further_seeds, near_tie
from .doubts import nothing_learnt
from .driver import Done, Driver, Source
from .engines.attempt import Work
from .engines.local import INTERRUPTED, run_here, run_processes
from .engines.slot import Limits
from .events import Event, Listener, log_to
from .foresight import refuse_hopeless
from .progress import follow
from .records import Record
from .rules import Knowledge
from .run import NOT_BEGUN, Header, Run, read_about, read_run, write_json
from .stages import StageStore, cache_root
from .storage import StudyStorage, guarded, move
from .study import Study, load_study
from .subject import Material, items_digest, load_material
from .trial import TrialWork
from .warm_start import earlier_runs, in_words, keep, measured_objectives

Evaluate = Callable[[Configuration, int], Mapping[str, float]]
"""A user's own function: configuration and seed to figures by metric name."""


def start(
    study: Study, folder: Path, *, quiet: bool = False, evaluate: Evaluate | None = None
) -> dict[str, Any]:
    """Searches from the beginning, or goes on where the folder's own run stopped.

    Args:
        study: as resolved.
        folder: the run's; made where there is none.
        quiet: no progress.
        evaluate: judges configurations in place of making them; None: models are made.

    Returns:
        What came out, in a few fields (`under_way`: trials that a second Ctrl-C broke off);
        `read_run(folder)` has everything.

    Raises:
        BadRequest: the study cannot be searched; nothing was stored.
        WorkFailed: no trial succeeded.
        StorageFailed: the run cannot be written.
    """
    judged = evaluate is not None
    study, words = adjusted(study, judged=judged)
    store = StageStore(cache_root())
    store.sweep()
    material = load_material(study, store.root / "data")
    words += [_data_in_words(material), *material.task.notes]
    space = Space.of(study.space, material.subject.paper)
    refuse_hopeless(study, material, space, judged=judged)
    lessons = earlier_runs(study, material, store.root / "data", folder, judged=judged)
    words += in_words(lessons, measured_objectives(study, judged=judged))
    if study.engine.kind == "ray" and evaluate is None:
        from .engines.ray import require_ray

        require_ray()
    storage = StudyStorage.open(folder, header_of(study))
    with closing(storage):
        _refuse_other_judge(storage, evaluate)
        _refuse_other_material(storage, study, material)
        words += _changed_libraries(storage, material)
        keep(storage, lessons)
        _describe(storage, study)
        knowledge = Knowledge(study, material, space, storage, judged, lessons)
        return _search(knowledge, quiet=quiet, evaluate=evaluate, words=words)


def go_on(
    folder: Path,
    *,
    trials: int | None = None,
    minutes: float | None = None,
    storage: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Resumes a run, with more budget where that is given.

    Args:
        folder: the run's.
        trials, minutes: the new totals, what is done included; None: as before.
        storage: an Optuna URL to which a local study is copied first; None: it stays.

    Raises:
        RunError: no run there, or another driver holds it.
    """
    read_about(folder)
    if not (folder / "study.yaml").is_file():
        raise RunError(f"{folder} {NOT_BEGUN}")
    if storage is not None:
        move(folder, storage)
    given = {"budget.trials": trials, "budget.minutes": minutes}
    overrides = [f"{name}={value}" for name, value in given.items() if value is not None]
    return start(load_study(folder / "study.yaml", overrides), folder, quiet=quiet)


def search(
    study: Study | Mapping[str, Any] | Path | str,
    run: Path | str,
    *,
    evaluate: Evaluate | None = None,
    quiet: bool = True,
) -> Run:
    """The Python face of `paretune search`.

    Args:
        study: the path of a study file, or a `Study`, or the same as plain data; their paths are
            taken from the current folder.
        run: the run's folder.
        evaluate: your own judge: configuration and seed to figures by metric name.
        quiet: no progress.

    Raises:
        BadRequest: the study cannot be searched.
    """
    if isinstance(study, Path | str):
        study = load_study(Path(study))
    else:
        data = study.to_json() if isinstance(study, Study) else study
        study = Study.from_dict(data, Path.cwd())
    start(study, Path(run), quiet=quiet, evaluate=evaluate)
    return read_run(Path(run))


def _search(
    knowledge: Knowledge, *, quiet: bool, evaluate: Evaluate | None, words: Sequence[str]
) -> dict[str, Any]:
    study, storage = knowledge.study, knowledge.storage
    storage.note("ended", None)
    driver = Driver(storage, knowledge.rules())
    work: Work = TrialWork(storage.folder.resolve())  # workers have folders of their own
    if evaluate is not None:
        from .function import FunctionWork

        work = FunctionWork(evaluate, study)
    log = log_to(storage.folder / "log.jsonl")
    with follow(knowledge, driver, quiet=quiet) as show:
        listen = _warned(storage, log, show)
        for text in words:
            listen(Event("message", text))
        ended = _run(driver, work, study, listen, here=evaluate is not None)
        listen(Event("message", ended.reason))
        if ended is not INTERRUPTED:
            driver.end()
            if evaluate is None and _confirm(knowledge, work, listen) is INTERRUPTED:
                ended = INTERRUPTED
    storage.note("ended", None if ended is INTERRUPTED else ended.reason)
    return _summary(storage, ended)


def _confirm(knowledge: Knowledge, work: Work, listen: Listener) -> Done:
    """Near-ties repeated on validation, then the front on the test split."""
    study, storage = knowledge.study, knowledge.storage
    top, tie = len(study.fidelity.rungs) - 1, near_tie(knowledge)
    if tie:
        text = f"repeating near-ties under further seeds: at most {study.confirm.near_ties}"
        listen(Event("message", text))
        repeater = Confirmer(storage, tie, top, lambda: near_tie(knowledge), "repeat")
        if (stopped := _run(repeater, work, study, listen, here=False)) is INTERRUPTED:
            return stopped
    wanted = confirmations(knowledge)
    if wanted:
        text = (
            f"confirming the front: {len(wanted)} points on the test split, then the "
            f"recommended one under further seeds ({study.confirm.seeds})"
        )
        listen(Event("message", text))
    confirmer = Confirmer(storage, wanted, top, lambda: further_seeds(knowledge))
    return _run(confirmer, work, study, listen, here=False)


def _warned(storage: StudyStorage, *listeners: Listener) -> Listener:
    """All listeners as one, warned once when the baseline turns out to have learnt nothing."""
    warned = False

    def listen(event: Event) -> None:
        nonlocal warned
        for listener in listeners:
            listener(event)
        said = None if warned else nothing_learnt(storage.records.get(0))
        if said is not None:
            warned = True
            listen(Event("warning", said))

    return listen


def _run(source: Source, work: Work, study: Study, listen: Listener, *, here: bool) -> Done:
    trial = study.trial
    limits = Limits(trial.timeout_seconds, trial.memory_bytes, study.workload.threads)
    engine = study.engine
    if here:
        return run_here(source, work, listen)
    if engine.kind == "ray":
        from .engines.ray import Cluster, run_cluster

        needs = engine.per_trial.model_dump() if engine.per_trial else {"cpu": 1.0}
        # a cache that the user placed is taken as one that every node sees
        shared = bool(os.environ.get("PARETUNE_CACHE"))
        cluster = Cluster(engine.workers, engine.address, needs, shared)
        return run_cluster(source, work, cluster, limits, listen)
    return run_processes(source, work, engine.workers, limits, listen)


def header_of(study: Study) -> Header:
    """What a run of this study is about: its objectives, and the whole catalogue of metrics."""
    table = metrics()
    rows = {
        name: {
            "unit": row.unit,
            "direction": row.direction,
            "resource": row.resource,
            "definition": row.definition,
            "source": row.source,
        }
        for name, row in table.items()
    }
    own = {
        name: {**row.model_dump(), "resource": "quality"}
        for name, row in study.custom_metrics.items()
    }
    return Header(
        name=Path(study.model).name,
        study=study.to_json(),
        objectives=study.objective_rows(),
        metrics={**rows, **own},
        constraints=study.constraints,
    )


def _describe(storage: StudyStorage, study: Study) -> None:
    with guarded(storage.folder):
        part = storage.folder / ".study.yaml.part"
        part.write_text(study.dump_yaml(), encoding="utf-8")
        part.replace(storage.folder / "study.yaml")
        write_json(storage.folder / "environment.json", environment(study.settings.device))


def _data_in_words(material: Material) -> str:
    """How many items there are, and what they can tell apart."""
    task = material.task
    sizes = ", ".join(f"{len(items):,} {name}" for name, items in task.splits.items())
    if not task.labels:
        return f"data: {sizes}"
    # the widest interval of a share, at one half
    half = 100 * Z95 * 0.5 / math.sqrt(max(len(task.splits["validation"]), 1))
    return (
        f"data: {sizes}; {len(task.labels)} classes; accuracy on validation is known to "
        f"± {half:.1f} points"
    )


def _refuse_other_judge(storage: StudyStorage, evaluate: Evaluate | None) -> None:
    """Raises where figures of a function and of made models would stand side by side."""
    judge = "models" if evaluate is None else "function"
    before = storage.notes.get("judge", judge)
    if before != judge:
        raise RunError(
            f"{storage.folder} was judged by "
            + ("a function of its user's" if before == "function" else "making models")
            + "; resume it the same way, `paretune.search(study, run, evaluate=FUNCTION)` or "
            "`paretune resume`, or give another folder"
        )
    storage.note("judge", judge)


def _refuse_other_material(storage: StudyStorage, study: Study, material: Material) -> None:
    """Raises where the model or the data are not what the run's earlier figures are of."""
    here = {name: items_digest(items) for name, items in sorted(material.task.splits.items())}
    here["model"] = material.source.digest
    there = storage.notes.get("data", here)
    changed = sorted(name for name in {**there, **here} if there.get(name) != here.get(name))
    if changed:
        model, splits = "model" in changed, [name for name in changed if name != "model"]
        what = [f"the model {study.model}"] if model else []
        what += [f"the data {study.task.name} ({', '.join(splits)})"] if splits else []
        raise RunError(
            f"{' and '.join(what)} changed since {storage.folder} was begun, and figures of both "
            "do not compare; put back what was there, or search in another folder"
        )
    storage.note("data", here)


def _changed_libraries(storage: StudyStorage, material: Material) -> list[str]:
    """What to say where figures come from other versions than the run's first ones."""
    here = dict(material.subject.environment)
    there = storage.notes.get("libraries", here)
    storage.note("libraries", there)
    return [
        f"this run was begun with {name} {there.get(name)}, here is {version}: figures may differ"
        for name, version in here.items()
        if there.get(name) != version
    ]


def _summary(storage: StudyStorage, ended: Done) -> dict[str, Any]:
    records = [record for _, record in sorted(storage.records.items())]
    searched = [record for record in records if record.purpose == "search"]
    states = [record.state for record in searched]
    if "final" not in states and ended is not INTERRUPTED:
        _refuse_failure(records, storage.folder)
    return {
        "run": str(storage.folder),
        "ended": ended.reason,
        "baseline": next((r.state for r in records if r.purpose == "baseline"), None),
        "trials": len(searched),
        "final": states.count("final"),
        "paused": states.count("paused"),
        "failed": states.count("failed"),
        "under_way": [record.number for record in records if record.state == "running"]
        if ended is INTERRUPTED
        else [],
        "minutes": round(storage.spent_seconds() / 60, 2),
    }


def _refuse_failure(records: Sequence[Record], folder: Path) -> None:
    """Raises with the first failure where nothing came of a search but failures."""
    for record in records:
        if record.failure is not None:
            whose = "the baseline" if record.purpose == "baseline" else f"trial {record.number}"
            raise WorkFailed(
                f"no trial succeeded; {whose} failed first ({record.failure.kind}): "
                f"{record.failure.last_words}; `paretune report {folder}` shows all"
            )
