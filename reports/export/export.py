"""export_trial: a searched point becomes a folder, proved before it stands where it was wanted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import BadRequest, StorageFailed, VerificationFailed
from ...evaluators.measurement import Measurement
from ...evaluators.quality.predictions import load_predictions
from ...search.evidence import workload_batch
from ...search.records import Ask, Record
from ...search.run import Run, read_run
from ...search.trial import Laboratory
from ...spaces.configuration import Choice, Configuration
from ...spaces.lower import plain, walk
from ...spaces.paper import Paper
from ...spaces.runtimes import OFF, RUNTIMES, open_artifact
from ..words import confirmed_quality, over_seeds
from .card import shared_name, write_card
from .compare import compared, shortfalls
from .description import Description, write_description
from .fresh import fresh_proof
from .made_with import made_with
from .proof import Proof, answered, questions, save_proof
from .target import Closeness, Piece, Target
from .targets import default_target, target_of
from .verify import summary


def export_trial(run: Path, trial: str, to: Path, format_: str | None) -> Mapping[str, Any]:
    """Writes a trial's artifact as a folder, after a fresh process has proved it.

    Args:
        run: the run's folder.
        trial: a number, `recommended`, or `baseline`.
        to: the folder to write; it must not exist, or be empty.
        format_: a row of `targets()`; None: what the trial's runtime is made for.

    Returns:
        `trial`, `format`, `folder`, `files`, `bytes`, the figures of the proof beside those of the
        search, `proved_in` (library and version), `proved_as` (how near it had to be).

    Raises:
        BadRequest: no such trial, a folder that is not empty, a format that cannot hold it.
        VerificationFailed: the folder is not what was searched; nothing is left of it.
    """
    to = Path(to).absolute()
    refuse_occupied(to)
    target = None if format_ is None else target_of(format_)
    read = read_run(Path(run))
    record = record_of(read, trial)
    work = _Work(read, record, Laboratory.of(Path(run)))
    target = target or default_target(work.paper(record.configuration))
    made_of = configuration_for(record.configuration, target, work)
    with work.laboratory.store.reading(), _beside(to) as folder:
        described = _write(work, target, made_of, folder)
        found = fresh_proof(folder, int(described.workload["threads"]))
        described = replace(described, proved=found)
        write_card(folder, described)
        described = write_description(folder, described)
        os.replace(folder, to)  # onto a folder this succeeds only while that is empty
    return summary(to, described, found)


def refuse_occupied(to: Path) -> None:
    """Raises BadRequest where something lies already."""
    if to.is_dir() and not any(to.iterdir()):
        return
    if to.exists() or to.is_symlink():
        raise BadRequest(
            f"{to} exists and is not an empty folder; choose another --to, or empty it"
        )


def record_of(run: Run, trial: str) -> Record:
    """The record of a trial that can be exported.

    Args:
        run: as read.
        trial: a number, `recommended`, or `baseline`.

    Raises:
        BadRequest: there is none, or it has not been judged at full fidelity.
    """
    if trial == "recommended":
        from ...search.select import select

        trial = str(select(run, [], None).number)
    records = {str(r.number): r for r in (*([run.baseline] if run.baseline else []), *run.records)}
    if trial == "baseline" and run.baseline is not None:
        trial = str(run.baseline.number)
    record = records.get(trial)
    if record is None:
        known = ", ".join(number for number, r in records.items() if r.state == "final") or "none"
        raise BadRequest(
            f"{run.folder} has no trial {trial!r}; give recommended, baseline, or one of: {known}"
        )
    if record.state != "final":
        why = record.failure.message if record.failure else "it was not judged at full fidelity"
        raise BadRequest(f"trial {trial} is {record.state}: {why}; choose a final trial")
    return record


def configuration_for(configuration: Configuration, target: Target, work: _Work) -> Configuration:
    """The configuration whose artifact a target is made of: the trial's, on the target's runtime.

    Raises:
        BadRequest: that runtime or the target cannot hold it; says what else to do.
    """
    paper = work.paper(configuration)
    if target.runtime not in (None, paper.runtime):
        name = str(target.runtime)
        knobs = RUNTIMES[name].hyperparameters(paper)
        choice = Choice.of(name, **{knob.name: knob.default for knob in knobs})
        configuration = plain(configuration.replace(runtime=None if name == OFF else choice))
    objections = list(walk(configuration, work.laboratory.material.subject).objections)
    if not objections:
        reason = target.objection(work.paper(configuration))
        objections = [] if reason is None else [reason]
    if objections:
        raise BadRequest(
            f"trial {work.record.number} cannot be exported as {target.name}: "
            f"{'; '.join(objections)}; leave --format out to export what it ran on, or choose "
            "another trial of the front"
        )
    return configuration


class _Work:
    """What writing needs: the run, the trial, and where it is made."""

    def __init__(self, run: Run, record: Record, laboratory: Laboratory) -> None:
        self.run = run
        self.record = record
        self.laboratory = laboratory
        self.workload = laboratory.study.workload.spec()

    def paper(self, configuration: Configuration) -> Paper:
        """A candidate on paper, as deployed."""
        return walk(configuration, self.laboratory.material.subject).paper

    def artifact(self, configuration: Configuration) -> Path:
        """The deployed artifact's folder, found or made again."""
        rung = len(self.laboratory.material.subject.rungs) - 1
        ask = Ask(self.record.number, configuration, rung, self.record.seed)
        return self.laboratory.make(ask, rung, _silent)[1]

    def answers(self, artifact: Path) -> Proof:
        """The proof's questions, with the searched artifact's answers.

        Raises:
            VerificationFailed: they are not what the search heard.
        """
        task = self.laboratory.material.task
        threads, device = self.workload.threads, self.workload.torch_device
        runner = open_artifact(artifact, threads=threads, device=device)
        try:
            asked = questions(task, workload_batch(task, self.workload))
            proof = answered(asked, runner, task.kind)
        finally:
            runner.close()
        self._refuse_another(proof)
        return proof

    def _refuse_another(self, proof: Proof) -> None:
        name, samples = self.record.files.get("predictions"), self.run.folder / "samples"
        if name is None or not (samples / f"{name}.npz").is_file():
            return
        heard = load_predictions(samples, name)
        rows = np.flatnonzero(np.isin(heard.items, proof.items))
        stored = replace(
            proof,
            logits=_rows(heard.logits, rows),
            nll=_rows(heard.nll, rows),
            tokens=_rows(heard.tokens, rows),
        )
        short = shortfalls(compared(stored, proof), "other computation")
        if short:
            raise VerificationFailed(
                f"trial {self.record.number} made again is not what was searched: "
                f"{'; '.join(short)}; export on the machine and with the versions of the run"
            )


