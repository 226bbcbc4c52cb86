"""Load: the first step of every graph that starts from a given model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pickle import UnpicklingError
from typing import TYPE_CHECKING, ClassVar, Final

from ..errors import ModelError
from .candidate import Candidate
from .configuration import Settings, digest
from .families import family_of
from .models import ModelSource
from .paper import Paper
from .profile import Profile
from .steps import Bench, Phase, Reads

if TYPE_CHECKING:
    from torch import Tensor

_RENAMED: Final = {"gamma": "weight", "beta": "bias"}
"""What the oldest BERT checkpoints call the vectors of a norm."""


@dataclass(frozen=True)
class Load:
    """Builds the given model and fills it from its files.

    Tensors are read by their transformers names, with or without the name of the backbone in
    front. A head that the files lack, or have for other classes, is drawn from the seed; anything
    else that they lack is an error.

    Args:
        source: the given model.
        profile: the same on paper, with the task's head.
    """

    source: ModelSource
    profile: Profile

    name: ClassVar[str] = "load"
    version: ClassVar[int] = 1
    phase: ClassVar[Phase] = Phase.LOAD
    draws: ClassVar[bool] = True
    reads: ClassVar[frozenset[Reads]] = frozenset({"model"})

    @cached_property
    def settings(self) -> Settings:
        """A name for the structure, head included; the weights are what the step reads."""
        return {"profile": digest(self.profile.to_json())}

    def on_paper(self, paper: Paper) -> Paper:
        """The paper as it came: it already describes the given model."""
        return paper

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """The given model, loaded.

        Raises:
            ModelError: the files lack a tensor, or have it in another shape.
        """
        from .build import build, fill

        found = dict(_checkpoint(self.source, self.profile))
        found.update(_fresh_head(self.profile, found, seed))
        module = build(self.profile)
        wrong = fill(module, found)
        if wrong:
            raise ModelError(
                f"{self.source.path} lacks {len(wrong)} tensors of this {self.profile.family} "
                f"model, or has them in other shapes: {', '.join(wrong[:5])}; download it again, "
                "or correct its config.json"
            )
        return Candidate(module, Paper(self.profile))


def _checkpoint(source: ModelSource, profile: Profile) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a checkpoint that the model has, by the model's names."""
    wanted = {weight.name: weight for weight in profile.weights()}
    base = family_of(profile.family).base
    for stored, tensor in _tensors(source):
        stem, dot, last = stored.rpartition(".")
        name = stem + dot + _RENAMED.get(last, last)
        weight = wanted.get(name) or wanted.get(f"{base}.{name}")
        if weight is None:
            continue
        # A classifier for other classes is none of ours; a wrong backbone is an error later.
        if weight.group != "head" or tuple(tensor.shape) == weight.shape:
            yield weight.name, tensor.float()


def _tensors(source: ModelSource) -> Iterator[tuple[str, Tensor]]:
    import torch
    from safetensors import SafetensorError, safe_open

    for file in source.weights:
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, "pt") as stored:
                    for name in stored.keys():  # noqa: SIM118 - safe_open is no mapping
                        yield name, stored.get_tensor(name)
            else:
                yield from torch.load(file, map_location="cpu", weights_only=True).items()
        except (OSError, SafetensorError, UnpicklingError) as error:
            raise ModelError(f"{file} cannot be read: {error}; download it again") from error


def _fresh_head(
    profile: Profile, found: Mapping[str, Tensor], seed: int
) -> Iterator[tuple[str, Tensor]]:
    """The classification head where the checkpoint has none, drawn as transformers draws it."""
    import torch

    if profile.head.kind != "classification":
        return
    generator = torch.Generator().manual_seed(seed)
    deviation = float(dict(profile.extra).get("initializer_range", 0.02))
    for weight in profile.weights():
        if weight.group == "head" and weight.name not in found:
            tensor = torch.zeros(weight.shape)
            if weight.role == "matrix":
                tensor.normal_(0.0, deviation, generator=generator)
            yield weight.name, tensor
