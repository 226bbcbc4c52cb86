"""A quote as a person reads it: what each part is called, ranges in units that suit them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from .budget import counted
from .units import readable

RANGES: Final = {
    "hours": ("wall time", "hour", 1.0),
    "kwh": ("energy", "kWh", 1.0),
    "disk_gb": ("disk", "byte", 1e9),
}
"""Ranges of a quote: what they are called, their unit, and how much of it one is."""

INSIDE: Final = ("trainings_of",)
"""Parts that others tell."""

WORK: Final = {
    "baseline": "of the baseline",
    "architecture": "of super-networks",
    "finetuning": "of fine-tuning",
}
"""What trains, by slot."""


def in_words(figures: Mapping[str, Any]) -> dict[str, Any]:
    """A quote as a person reads it: its ranges in words, adjustments where there are any.

    >>> in_words({"trials": 3, "hours": [0.5, 2.0], "adjusted": []})
    {'trials': '3 trials and the baseline', 'wall time': '30.0 min to 2.00 h'}
    """
    told: dict[str, Any] = {}
    for name, value in figures.items():
        if name in RANGES:
            title, unit, size = RANGES[name]
            told[title] = "not known" if value is None else _in_words(value, unit, size)
        elif name in SENTENCES and value != []:
            told[SENTENCES[name][0]] = SENTENCES[name][1](figures)
        elif name not in INSIDE and value not in ([], {}):
            told[name.replace("_", " ")] = "; ".join(value) if name == "adjusted" else value
    return told


def _trials_in_words(figures: Mapping[str, Any]) -> str:
    return counted(figures["trials"] + 1)


def _rungs_in_words(figures: Mapping[str, Any]) -> str:
    first, *others = [f"{count} at {100 * share:g} %" for share, count in figures["rungs"]]
    return f"{first}, then {', '.join(others)}"


def _trainings_in_words(figures: Mapping[str, Any]) -> str:
    parts = [f"{n} {WORK.get(slot, f'of {slot}')}" for slot, n in figures["trainings_of"].items()]
    return f"{figures['trainings']} ({', '.join(parts)})" if parts else str(figures["trainings"])


def _confirmation_in_words(figures: Mapping[str, Any]) -> str:
    points, seeds, ties, (low, high) = figures["confirmation"].values()
    if not points:
        return "none: there is no front of one configuration"
    judged = f"up to {counted(points + 1).replace('trial', 'point')} on the test split"
    again = f"the recommended one under {seeds} further seed{'' if seeds == 1 else 's'}"
    trainings = f"further training{'' if low == high == 1 else 's'}"
    trained = f"{low} {trainings}" if low == high else f"{low} to {high} {trainings}"
    parts = [judged, *([again] if seeds else [])]
    parts += [f"up to {ties} repeat{'' if ties == 1 else 's'} of near-ties"] if ties else []
    return ", ".join(parts) + (f" ({trained})" if seeds or ties else "")


def _hours_in_words(figures: Mapping[str, Any]) -> str:
    parts = [f"{name} {_in_words(h, 'hour')}" for name, h in figures["hours_of"].items()]
    return ", ".join(parts)


def _in_words(ends: Sequence[float], unit: str, size: float = 1.0) -> str:
    low, high = (readable(end * size, unit) for end in ends)
    return low if low == high else f"{low} to {high}"


SENTENCES: Final[Mapping[str, tuple[str, Callable[[Mapping[str, Any]], str]]]] = {
    "trials": ("trials", _trials_in_words),
    "rungs": ("rungs", _rungs_in_words),
    "trainings": ("trainings", _trainings_in_words),
    "confirmation": ("confirmation", _confirmation_in_words),
    "hours_of": ("of which", _hours_in_words),
    "legal_share_of_draws": (
        "legal",
        lambda figures: f"{100 * figures['legal_share_of_draws']:.3g} % of what was drawn",
    ),
    "matrix_product_gflops": (
        "matrix products",
        lambda figures: f"{figures['matrix_product_gflops']:.3g} GFLOP/s here and now",
    ),
}
"""Other parts of a quote: what they are called, and how they are said."""
