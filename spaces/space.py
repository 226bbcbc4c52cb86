"""Space: what a study searches, as knobs in slots; ConfigSpace holds the conditions.

Parameter names are `slot` (which method) and `slot.method.knob`; a slot with one method and a knob
with one value are not parameters at all. Knobs of methods that were not chosen are never suggested,
nor those to which earlier answers leave one value. A name has one distribution in all trials: what
they leave several values to is asked whole, and refused by the walk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import StudyError, UnknownName
from .configuration import SLOTS, Choice, Configuration, Scalar, Settings
from .hyperparameter import Hyperparameter, Integer, OneOf, narrow, settle, unnamed
from .lower import plain
from .paper import Paper
from .slots import slots
from .technique import is_canonical, is_settled

if TYPE_CHECKING:
    from ConfigSpace import ConfigurationSpace


class Suggester(Protocol):
    """What a space asks for values: an Optuna trial, or anything that answers like one."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """A whole number in `[low, high]`."""
        ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number in `[low, high]`."""
        ...


@dataclass(frozen=True)
class SlotSpace:
    """The methods that may stand in a slot, each with its knobs as narrowed by the study."""

    slot: str
    methods: Mapping[str, tuple[Hyperparameter, ...]]

    @cached_property
    def parameters(self) -> Mapping[str, tuple[tuple[str, Hyperparameter], ...]]:
        """The knobs of each method with the names of their parameters."""
        return {
            method: tuple((f"{self.slot}.{method}.{knob.name}", knob) for knob in knobs)
            for method, knobs in self.methods.items()
        }


@dataclass(frozen=True)
class Space:
    """Everything that a study may try, legality apart."""

    slots: tuple[SlotSpace, ...]

    @staticmethod
    def of(wanted: Mapping[str, Mapping[str, Any]], paper: Paper) -> Space:
        """The space that a study file asks for.

        Args:
            wanted: slot -> `{"methods": [names], NAME: {knob: narrowing}}`; without `methods`
                every method of the slot. A slot that is left out stays as it is.
            paper: the given model, for which techniques declare their knobs.

        Raises:
            UnknownName: a slot, method or knob that no table holds.
            StudyError: a narrowing outside what the knob allows.
        """
        for slot in wanted:
            if slot not in SLOTS:
                raise UnknownName("slot", slot, SLOTS)
        return Space(tuple(_slot(s, wanted[s], paper) for s in SLOTS if s in wanted))

    def suggest(self, trial: Suggester) -> Configuration:
        """Asks a trial for one configuration; only active knobs are suggested."""
        choices: dict[str, Choice] = {}
        for space in self.slots:
            methods = list(space.methods)
            method = (
                methods[0]
                if len(methods) == 1
                else str(trial.suggest_categorical(space.slot, methods))
            )
            settings, before = dict[str, Scalar](), _acting(choices)
            for name, knob in space.parameters[method]:
                left = _left(space.slot, method, knob, settings, before)
                settings[knob.name] = _suggest(trial, name, knob) if left is None else left
            choices[space.slot] = Choice.of(method, **settings)
        return plain(Configuration.of(**choices))

    def parameters(self, configuration: Configuration) -> dict[str, Scalar]:
        """The values with which `suggest` would have made a configuration.

        Raises:
            StudyError: the configuration does not lie in this space.
        """
        known = {space.slot: space for space in self.slots}
        for slot, choice in configuration:
            if slot not in known or choice.method not in known[slot].methods:
                raise StudyError(f"{slot}.{choice.method} is not in this study's space; add it")
        values: dict[str, Scalar] = {}
        for space in self.slots:
            choice = configuration.get(space.slot) or Choice(slots()[space.slot].off)
            if choice.method not in space.methods:
                raise StudyError(f"{space.slot} may not stay as it is in this study's space")
            if len(space.methods) > 1:
                values[space.slot] = choice.method
            values.update(_settings(space, choice, _acting(dict(configuration))))
        return values

    def configspace(self, seed: int = 0) -> ConfigurationSpace:
        """The same space as a ConfigSpace object, with its conditions."""
        from ConfigSpace import ConfigurationSpace, EqualsCondition

        space = ConfigurationSpace(seed=seed)
        for part in self.slots:
            parent = _categorical(part.slot, list(part.methods))
            space.add(parent)
            for method, knobs in part.methods.items():
                for knob in knobs:
                    child = _configspace(f"{part.slot}.{method}.{knob.name}", knob)
                    space.add(child)
                    if len(part.methods) > 1:
                        space.add(EqualsCondition(child, parent, method))
        return space

    def sample(self, count: int, seed: int = 0) -> list[Configuration]:
        """Random configurations, legality apart, in canonical form."""
        space = self.configspace(seed)
        drawn = [dict(sample) for sample in space.sample_configuration(size=count)]
        return [self.suggest(_Given(values)) for values in drawn]