def _write(work: _Work, target: Target, made_of: Configuration, folder: Path) -> Description:
    """Everything but the card, and paretune.json as the fresh process needs it."""
    material, searched = work.laboratory.material, work.record.configuration
    study = work.laboratory.study
    artifact, paper = work.artifact(searched), work.paper(made_of)
    proof = work.answers(artifact)
    other = artifact if made_of == searched else work.artifact(made_of)
    piece = Piece(other, paper, material.task, study.model, material.source.path)
    written = target.write(piece, folder)
    save_proof(folder, proof)
    task, baseline = material.task, work.run.baseline
    return write_description(
        folder,
        Description(
            format=target.name,
            closeness=_closeness(target, paper, work.paper(searched)),
            run=work.run.name,
            trial=work.record.number,
            seed=work.record.seed,
            configuration=searched.to_json(),
            runtime=str(work.paper(searched).runtime),
            kind=task.kind,
            labels=task.labels,
            task={
                "name": shared_name(task.name),
                "max_length": task.max_length,
                "digest": task.digest,
                "texts": max(1, len(study.task.spec().text)) if task.labels else 1,
            },
            base={
                # An adapter needs its base; who has the whole model needs no path of this machine.
                "id": piece.base if written.options else shared_name(piece.base),
                "digest": material.source.digest,
                # who proves the folder trusts the base no more than the study did
                "allow_pickle": study.allow_pickle,
                "trust_remote_code": study.trust_remote_code,
            },
            workload=asdict(work.workload),
            options=written.options,
            remarks=written.remarks,
            figures=_json(work.record.measurements),
            baseline=_json(baseline.measurements if baseline else {}),
            test=_json(confirmed_quality(work.run, work.record.number)),
            baseline_test=_json(confirmed_quality(work.run, baseline.number) if baseline else {}),
            made_with=made_with(work.workload),
            proved={},
            files={},
            over_seeds=over_seeds(work.run, work.record.number),
        ),
    )


def _rows(array: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if array is None else array[rows]


def _closeness(target: Target, paper: Paper, searched: Paper) -> Closeness:
    return target.closeness(paper) if paper.runtime == searched.runtime else "other computation"


def _json(figures: Mapping[str, Measurement]) -> dict[str, Any]:
    return {name: figure.to_json() for name, figure in figures.items()}


@contextmanager
def _beside(to: Path) -> Iterator[Path]:
    """An empty folder on the same disk, gone in the end whatever happened."""
    folder = to.parent / f".{to.name}.{os.getpid()}.part"
    try:
        folder.mkdir(parents=True)
        yield folder
    except OSError as error:
        raise StorageFailed(
            f"cannot write {to}: {error}; free some space, or choose another --to"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _silent(what: str, done: int, total: int) -> None:
    pass
