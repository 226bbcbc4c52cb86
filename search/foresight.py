"""Foresight: what of a study can be seen to fail before anything runs or is stored.

A metric that can have no figure here, a space without a legal configuration, limits that nothing in
the space can keep as far as paper knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from ..errors import StepFailed, StudyError
from ..evaluators.catalogue import metrics
from ..evaluators.devices.here import device_name
from ..evaluators.energy.meters import find_meter
from ..evaluators.metric import Evidence, Metric, Power, Predictions, StageCost, Timings
from ..spaces.configuration import Configuration
from ..spaces.families import family_of
from ..spaces.lower import lower, walk
from ..spaces.paper import Paper, Workload
from ..spaces.profile import Profile
from ..spaces.space import Space
from ..spaces.task import TaskKind
from .limits import Limit
from .study import Study
from .study_checks import enqueued
from .subject import Material

DRAWS: Final = (50, 2000)
"""Configurations sampled before limits count as impossible; the second only if the first fail."""

NEVER_BELOW: Final = {"model_bytes": "payload_bytes"}
"""Metrics that must be built, and what paper knows them never to be below."""

Bounds = list[tuple[Limit, Callable[[Paper], float]]]
"""Limits, each with the figure that judges it."""

OF_TRAINING: Final = frozenset(
    {"training_flops", "trainable_parameters", "training_payload_bytes", "gradient_bytes"}
)
"""Metrics of the papers that trainings start from, which the finished candidate's does not tell."""


def refuse_hopeless(study: Study, material: Material, space: Space, *, judged: bool) -> None:
    """Passes when a search of the study could come to something.

    Args:
        study, material: as loaded.
        space: of the study, on its model.
        judged: a function of the user's gives the figures, whatever they are.

    Raises:
        StudyError: the baseline cannot be made, the workload asks what the model cannot do, an
            objective or limit can have no figure, an enqueued configuration is illegal, or nothing
            in the space is admissible.
    """
    try:
        lower(material.subject.baseline, material.subject)
    except StepFailed as error:
        raise StudyError(f"the baseline cannot be made: {error}") from error
    if not judged:
        _refuse_workload(study.workload.spec(), material.subject.profile)
        _refuse_unanswerable(study, material)
    for i, wanted in enumerate(enqueued(study.enqueue, space)):
        objections = walk(wanted, material.subject).objections
        if objections:
            raise StudyError(f"enqueue.{i} is illegal: {'; '.join(objections)}")
    limits = () if judged else study.limits()
    _refuse_empty(study, material, space, paper_bounds(limits, study.workload.spec()))


def fits(limits: Sequence[Limit], workload: Workload) -> Callable[[Paper], bool]:
    """Whether a candidate on paper may keep every limit, as far as paper knows."""
    known = paper_bounds(limits, workload)
    return lambda paper: all(limit.holds(value(paper)) for limit, value in known)


def paper_bounds(limits: Sequence[Limit], workload: Workload) -> Bounds:
    """The closed limits that paper can judge, each with the figure that it judges by."""
    table, known = metrics(), []
    for limit in limits:
        below = NEVER_BELOW.get(limit.metric) if limit.upper else None
        metric = table.get(below or limit.metric)
        if metric is not None and known_on_paper(metric) and not limit.open:
            known.append((limit, on_paper(metric, workload)))
    return known


def known_on_paper(metric: Metric) -> bool:
    """Whether the finished candidate's paper alone tells the figure that a record will have."""
    return metric.needs == "paper" and metric.name not in OF_TRAINING


def on_paper(metric: Metric, workload: Workload) -> Callable[[Paper], float]:
    """A metric that is `known_on_paper`, as a function of the finished candidate's paper."""

    def value(paper: Paper) -> float:
        figure = metric.evaluate(Evidence(paper, workload)).value
        assert figure is not None, f"{metric.name} says that it needs only paper"
        return figure

    return value


def unanswerable(metric: Metric, evidence: Evidence) -> str | None:
    """Why a trial's metric has no figure even when all goes well; None: it has one.

    Args:
        evidence: as complete as a trial of the study can have it.
    """
    if "peak" in metric.pieces:
        return "it is measured once, for the points of the finished front"
    figure = metric.evaluate(evidence)
    return figure.reason if figure.value is None else None