@dataclass(frozen=True)
class _Given:
    """Answers suggestions from given values."""

    values: Mapping[str, Any]

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        # ConfigSpace hands back numpy scalars; the space's own values are plain.
        return next(choice for choice in choices if choice == self.values[name])

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return int(self.values[name])

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self.values[name])


def _slot(slot: str, wanted: Mapping[str, Any], paper: Paper) -> SlotSpace:
    table = slots()[slot]
    known = [*dict.fromkeys([table.off, *table.techniques])]
    methods = [str(m) for m in wanted.get("methods", known)]
    for method in [*methods, *(key for key in wanted if key != "methods")]:
        if method not in known:
            raise UnknownName(f"{slot} method", method, known)
    return SlotSpace(slot, {m: _knobs(slot, m, wanted.get(m) or {}, paper) for m in methods})


def _knobs(
    slot: str, method: str, wanted: Mapping[str, Any], paper: Paper
) -> tuple[Hyperparameter, ...]:
    technique = slots()[slot].techniques.get(method)
    knobs = {h.name: h for h in technique.hyperparameters(paper)} if technique else {}
    for name in wanted:
        if name not in knobs:
            raise UnknownName(f"knob of {slot}.{method}", name, knobs)
    try:
        return tuple(narrow(h, wanted[n]) if n in wanted else unnamed(h) for n, h in knobs.items())
    except ValueError as error:
        raise StudyError(
            f"space.{slot}.{method}: {error} for this model; choose among these"
        ) from error


def _suggest(trial: Suggester, name: str, knob: Hyperparameter) -> Scalar:
    if isinstance(knob, OneOf):
        if len(knob.values) == 1:
            return knob.values[0]
        value: Scalar = trial.suggest_categorical(name, list(knob.values))
        return value
    if isinstance(knob, Integer):
        return trial.suggest_int(name, knob.low, knob.high, log=knob.log)
    return trial.suggest_float(name, knob.low, knob.high, log=knob.log)


def _acting(choices: Mapping[str, Choice]) -> dict[str, Choice]:
    """The choices that do something."""
    return {slot: c for slot, c in choices.items() if c.method != slots()[slot].off}


def _left(
    slot: str, method: str, knob: Hyperparameter, known: Settings, before: Mapping[str, Choice]
) -> Scalar | None:
    """The one value that earlier answers leave to a knob, None where they leave it open."""
    technique = slots()[slot].techniques.get(method)
    if not is_settled(technique):
        return None
    value = technique.settled(known, before).get(knob.name)
    return value if isinstance(knob, OneOf) and value in knob.values else None


def _settings(
    space: SlotSpace, choice: Choice, configuration: Mapping[str, Choice]
) -> dict[str, Scalar]:
    given, values = dict(choice.settings), dict[str, Scalar]()
    for knob in space.methods[choice.method]:
        if knob.name not in given:
            raise StudyError(f"{space.slot}.{choice.method} needs a value for {knob.name}")
        try:
            value = settle(knob, given[knob.name])
        except ValueError as error:
            if not _is_idle(space.slot, choice, knob):
                raise StudyError(f"{space.slot}.{choice.method}: {error}") from error
            value = knob.default
        fixed = isinstance(knob, OneOf) and len(knob.values) == 1
        left = _left(space.slot, choice.method, knob, given, configuration)
        if not fixed and left is None:
            values[f"{space.slot}.{choice.method}.{knob.name}"] = value
    return values


def _is_idle(slot: str, choice: Choice, knob: Hyperparameter) -> bool:
    """Whether a knob means nothing beside the others: any of its values is as good."""
    technique, given = slots()[slot].techniques.get(choice.method), dict(choice.settings)
    if not is_canonical(technique):
        return False
    return technique.canonical({**given, knob.name: knob.default}) == technique.canonical(given)


def _categorical(name: str, values: Sequence[Scalar]) -> Any:
    from ConfigSpace import CategoricalHyperparameter

    return CategoricalHyperparameter(name, list(values))


def _configspace(name: str, knob: Hyperparameter) -> Any:
    from ConfigSpace import UniformFloatHyperparameter, UniformIntegerHyperparameter

    if isinstance(knob, OneOf):
        return _categorical(name, knob.values)
    if knob.low == knob.high:
        return _categorical(name, [knob.low])
    kind = UniformIntegerHyperparameter if isinstance(knob, Integer) else UniformFloatHyperparameter
    return kind(name, knob.low, knob.high, log=knob.log, default_value=knob.default)
