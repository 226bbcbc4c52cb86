"""Load: the first step of every graph that starts from a given model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ..errors import ModelError
from .candidate import Candidate
from .configuration import Settings, digest
from .families import family_of
from .models import ModelSource
from .paper import Paper, structure_of
from .profile import Profile
from .special_tokens import special_tokens
from .steps import Bench, Phase, Reads

if TYPE_CHECKING:
    from torch import Tensor

_RENAMED: Final = {"gamma": "weight", "beta": "bias"}
"""What the oldest BERT checkpoints call the vectors of a norm."""

_NUMBERED: Final = re.compile(r"(label_)?-?\d+", re.IGNORECASE)
"""A class that has a number and no name; `LABEL_0` is transformers' way to write one."""


@dataclass(frozen=True)
class Load:
    """Builds the given model and fills it from its files.

    Tensors are read by their transformers names, with or without the name of the backbone in
    front. A classifier whose config names the task's classes is put in the task's order. A head
    that the files lack, or have for other classes, is drawn from the seed; anything else that they
    lack is an error.

    Args:
        source: the given model.
        profile: the same on paper, with the task's head.
        labels: the task's class names in the order of their ids; empty: none are known.
    """

    source: ModelSource
    profile: Profile
    labels: tuple[str, ...] = ()

    name: ClassVar[str] = "load"
    version: ClassVar[int] = 2
    phase: ClassVar[Phase] = Phase.LOAD
    draws: ClassVar[bool] = True
    reads: ClassVar[frozenset[Reads]] = frozenset({"model"})

    @cached_property
    def settings(self) -> Settings:
        """A name for the structure, the special tokens, what becomes of the given classifier.

        The weights are what the step reads.
        """
        special = ",".join(map(str, special_tokens(self.source.tokenizer)))
        structure = {"profile": digest(self.profile.to_json()), "special_tokens": special}
        if self.rows == _in_order(self.labels):
            return structure
        rows = "drawn anew" if self.rows is None else ",".join(map(str, self.rows))
        return {**structure, "classifier": rows}

    @cached_property
    def rows(self) -> tuple[int, ...] | None:
        """The given classifier's row for each class of the task; None: it is for other classes."""
        return _rows(self.source.config, self.labels)

    @cached_property
    def _past(self) -> dict[str, Any]:
        heads = (weight.name for weight in self.profile.weights() if weight.group == "head")
        known = tuple(heads) if self.keeps_classifier else ()
        special = special_tokens(self.source.tokenizer)
        return {"given": structure_of(self.profile), "learnt": known, "special": special}

    @cached_property
    def keeps_classifier(self) -> bool:
        """Whether the given classifier answers in the task's classes, as config.json has it."""
        config, head = self.source.config, self.profile.head
        name = family_of(self.profile.family).classes["classification"]
        # transformers writes two classes by leaving them out
        classes = len(config.get("id2label") or {}) or 2
        named = name in (config.get("architectures") or ())
        return named and self.rows is not None and classes == head.outputs

    def on_paper(self, paper: Paper) -> Paper:
        """The paper, which already describes the given model, with what is given and known."""
        return replace(paper, **self._past)

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """The given model, loaded.

        Raises:
            ModelError: the files lack a tensor, or have it in another shape.
        """
        from .build import build, fill

        found = dict(self._given())
        found.update(_fresh_head(self.profile, found, seed))
        module = build(self.profile)
        wrong = fill(module, found)
        if wrong:
            raise ModelError(
                f"{self.source.path} lacks {len(wrong)} tensors of this {self.profile.family} "
                f"model, or has them in other shapes: {', '.join(wrong[:5])}; download it again, "
                "or correct its config.json"
            )
        return Candidate(module, self.on_paper(Paper(self.profile)))

    def _given(self) -> Iterator[tuple[str, Tensor]]:
        """The checkpoint's tensors, those of its classifier in the task's order or left out."""
        classifier = f"{family_of(self.profile.family).classifier}."
        for name, tensor in _checkpoint(self.source, self.profile):
            if self.rows == _in_order(self.labels) or not name.startswith(classifier):
                yield name, tensor
            elif self.rows is not None:
                yield name, tensor[list(self.rows)]


def _in_order(labels: Sequence[str]) -> tuple[int, ...]:
    return tuple(range(len(labels)))


def _rows(config: Mapping[str, Any], labels: Sequence[str]) -> tuple[int, ...] | None:
    """As `Load.rows`. Without names on either side the classes are the rows in order."""
    given = sorted((config.get("id2label") or {}).items(), key=lambda pair: int(pair[0]))
    theirs = [str(name) for _, name in given]
    # NEGATIVE is negative, unless a task tells them apart
    spellings: tuple[Callable[[str], str], ...] = (str, str.casefold)
    for spelt in spellings:
        names, wanted = [spelt(name) for name in theirs], [spelt(label) for label in labels]
        if set(names) == set(wanted) and len(names) == len(wanted) == len(set(wanted)):
            return tuple(names.index(label) for label in wanted)
    numbered = any(all(map(_NUMBERED.fullmatch, names)) for names in (theirs, labels))
    return _in_order(labels) if numbered else None


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