def complete(study: Study, material: Material) -> Evidence:
    """Evidence as a trial of the study has it when all goes well, its figures made up."""
    paper, workload, samples = material.subject.paper, study.workload.spec(), (0.1,) * 100
    meter = find_meter(workload, device=study.settings.device)
    joules = None if meter.source is None else 1.0
    return Evidence(
        paper=replace(paper, runtime=paper.runtime or "eager"),
        workload=workload,
        files={"model": 1},
        timings=Timings(
            samples,
            0,
            device_name(workload.device),
            samples if workload.output_tokens else (),
            samples if workload.output_tokens > 1 else (),
        ),
        power=Power(joules, meter.source, meter.name, reason=meter.reason),
        predictions=_made_up(material.task.kind),
        stages=(StageCost("", "train", 1.0, True, False, ""),),
        settings={**study.settings.given(), "item_tokens": study.task.max_length},
        training_papers=(paper,),
    )


def _made_up(kind: TaskKind) -> Predictions:
    items = np.arange(2)
    if kind == "classification":
        return Predictions(items, labels=items, logits=np.eye(2))
    ones = np.ones(2)
    return Predictions(items, nll=ones, tokens=ones, text_bytes=ones)


def _refuse_workload(workload: Workload, profile: Profile) -> None:
    """Raises where the model cannot be asked what the workload says."""
    kind, written = profile.head.kind, workload.output_tokens
    if written and kind != "language-modelling":
        raise StudyError(
            f"workload.output_tokens is {written}, but a {kind} task writes nothing; set it to 0"
        )
    longest = family_of(profile.family).longest_text(profile)
    if workload.prompt_tokens + written > longest:
        raise StudyError(
            f"workload.prompt_tokens {workload.prompt_tokens} and output_tokens {written} exceed "
            f"the {longest} positions of this {profile.family} model; choose at most {longest} "
            "together"
        )


def _refuse_unanswerable(study: Study, material: Material) -> None:
    table, evidence = metrics(), complete(study, material)
    reasons = {name: unanswerable(row, evidence) for name, row in table.items()}
    answered = ", ".join(name for name, reason in reasons.items() if reason is None)
    for name in study.asked():
        if name not in table:
            raise StudyError(
                f"{name} is a metric of the study's own, and nothing gives it a figure; search "
                "from Python with `paretune.search(study, run, evaluate=FUNCTION)`"
            )
        if reasons[name] is not None:
            verb = "searched for" if name in study.objectives else "limited"
            raise StudyError(
                f"{name} cannot be {verb} in this {material.task.kind} task: {reasons[name]}; "
                f"metrics that have figures here: {answered}"
            )


def _refuse_empty(study: Study, material: Material, space: Space, known: Bounds) -> None:
    """Raises where a large sample of the space holds nothing that may become a trial."""
    for count in DRAWS:
        legal, objections = _sampled(space, material, count, study.seed)
        if any(all(limit.holds(value(p)) for limit, value in known) for p in legal):
            return
    if not legal:
        reasons = "; ".join(reason for reason, _ in objections.most_common(3))
        raise StudyError(
            f"none of {count} sampled configurations of the space is legal: {reasons}; widen it"
        )
    for limit, value in known:
        values = [value(paper) for paper in legal]
        best = min(values) if limit.upper else max(values)
        if not limit.holds(best):
            raise StudyError(
                f"nothing in the space keeps {limit.text!r}: of {len(legal)} sampled "
                f"configurations the nearest has {best:.6g}; widen the limit or the space"
            )
    texts = " and ".join(repr(limit.text) for limit, _ in known)
    raise StudyError(
        f"none of {len(legal)} sampled configurations keeps {texts} together; widen one of them"
    )


def _sampled(
    space: Space, material: Material, count: int, seed: int
) -> tuple[list[Paper], Counter[str]]:
    objections: Counter[str] = Counter()
    legal = []
    drawn: dict[str, Configuration] = {c.digest: c for c in space.sample(count, seed)}
    for configuration in drawn.values():
        path = walk(configuration, material.subject)
        objections.update(path.objections)
        if not path.objections:
            legal.append(path.paper)
    return legal, objections
