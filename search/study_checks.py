"""What several parts of a study must agree on, and the names that they take from tables."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import BadRequest, StudyError, UnknownName
from ..spaces.configuration import SLOTS, Choice, Configuration, Scalar
from ..spaces.device import CPU
from ..spaces.hyperparameter import Hyperparameter, narrow, settle
from ..spaces.lower import plain
from ..spaces.paper import Paper
from ..spaces.profile import Attention, FeedForward, Head, Layer, Profile
from ..spaces.slots import slots
from ..spaces.space import Space
from .limits import Limit, parse_limit, refuse_contradictions
from .study_yaml import Problem, Way

if TYPE_CHECKING:
    from .study import Study

_LAYER = Layer(Attention(192, 192, 128), FeedForward(65_536))
LARGEST = Paper(
    Profile("bert", 24_576, 300_000, 1_000_000, 2, (_LAYER,) * 256, Head("classification", 2))
)
"""A model for which knobs have their widest ranges.

What it refuses, every model refuses; what the given model refuses beyond that is said when the
model is known.
"""

SMALL = replace(LARGEST, profile=replace(LARGEST.profile, width=32))
"""Another model: a default that differs between the two depends on the model."""


def problems(study: Study) -> list[Problem]:
    """Everything that is wrong with a study whose sections are right by themselves."""
    of_space = list(space_problems(study.space, LARGEST))
    return [
        *_metric_problems(study),
        *_limit_problems(study),
        *of_space,
        *_enqueue_problems(study.enqueue, study.space, {str(p.path[1]) for p in of_space}),
        *_name_problems(study),
    ]


def _metric_problems(study: Study) -> Iterator[Problem]:
    from ..evaluators.catalogue import metrics

    for name in study.custom_metrics:
        if name in metrics():
            yield Problem(("custom_metrics", name), "is a metric of the catalogue; rename it")
    for i, name in enumerate(study.objectives):
        if name not in study.units():
            yield Problem(("objectives", i), _unknown("metric", name, list(study.units())))
        if name in study.objectives[:i]:
            yield Problem(("objectives", i), f"{name} is there twice; drop one")


def _limit_problems(study: Study) -> Iterator[Problem]:
    limits: list[Limit] = []
    for i, text in enumerate(study.constraints):
        try:
            limit = parse_limit(text, study.units())
            refuse_contradictions([*limits, limit])
        except BadRequest as error:
            yield Problem(("constraints", i), str(error))
        else:
            limits.append(limit)


def space_problems(space: Mapping[str, Mapping[str, Any]], paper: Paper) -> Iterator[Problem]:
    """What is wrong with the `space` of a study, on a model on paper."""
    for slot, wanted in space.items():
        if slot not in SLOTS:
            yield Problem(("space", slot), _unknown("slot", slot, SLOTS))
            continue
        yield from _method_problems(slot, wanted)
        for method, knobs in wanted.items():
            if method != "methods" and method in _methods(slot):
                yield from _knob_problems(("space", slot, method), knobs, paper)


def _method_problems(slot: str, wanted: Mapping[str, Any]) -> Iterator[Problem]:
    known = _methods(slot)
    methods = wanted.get("methods", known)
    if not isinstance(methods, list | tuple) or not methods:
        yield Problem(("space", slot, "methods"), f"must be a list of some of {', '.join(known)}")
        return
    for i, method in enumerate(methods):
        if method not in known:
            message = _unknown(f"{slot} method", str(method), known)
            yield Problem(("space", slot, "methods", i), message)
        if method in methods[:i]:
            yield Problem(("space", slot, "methods", i), f"{method} is there twice; drop one")
    for method in wanted:
        if method == "methods":
            continue
        if method not in known:
            message = _unknown(f"{slot} method", method, [*known, "methods"])
            yield Problem(("space", slot, method), message)
        elif method not in methods and all(m in known for m in methods):  # else misspelt there
            yield Problem(("space", slot, method), f"is not among the methods; add {method} there")


def _knob_problems(path: Way, wanted: Any, paper: Paper) -> Iterator[Problem]:
    if not isinstance(wanted, Mapping):
        yield Problem(path, f"must be a mapping of knobs to ranges, not {wanted!r}")
        return
    known = _knobs(str(path[-2]), str(path[-1]), paper)
    for name, narrowing in wanted.items():
        yield from _narrowing_problems((*path, name), name, narrowing, known)


def _narrowing_problems(
    path: Way, name: str, narrowing: Any, known: Mapping[str, Hyperparameter]
) -> Iterator[Problem]:
    if name not in known:
        what = f"knob of {'.'.join(str(part) for part in path[1:-1])}"
        yield Problem(path, _unknown(what, name, known) if known else f"{what} {name!r}: has none")
        return
    try:
        narrow(known[name], narrowing)
    except (ValueError, TypeError) as error:
        yield Problem(path, str(error))


def _enqueue_problems(
    configurations: Sequence[Mapping[str, Any]],
    space: Mapping[str, Mapping[str, Any]],
    faulty: Collection[str],
) -> Iterator[Problem]:
    """What is wrong with configurations to try first.

    Args:
        faulty: slots, or what was taken for one, whose part of the space is wrong: it judges
            nothing, and a slot that is missing there may be one that was misspelt.
    """
    misspelt = any(slot not in SLOTS for slot in faulty)
    for i, configuration in enumerate(configurations):
        for slot, choice in configuration.items():
            path: Way = ("enqueue", i, slot)
            if slot not in SLOTS:
                yield Problem(path, _unknown("slot", slot, SLOTS))
            elif not isinstance(choice, Mapping) or not isinstance(choice.get("method"), str):
                yield Problem(path, "must be {method: NAME, KNOB: VALUE, ...}")
            elif choice["method"] not in _methods(slot):
                message = _unknown(f"{slot} method", choice["method"], _methods(slot))
                yield Problem((*path, "method"), message)
            elif slot not in faulty and not (misspelt and slot not in space):
                yield from _choice_problems(path, choice, space.get(slot))


def _choice_problems(
    path: Way, choice: Mapping[str, Any], wanted: Mapping[str, Any] | None
) -> Iterator[Problem]:
    slot, method = str(path[-1]), choice["method"]
    inside = [slots()[slot].off] if wanted is None else wanted.get("methods", _methods(slot))
    if method not in inside:
        yield Problem((*path, "method"), f"{method} is not in this study's space; add it there")
        return
    known = _knobs(slot, method, LARGEST)
    narrowings = (wanted or {}).get(method, {})
    still = {n: k.default for n, k in _knobs(slot, method, SMALL).items() if k.still}
    known = {n: narrow(k, narrowings[n]) if n in narrowings else k for n, k in known.items()}
    for name, value in choice.items():
        stays = name in still and name not in narrowings
        if name != "method" and isinstance(value, list | dict):
            yield Problem((*path, name), f"must be one value, not {value!r}")
        # a default that depends on the model is compared when that is known, by `enqueued`
        elif stays and known[name].default == still[name] != value:
            yield Problem((*path, name), f"is {value!r}; {_stays(slot, method, name, still[name])}")
        elif name != "method":
            yield from _narrowing_problems((*path, name), name, value, known)


def _stays(slot: str, method: str, name: str, default: object) -> str:
    return (
        f"it stays at {default} while the space does not name it; leave it out, or write the "
        f"values to try under space.{slot}.{method}.{name}"
    )


def _name_problems(study: Study) -> Iterator[Problem]:
    from ..evaluators.devices.table import devices, grids
    from .samplers import sampler

    try:
        reads = sampler(study.sampler).reads_records
    except UnknownName as error:
        yield Problem(("sampler",), str(error))
        reads = True
    for i, run in enumerate(study.warm_start or ()):
        if run in (study.warm_start or ())[:i]:
            yield Problem(("warm_start", i), f"{run} is there twice; drop one")
    if study.warm_start and not reads:
        message = f"means nothing to {study.sampler}, which learns from its own study alone; "
        yield Problem(("warm_start",), message + "take greybox, or leave it out")
    yield from _device_problems(study, ["here", "cuda", *devices()])
    for key, value, known in (
        ("device", study.settings.device, list(devices())),
        ("region", study.settings.region, list(grids())),
    ):
        if value is not None and value not in known:
            yield Problem(("settings", key), _unknown(key, value, known))
    for i, name in enumerate(study.deploy):
        if name not in export_formats():
            yield Problem(("deploy", i), _unknown("export format", name, export_formats()))
        if name in study.deploy[:i]:
            yield Problem(("deploy", i), f"{name} is there twice; drop one")


def _device_problems(study: Study, known: Sequence[str]) -> Iterator[Problem]:
    device, engine = study.workload.device, study.engine
    if device not in known and not re.fullmatch(r"cuda:\d+", device):
        yield Problem(("workload", "device"), _unknown("device", device, [*known, "cuda:N"]))
    if study.workload.spec().torch_device == CPU:
        return
    if study.settings.device is not None:
        yield Problem(
            ("settings", "device"), f"stands for a CPU, the workload's is {device}; drop it"
        )
    for limit, counts in (("kwh", False), ("usd", study.settings.usd_per_hour is not None)):
        if getattr(study.budget, limit) is not None and not counts:
            message = f"cannot be counted on {device}: no table says what a GPU draws or costs; "
            advice = "limit minutes" if limit == "kwh" else "set settings.usd_per_hour"
            yield Problem(("budget", limit), message + advice)
    if engine.kind == "ray" and not (engine.per_trial and engine.per_trial.gpu):
        message = f"must set aside a GPU where workload.device is {device}; write {{gpu: 1}}"
        yield Problem(("engine", "per_trial"), message)
    if engine.kind == "ray" and device != "cuda":
        yield Problem(
            ("workload", "device"), f"is {device}: Ray gives each worker its GPU; write cuda"
        )


def enqueued(enqueue: Sequence[Mapping[str, Any]], space: Space) -> tuple[Configuration, ...]:
    """The configurations of `enqueue`, knobs that were not written at their defaults.

    A slot that was not written stays as it is, or takes its first method where it may not.

    Args:
        enqueue: of a checked study. space: of the same study, on the given model.

    Raises:
        StudyError: one that does not lie in the space on this model.
    """
    methods = {part.slot: part.methods for part in space.slots}
    fixed = {s: {"method": next(iter(m))} for s, m in methods.items() if slots()[s].off not in m}
    found = []
    for i, item in enumerate(enqueue):
        choices = {}
        for slot, body in {**fixed, **item}.items():
            knobs = methods.get(slot, {}).get(body["method"], ())
            settings = {name: value for name, value in body.items() if name != "method"}
            for knob in knobs:
                settings[knob.name] = _settled(("enqueue", i, slot), body, knob)
            choices[slot] = Choice.of(body["method"], **settings)
        configuration = plain(Configuration.of(**choices))
        space.parameters(configuration)
        found.append(configuration)
    return tuple(found)


def _settled(path: Way, body: Mapping[str, Any], knob: Hyperparameter) -> Scalar:
    """An enqueued value as the space offers it; the default where none was written."""
    try:
        return settle(knob, body.get(knob.name, knob.default))
    except ValueError as error:
        place = f"space.{path[-1]}.{body['method']}.{knob.name}"
        raise StudyError(
            f"{'.'.join(map(str, path))}: {error} in this study's space, on this model; choose one "
            f"of these, or write other values under {place}"
        ) from error


def export_formats() -> list[str]:
    """Names that `deploy` may hold: `hf`, and what the runtimes' artifacts are made for."""
    rows = slots()["runtime"].techniques.values()
    return sorted({"hf", *(name for row in rows for name in getattr(row, "export_formats", ()))})


def _methods(slot: str) -> list[str]:
    table = slots()[slot]
    return list(dict.fromkeys([table.off, *table.techniques]))


def _knobs(slot: str, method: str, paper: Paper) -> dict[str, Hyperparameter]:
    technique = slots()[slot].techniques.get(method)
    return {knob.name: knob for knob in technique.hyperparameters(paper)} if technique else {}


def _unknown(what: str, name: str, known: Sequence[str] | Mapping[str, object]) -> str:
    return str(UnknownName(what, name, known))
