"""The table of search problems: one row a family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import UnknownName
from .benchmark import Benchmark
from .hwgpt import HwGpt
from .small_tables import llamacpp, peft
from .synthetic import Dtlz2, Mixed, Zdt1

FOUR: Final = ("perplexity", "latency_ms", "memory_mb", "energy_wh")


@dataclass(frozen=True)
class Family:
    """One row.

    Args:
        example: a full name, `FAMILY` or `FAMILY:PART:PART`.
        make: the folder of measured data, and the name's parts, to a problem.
        about: what it is, in a line.
    """

    example: str
    make: Callable[..., Benchmark]
    about: str


FAMILIES: Final[dict[str, Family]] = {
    row.example.partition(":")[0]: row
    for row in (
        Family(
            "hwgpt:s:a100",
            lambda folder, scale, device: HwGpt(scale, device, folder),
            "27 choices of a GPT-2: perplexity, latency",
        ),
        Family(
            "hwgpt4:s:a100",
            lambda folder, scale, device: HwGpt(scale, device, folder, FOUR),
            "the same: perplexity, latency, memory, energy",
        ),
        Family(
            "hwgpt-limits:s:a100",
            lambda folder, scale, device: HwGpt(scale, device, folder, limited=True),
            "the first, with caps on FLOPs and cache that one random model in nine keeps",
        ),
        Family("zdt1", lambda _: Zdt1(), "ten numbers, two objectives, no structure"),
        Family("dtlz2", lambda _: Dtlz2(), "six numbers, three objectives, no structure"),
        Family("mixed", lambda _: Mixed(), "a method with knobs of its own, noise: error, size"),
        Family("llamacpp", llamacpp, "46 quantizations of Llama-3-8B: size, perplexity"),
        Family("peft", peft, "63 fine-tunings of Llama-3.2-3B: error, parameters, memory"),
    )
}


def problem_named(text: str, folder: Path) -> Benchmark:
    """The problem of that name.

    Args:
        text: `FAMILY` or `FAMILY:SCALE:DEVICE`, as in `FAMILIES`. folder: the measured data.

    Raises:
        UnknownName: no such problem. DataError: the folder does not hold its data.
    """
    name, *parts = text.split(":")
    row = FAMILIES.get(name)
    if row is None or len(parts) != row.example.count(":"):
        raise UnknownName("problem", text, [row.example for row in FAMILIES.values()])
    return row.make(folder, *parts)
