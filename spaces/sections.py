"""Sections: the weights of a profile by where they stand, and the products that they are part of.

A search looks at thousands of profiles made of few different blocks. What is summed over the
weights of a block is summed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .profile import Adapter, Group, Profile, Weight

Per = Literal["token", "answer", "pair", "pass"]
"""What a product is made for: every position, every position that is answered, every pair of
positions that attend, or once a pass."""


@dataclass(frozen=True)
class Term:
    """A product of the forward pass, whatever the workload.

    Args:
        kind, group, layer, weight: as of an `Operator`.
        macs: multiply-accumulates, each time. per: how often.
    """

    kind: str
    group: Group
    layer: int | None
    macs: int
    per: Per
    weight: str | None = None


@dataclass(frozen=True, eq=False)
class Section:
    """Weights that stand together: the tables, a block, the norm behind the blocks, the head.

    Profiles that have one in common share it. It equals itself alone, which makes it a key of
    memories.

    Args:
        make: its weights, in the order of the model; asked only where their names matter.
        layer: which block it is, None outside the blocks.
        inner: width of all heads of its attention, 0 without one.
        model: a section whose weights differ in their names alone, whose sums are this one's; None:
            it has sums of its own.
    """

    make: Callable[[], Iterable[Weight]]
    layer: int | None = None
    inner: int = 0
    model: Section | None = None

    @cached_property
    def weights(self) -> tuple[Weight, ...]:
        """In the order of the model."""
        return tuple(self.make())

    @property
    def alike(self) -> Section:
        """The one that stands for all that differ in names alone."""
        return self.model or self

    @cached_property
    def parameters(self) -> int:
        """Elements."""
        if self.model is not None:
            return self.model.parameters
        return sum(weight.count for weight in self.weights)

    @cached_property
    def groups(self) -> frozenset[Group]:
        """Of its weights."""
        if self.model is not None:
            return self.model.groups
        return frozenset(weight.group for weight in self.weights)

    @cached_property
    def by_name(self) -> Mapping[str, Weight]:
        """Its weights by their names."""
        return {weight.name: weight for weight in self.weights}

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """Its products."""
        matrices = [weight for weight in self.weights if weight.role == "matrix"]
        pairs = ("attention_scores", "attention_values") if self.inner else ()
        return (
            *(term_of(w, "answer" if w.group == "head" else "token") for w in matrices),
            *(Term(kind, "attention", self.layer, self.inner, "pair") for kind in pairs),
        )

    @cached_property
    def macs(self) -> Mapping[Per, int]:
        """Multiply-accumulates of all its products, by what they are made for."""
        return total(self.terms) if self.model is None else self.model.macs


def products_of(adapter: Adapter) -> Iterator[Term]:
    """What an adapter computes beside the products of its own matrices."""
    for product in adapter.products:
        per: Per = "pass" if product.once else "token"
        yield Term("adapter", "adapter", product.layer, product.macs, per)


def term_of(weight: Weight, per: Per) -> Term:
    """The product of a matrix with what it multiplies."""
    kind = "adapter" if weight.group == "adapter" else "linear"
    return Term(kind, weight.group, weight.layer, weight.count, per, weight.name)


def total(terms: Iterable[Term]) -> Mapping[Per, int]:
    """Multiply-accumulates of all terms, by what they are made for."""
    found: dict[Per, int] = {}
    for term in terms:
        found[term.per] = found.get(term.per, 0) + term.macs
    return found


def own_sections(profile: Profile) -> tuple[Section, ...]:
    """Those that are not an adapter's."""
    return profile.sections[: len(profile.sections) - len(profile.adapters)]


def beside(profile: Profile) -> tuple[Term, ...]:
    """The products that are no single section's: a tied head's, and those of adapters."""
    terms: list[Term] = []
    if profile.head.kind == "language-modelling" and profile.head.tied:
        table = next(weight for weight in profile.sections[0].weights if weight.role == "table")
        terms.append(term_of(replace(table, role="matrix", group="head"), "answer"))
    head_paths = _head_paths(profile) if profile.adapters else ()
    for adapter in profile.adapters:
        for weight in (weight for weight in adapter.weights if weight.role == "matrix"):
            in_head = weight.name.startswith(head_paths)
            terms.append(term_of(weight, "answer" if in_head else "token"))
        terms += products_of(adapter)
    return tuple(terms)


def _head_paths(profile: Profile) -> tuple[str, ...]:
    """What the names of an adapter's weights begin with when it sits in the head."""
    heads = {w.name.rsplit(".", 1)[0] for w in profile.weights() if w.group == "head"}
    return tuple(f"{path.removesuffix('.base_layer')}." for path in heads)
