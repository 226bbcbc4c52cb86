"""Paper: a candidate on paper; Workload: what it will be asked to do.

Everything that can be known without torch is a function of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from .configuration import digest
from .device import torch_device
from .profile import Profile, trainable_parameters
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
        device: `here` (the CPU), `cuda` or `cuda:N`, or a row of the device table.
    """

    batch: int = 1
    prompt_tokens: int = 32
    output_tokens: int = 0
    concurrency: int = 1
    threads: int = 1
    device: str = "here"

    @property
    def torch_device(self) -> str:
        """Its device as torch names it: `cpu` or `cuda:N`."""
        return torch_device(self.device)


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
        given: `structure_of` the model that it was loaded as; None: not known.
        learnt: fnmatch patterns over the names of parameters that know the task: those that any
            training so far moved, and a classifier that came with the model.
        special: ids of the tokens that the given model's tokenizer calls special, ascending.
    """

    profile: Profile
    recipe: Recipe = field(default_factory=Recipe)
    runtime: str | None = None
    plan: Plan | None = None
    given: str | None = None
    learnt: tuple[str, ...] = ()
    special: tuple[int, ...] = ()

    @property
    def trained(self) -> Paper:
        """The paper after a training that followed its recipe."""
        learnt = tuple(dict.fromkeys((*self.learnt, *self.recipe.trainable)))
        return replace(self, learnt=learnt)

    def knows(self, name: str) -> bool:
        """Whether the parameter of that name knows the task."""
        return any(fnmatchcase(name, pattern) for pattern in self.learnt)

    @property
    def trainable_parameters(self) -> int:
        """Elements that the recipe trains; of the tensors under its mask, only as many as that."""
        recipe = self.recipe
        elements = trainable_parameters(self.profile, recipe.trainable)
        if recipe.mask is None:
            return elements
        whole = trainable_parameters(self.profile, recipe.mask.whole)
        return whole + recipe.mask.count(elements - whole)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form; `from_json` is its inverse. What tells of the past only if not empty.

        An artifact's paper has none of it: its digits would count as model bytes.
        """
        past = {"given": self.given, "learnt": list(self.learnt), "special": list(self.special)}
        return {
            "profile": self.profile.to_json(),
            "recipe": self.recipe.to_json(),
            "runtime": self.runtime,
            "plan": None if self.plan is None else asdict(self.plan),
            **{name: value for name, value in past.items() if value},
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Paper:
        """A paper from what `to_json` wrote."""
        plan = data["plan"]
        return Paper(
            profile=Profile.from_json(data["profile"]),
            recipe=Recipe.from_json(data["recipe"]),
            runtime=data["runtime"],
            plan=None if plan is None else Plan(**plan),
            given=data.get("given"),
            learnt=tuple(data.get("learnt", ())),
            special=tuple(data.get("special", ())),
        )


def structure_of(profile: Profile) -> str:
    """A name for a structure: adapters and formats, which change none of its weights, apart."""
    return digest(replace(profile, adapters=(), formats=(), by_layer=()).to_json())
