"""Attach and Merge: the Changes of techniques that add parameters beside the model."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, runtime_checkable

from ..configuration import Settings
from ..family import NARROW, Family, Role
from ..hyperparameter import OneOf
from ..paper import Paper
from ..profile import REMEMBERED, Adapter, Profile, Weight
from ..sections import Section
from ..steps import Bench, Phase, Reads, Step
from ..training import FinetuneStep, derived_seed
from .selection import Chooser, Select, new_answers

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

    from ..candidate import Candidate

MERGE = OneOf("merge", ("merge", "keep"), "merge")
"""Whether the adapter is folded into the weights after training, or stays beside them.

Merged weights are the model's own: int8 or int4 rounds what was merged (merge and requantise), and
that model is judged. Beside packed weights a kept adapter stays in floats; only the eager runtime
holds it, and refuses those that read the weights themselves (`Adapter.reads_weights`).
"""

_NOT_SHAPE: Final = frozenset({"learning_rate", "merge"})

_KEPT: Final = 256
"""Adapters that are remembered: each lists hundreds of weights, and few shapes are searched."""


class Adapts(Hashable, Protocol):
    """What Attach asks of a technique."""

    @property
    def name(self) -> str:
        """The kind of its adapters."""
        ...

    @property
    def version(self) -> int:
        """Raised when they change."""
        ...

    def adapter(self, profile: Profile, settings: Settings) -> Adapter:
        """The adapter on paper."""
        ...

    def attach(self, module: nn.Module, adapter: Adapter) -> nn.Module:
        """The module with the adapter in it, in place."""
        ...


@runtime_checkable
class ThroughPeft(Protocol):
    """A technique whose adapters peft has a file for."""

    def peft_config(self, adapter: Adapter, transposed: bool) -> PeftConfig:
        """What peft is told.

        Args:
            adapter: on paper.
            transposed: its matrices are stored as (inputs, outputs).
        """
        ...


@runtime_checkable
class Begins(Protocol):
    """A technique whose adapters take their first values from the model that they stand in."""

    def begin(self, module: nn.Module, adapter: Adapter) -> None:
        """Gives them these values, in place; draws from torch's random state."""
        ...


@dataclass(frozen=True)
class Attach:
    """Puts a technique's adapter into the model; but for virtual tokens it changes no output yet.

    Args:
        technique: whose.
        told: the settings that shape the adapter, sorted.
    """

    technique: Adapts
    told: tuple[tuple[str, str | int | float | bool], ...]
    name: ClassVar[str] = "adapter.attach"
    version: ClassVar[int] = 1
    phase: ClassVar[Phase] = Phase.ATTACH
    draws: ClassVar[bool] = True
    reads: ClassVar[frozenset[Reads]] = frozenset()

    @property
    def settings(self) -> Settings:
        """The technique, its version, and what it was told."""
        name, version = self.technique.name, self.technique.version
        return {"method": name, "method_version": version, **dict(self.told)}

    def on_paper(self, paper: Paper) -> Paper:
        """The profile with the adapter."""
        profile = paper.profile
        adapter = _shaped(self.technique, self.told, profile)
        return replace(paper, profile=replace(profile, adapters=(*profile.adapters, adapter)))

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """The candidate with the adapter in it; the seed draws its first values."""
        import torch

        assert candidate is not None  # only the step that loads starts from nothing
        paper = self.on_paper(candidate.paper)
        module = copy.deepcopy(candidate.module)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed("attach", seed))
            module = self.technique.attach(module, paper.profile.adapters[-1])
            if isinstance(self.technique, Begins):
                torch.manual_seed(derived_seed("begin", seed))
                self.technique.begin(module, paper.profile.adapters[-1])
        return _readdressed(candidate, module, paper)


@lru_cache(maxsize=_KEPT)
def _shaped(
    technique: Adapts, told: tuple[tuple[str, str | int | float | bool], ...], profile: Profile
) -> Adapter:
    """The adapter on paper, one for all trainings of that shape on that structure."""
    return technique.adapter(profile, dict(told))


