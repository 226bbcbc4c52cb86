"""Faults of form of a study: each in a study file's words, and what can be judged in spite of them.

pydantic finds them all, but judges nothing further. Here faulty values are left out, so that what
the rest says - names, limits, configurations to try first - is judged in the same round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..errors import nearest
from .study_checks import problems
from .study_yaml import Problem, Way

if TYPE_CHECKING:
    from .study import Study

PASSES: Final = 4
"""Rounds of leaving out: a section may lack something only once its faulty part is gone."""

RESTS_ON: Final[tuple[tuple[str, Way], ...]] = (
    ("objectives", ("custom_metrics",)),
    ("constraints", ("custom_metrics",)),
    ("budget", ("settings", "usd_per_hour")),
)
"""Sections, and what they are judged by: nothing is said of them where that is faulty."""

_IN_YAML: Final = {
    "a valid array": "a list: [...]",
    "an object": "a mapping: {KEY: VALUE, ...}",
    "a valid string": "text",
}
"""What pydantic calls by the names of JSON."""


def in_words(details: ErrorDetails, top: type[BaseModel]) -> Problem:
    """A validation error in the words of a study file.

    Args:
        details: as pydantic tells it. top: the model that was validated.
    """
    path = tuple(details["loc"])
    given = details["input"]
    if details["type"] == "extra_forbidden":
        allowed = list(_fields(path[:-1], top))
        near = nearest(str(path[-1]), allowed)
        hint = f"did you mean {near}? " if near else ""
        return Problem(path, f"unknown key; {hint}allowed here: {', '.join(allowed)}")
    if details["type"] == "missing":
        return Problem(path, "is missing")
    if details["type"] == "too_short":
        return Problem(path, "is empty; it needs at least one")
    if details["type"] == "value_error":
        return Problem(path, str(details["ctx"]["error"]))
    wanted = details["msg"].removeprefix("Input should be ")
    wanted = _IN_YAML.get(wanted, wanted)
    near = nearest(str(given), _options(details))
    hint = f"; did you mean {near}?" if near else ""
    return Problem(path, f"is {given!r}; it must be {wanted}{hint}")


def beside(
    data: Mapping[str, Any], error: ValidationError, validated: Callable[[Any], Study]
) -> list[Problem]:
    """What is wrong with a study beside its faults of form.

    Args:
        data: the study. error: its faults of form.
        validated: a study from data, or a ValidationError.

    Returns:
        Problems that stay whatever is written in the place of the faulty values.
    """
    left_out: set[Way] = set()
    for _ in range(PASSES):
        for details in error.errors():
            data, way = _without(data, tuple(details["loc"]))
            left_out.add(way)
        try:
            study = validated(data)
        except ValidationError as again:
            error = again
            continue
        return [p for p in problems(study) if not any(_open(p.path, way) for way in left_out)]
    return []


def _without(data: Mapping[str, Any], way: Way, above: Way = ()) -> tuple[dict[str, Any], Way]:
    """Data without a faulty value, and the way to what was left out: a list as a whole."""
    key, rest = str(way[0]), way[1:]
    here, inner = (*above, key), data.get(key)
    if rest and isinstance(inner, Mapping):
        mended, cut = _without(inner, rest, here)
        return {**data, key: mended}, cut
    stand_in = _stand_in(here)
    kept = {name: value for name, value in data.items() if name != key}
    return kept if stand_in is None else {**kept, key: stand_in}, here


def _stand_in(way: Way) -> Any:
    """Something of the right form for what a study must have; None for what it may lack."""
    if way[0] == "custom_metrics":
        return {2: {"direction": "minimize"}, 3: "minimize"}.get(len(way))
    required = {"model": "-", "task": {"name": "-"}, "objectives": ["parameters"]}
    return "-" if way == ("task", "name") else required.get(str(way[0])) if len(way) == 1 else None


def _open(path: Way, way: Way) -> bool:
    """A problem might go away with whatever is written in the place of a faulty value."""
    if all(a == b for a, b in zip(path, way, strict=False)):
        return True
    if path[0] == "enqueue" and way[0] == "space":
        return len(way) == 1 or way[1] == path[2]
    return any(path[0] == section and way[: len(on)] == on for section, on in RESTS_ON)


def _options(details: ErrorDetails) -> Sequence[str]:
    expected = str(details.get("ctx", {}).get("expected", ""))
    return [part.strip(" '") for part in expected.replace(" or ", ",").split(",")]


def _fields(path: Way, section: type[BaseModel]) -> Iterator[str]:
    """Keys that are allowed in the section at a path."""
    for key in path:
        field = section.model_fields.get(str(key))
        if field is not None:
            section = next(_sections(field.annotation), section)
    yield from section.model_fields


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)
