"""A configuration: one choice in each slot, frozen and canonical.

Equal meaning gives equal digest: slots left as they are do not appear, settings are sorted and
complete for the chosen method (inactive knobs never appear).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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


def digest(value: Any) -> str:
    """First 32 hex digits of the SHA-256 of a JSON value in canonical form.

    >>> digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


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

    @property
    def digest(self) -> str:
        """A name for the meaning of this configuration; see `digest`."""
        return digest(self.to_json())

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