@dataclass(frozen=True)
class Merge:
    """Folds the adapters of one kind into the weights: a plain model again.

    Args:
        kind: the technique's name.
    """

    kind: str
    name: ClassVar[str] = "adapter.merge"
    version: ClassVar[int] = 1
    phase: ClassVar[Phase] = Phase.MERGE
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Reads]] = frozenset()

    @property
    def settings(self) -> Settings:
        """The kind."""
        return {"kind": self.kind}

    def on_paper(self, paper: Paper) -> Paper:
        """The profile without these adapters."""
        kept = tuple(a for a in paper.profile.adapters if a.kind != self.kind)
        return replace(paper, profile=replace(paper.profile, adapters=kept))

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """The merged candidate."""
        from .peft_layers import merged

        assert candidate is not None  # only the step that loads starts from nothing
        adapters = [a for a in candidate.paper.profile.adapters if a.kind == self.kind]
        module = copy.deepcopy(candidate.module)
        for adapter in adapters:
            module = merged(module, adapter.wraps)
        paper = self.on_paper(candidate.paper)
        return _readdressed(candidate, module, paper)


def fills_zeros(paper: Paper, settings: Settings, matrices: Iterable[Weight]) -> list[str]:
    """Why an adapter that adds to these matrices may not be merged into them."""
    if settings["merge"] != "merge" or not any(map(paper.profile.zeros, matrices)):
        return []
    return [
        "merging fills the zeros of sparse matrices; choose merge: keep, or remove weights after "
        "fine-tuning (when: after)"
    ]


def _readdressed(candidate: Candidate, module: nn.Module, paper: Paper) -> Candidate:
    """The candidate with another module, its masks under the names that the weights now have."""
    # An adapter's own weights stand last: the others keep their order.
    pairs = zip(candidate.paper.profile.weights(), paper.profile.weights(), strict=False)
    names = {before.name: after.name for before, after in pairs}
    masks = {names[name]: mask for name, mask in candidate.masks.items() if name in names}
    return replace(candidate, module=module.eval(), paper=paper, train_state=None, masks=masks)


def adapted(technique: Adapts, settings: Settings, choose: Chooser) -> tuple[Step, ...]:
    """Attach, Select, Train, and Merge where that is wanted.

    Args:
        technique: whose adapter.
        settings: its own; all but `learning_rate` and `merge` shape the adapter.
        choose: what trains.
    """
    shape = {name: value for name, value in settings.items() if name not in _NOT_SHAPE}
    attach = Attach(technique, tuple(sorted(shape.items())))
    rate = float(settings["learning_rate"])
    steps = (attach, Select(technique.name, rate, choose), FinetuneStep())
    return (*steps, Merge(technique.name)) if settings.get("merge") == "merge" else steps


def beside(*leaves: str) -> Chooser:
    """Chooses an adapter's parameters, named as below the modules it wraps, and a classifier's."""

    def choose(profile: Profile) -> tuple[str, ...]:
        return (*(f"*.{leaf}" for leaf in leaves), *new_answers(profile))

    return choose


def wrapped(profile: Profile, roles: Sequence[Role]) -> dict[str, Weight]:
    """The matrices that play these roles, by the path of their module, layer by layer.

    Roles that a layer lacks are passed over, and thin ones (see `thin_refusals`); a fused matrix is
    named once.
    """
    return _playing(profile, roles, "weight")


def thin_refusals(profile: Profile, roles: Sequence[Role]) -> list[str]:
    """Why an adapter has no place where a matrix is a product of two thin ones."""
    thin = list(_playing(profile, roles, f"{NARROW}.weight"))
    if not thin:
        return []
    return [
        f"adapters change whole matrices, and {len(thin)} of those that they are for are products "
        f"of two thin ones ({thin[0]}); choose when: after for structure low_rank, its parts so "
        "that they do not meet, or finetuning full"
    ]


def _playing(profile: Profile, roles: Sequence[Role], leaf: str) -> dict[str, Weight]:
    """What lies under that name in the modules that play these roles, by path, layer by layer."""
    from ..families import family_of

    family = family_of(profile.family)
    found: dict[str, Weight] = {}
    for section in profile.sections:
        found.update(_inside(section, family, tuple(roles), leaf))
    return found


@lru_cache(maxsize=REMEMBERED)
def _inside(
    section: Section, family: Family, roles: tuple[Role, ...], leaf: str
) -> tuple[tuple[str, Weight], ...]:
    if section.layer is None:
        return ()
    paths = [family.path(role, section.layer) for role in roles if role in family.modules]
    named = {path: section.by_name.get(f"{path}.{leaf}") for path in paths}
    return tuple((path, weight) for path, weight in named.items() if weight is not None)


def sides(matrix: Weight) -> tuple[int, int]:
    """Inputs and outputs of a matrix, however it is stored."""
    axis = matrix.input_axis
    return matrix.shape[axis], matrix.shape[1 - axis]
