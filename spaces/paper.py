"""Paper: a candidate on paper; Workload: what it will be asked to do.

Everything that can be known without torch is a function of these.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .profile import Profile
from .recipe import Recipe


@dataclass(frozen=True)
class Workload:
    """The use for which speed and memory are judged.

    Args:
        batch: texts answered together.
        prompt_tokens: tokens read per text.
        output_tokens: tokens written per text (0 for encoders).
        concurrency: requests in flight.
        threads: CPU threads of one instance.
        device: `here`, or a row of the device catalogue.
    """

    batch: int = 1
    prompt_tokens: int = 32
    output_tokens: int = 0
    concurrency: int = 1
    threads: int = 1
    device: str = "here"


@dataclass(frozen=True)
class Plan:
    """How the model is laid over devices (on paper)."""

    devices: int = 1
    data_parallel: int = 1
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    zero_stage: int = 0


@dataclass(frozen=True)
class Paper:
    """A candidate on paper.

    Args:
        profile: its structure.
        recipe: how the next Train step will train it.
        runtime: the row of `runtimes.RUNTIMES` it was deployed to, None before Deploy.
        plan: its layout over devices, None for one device.
    """

    profile: Profile
    recipe: Recipe = field(default_factory=Recipe)
    runtime: str | None = None
    plan: Plan | None = None
