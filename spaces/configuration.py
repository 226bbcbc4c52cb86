"""A configuration: one choice in each slot, frozen and canonical.

Equal meaning gives equal digest: slots left as they are do not appear, settings are sorted and
complete for the chosen method (inactive knobs never appear).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

Scalar = str | int | float | bool
Settings = Mapping[str, Scalar]

SLOTS: Final = (
    "architecture",
    "recipe",
    "finetuning",
    "structure",
    "recovery",
    "precision",
    "dynamics",
    "runtime",
    "plan",
)
"""The slots, in the order in which people think of them."""


_CANONICAL: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical(value: Any) -> str:
    """A JSON value as text in canonical form: equal values, equal texts.

    >>> canonical({"b": 1, "a": [2.0, None]})
    '{"a":[2.0,null],"b":1}'
    """
    return _CANONICAL.encode(value)


def joined(texts: Mapping[str, str]) -> str:
    """The canonical form of an object whose values are in canonical form already.

    >>> joined({"b": canonical(1), "a": canonical([2])}) == canonical({"a": [2], "b": 1})
    True
    """
    return "{" + ",".join(f'"{name}":{texts[name]}' for name in sorted(texts)) + "}"


def digest_of(text: str) -> str:
    """First 32 hex digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def digest(value: Any) -> str:
    """`digest_of` a JSON value in canonical form.

    >>> digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    True
    """
    return digest_of(canonical(value))


@dataclass(frozen=True)
class Choice:
    """What one slot holds: a method and its settings, sorted by name."""

    method: str
    settings: tuple[tuple[str, Scalar], ...] = ()

    @staticmethod
    def of(method: str, **settings: Scalar) -> Choice:
        """A choice from keyword settings.

        >>> Choice.of("lora", rank=8).settings
        (('rank', 8),)
        """
        return Choice(method, tuple(sorted(settings.items())))

    @cached_property
    def text(self) -> str:
        """Method and settings in canonical form; 1, 1.0 and True, which are equal, differ here."""
        return canonical({"method": self.method, **dict(self.settings)})


@dataclass(frozen=True)
class Configuration:
    """One choice in each slot that is not left as it is.

    >>> c = Configuration.of(precision=Choice.of("int8"), finetuning=Choice.of("lora", rank=8))
    >>> [slot for slot, _ in c]
    ['finetuning', 'precision']
    >>> Configuration.from_json(c.to_json()) == c
    True
    """

    choices: tuple[tuple[str, Choice], ...] = ()

    @staticmethod
    def of(**choices: Choice) -> Configuration:
        """A configuration from one keyword per slot, put in slot order.

        Raises:
            KeyError: a keyword that is no slot.
        """
        unknown = sorted(set(choices) - set(SLOTS))
        if unknown:
            raise KeyError(f"no slot {unknown[0]!r}; slots: {', '.join(SLOTS)}")
        return Configuration(tuple((slot, choices[slot]) for slot in SLOTS if slot in choices))

    def __iter__(self) -> Iterator[tuple[str, Choice]]:
        return iter(self.choices)

    def get(self, slot: str) -> Choice | None:
        """The choice in a slot, None where the slot is left as it is."""
        return dict(self.choices).get(slot)

    def replace(self, **choices: Choice | None) -> Configuration:
        """This configuration with some slots chosen anew (None: left as it is)."""
        merged = {**dict(self.choices), **choices}
        return Configuration.of(**{slot: c for slot, c in merged.items() if c is not None})

    @cached_property
    def digest(self) -> str:
        """A name for the meaning of this configuration: the digest of `to_json`."""
        return digest_of(joined({slot: choice.text for slot, choice in self.choices}))

    def to_json(self) -> dict[str, dict[str, Any]]:
        """`{slot: {"method": name, knob: value, ...}}`, JSON-ready."""
        return {slot: {"method": c.method, **dict(c.settings)} for slot, c in self.choices}

    @staticmethod
    def from_json(data: Mapping[str, Mapping[str, Any]]) -> Configuration:
        """The inverse of `to_json`."""
        choices = {}
        for slot, body in data.items():
            settings = {k: v for k, v in body.items() if k != "method"}
            choices[slot] = Choice(str(body["method"]), tuple(sorted(settings.items())))
        return Configuration.of(**choices)
