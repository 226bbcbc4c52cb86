"""FLOPs of one training step on paper: which products the backward pass has to make.

A product y = W x has two in its backward pass: one for the gradient of W, made only where W
trains, one for the gradient of x, made only where something before it trains. Where everything
trains, a step is three times the forward pass (arXiv 2204.02311); a frozen base with adapters makes
it about two. Softmax attention has two for each of its two products, where both factors lead to
something that trains. Nothing is recomputed; norms and the optimiser are not matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from ...spaces.families import family_of
from ...spaces.family import Family, Role
from ...spaces.finetuning.virtual_tokens import PREFIX, PROMPT, home
from ...spaces.profile import Operator, Product, Profile, Weight, operators


def training_step_flops(
    profile: Profile, patterns: Sequence[str], batch: int, tokens: int
) -> tuple[int, int]:
    """FLOPs of the forward and of the backward pass of one step.

    Args:
        profile: the model that trains.
        patterns: fnmatch patterns over the names of the parameters that train.
        batch: texts. tokens: positions per text.
    """
    products = operators(profile, batch, tokens)
    positions = batch * (tokens + profile.soft_tokens)
    walk = _Walk(profile, family_of(profile.family), patterns, products, positions)
    return sum(product.flops for product in products), walk.backward()


class _Walk:
    """The forward pass walked through, asking at each place whether a gradient passes."""

    def __init__(
        self,
        profile: Profile,
        family: Family,
        patterns: Sequence[str],
        products: Sequence[Operator],
        tokens: int,
    ) -> None:
        self.profile = profile
        self.family = family
        self.products = products
        self.tokens = tokens
        self._past = False
        self._beside: dict[str, list[Product]] = {}
        for adapter in profile.adapters:
            for product in adapter.products:
                self._beside.setdefault(product.path, []).append(product)
        self._below: dict[str, list[Weight]] = {}
        self._training: set[str] = set()
        for weight in profile.weights():
            if any(fnmatchcase(weight.name, pattern) for pattern in patterns):
                self._training.add(weight.name)
            for dot in _dots(weight.name):
                self._below.setdefault(weight.name[:dot], []).append(weight)
        # a tied head's product goes by the name of the table, and is no one's but the head's
        self._product_flops = {p.weight: p.flops for p in products if p.weight is not None}
        self._attention_flops = {(p.kind, p.layer): p.flops for p in products if p.weight is None}

    @property
    def _norms_first(self) -> bool:
        # layers that begin with their norms leave one for the end of the stack
        return self.family.final_norm is not None

    def backward(self) -> int:
        """FLOPs of the backward pass."""
        tables = [w for w in self.profile.weights() if w.group == "embeddings"]
        total, soft = self._module(home(self.profile, PROMPT), False)
        made, self._past = self._module(home(self.profile, PREFIX), False)
        passes = any(map(self._trains, tables)) or soft or self._norm(self.family.embedding_norm)
        total += made
        for index in range(len(self.profile.layers)):
            for part in (self._attention, self._feed_forward):
                flops, passes = part(index, passes)
                total += flops
        passes = passes or self._norm(self.family.final_norm)
        return total + self._head(passes)

    def _attention(self, index: int, passes: bool) -> tuple[int, bool]:
        if self.profile.layers[index].attention is None:
            return 0, passes
        norm = self._norm(self.family.path("attention.norm", index))
        inner = passes or (norm and self._norms_first)
        total, leads = 0, {}
        for role in ("attention.query", "attention.key", "attention.value"):
            path = self.family.path(role, index)
            flops, leads[role] = self._module(path, inner)
            first = self.family.fused(role)[0] == role  # a fused matrix is one product
            total += flops if first else 0
        norms = any(self._norm(f"{self.family.layer}.{index}.{n}") for n in self.family.head_norms)
        query = leads["attention.query"] or norms
        key = leads["attention.key"] or norms or self._past
        value = leads["attention.value"] or self._past
        scores = self._attention_flops["attention_scores", index]
        values = self._attention_flops["attention_values", index]
        total += scores * (query + key) + values * ((query or key) + value)
        flops, out = self._module(
            self.family.path("attention.output", index), query or key or value
        )
        return total + flops, passes or out or norm

    def _feed_forward(self, index: int, passes: bool) -> tuple[int, bool]:
        if self.profile.layers[index].feed_forward is None:
            return 0, passes
        norm = self._norm(self.family.path("ffn.norm", index))
        inner = passes or (norm and self._norms_first)
        rising: tuple[Role, ...] = ("ffn.gate", "ffn.up") if self.family.gated else ("ffn.up",)
        total, leads = 0, False
        for role in rising:
            flops, out = self._module(self.family.path(role, index), inner)
            total, leads = total + flops, leads or out
        flops, out = self._module(self.family.path("ffn.down", index), leads)
        return total + flops, passes or out or norm

    def _head(self, passes: bool) -> int:
        if self.profile.head.kind == "language-modelling":
            if self.profile.head.tied:
                (product,) = (p for p in self.products if p.group == "head")
                return product.flops * (passes + (product.weight in self._training))
            return self._module(self.family.language_head, passes)[0]
        total = 0
        for path in (self.family.pooler, self.family.classifier):
            if path is not None:
                flops, passes = self._module(path, passes)
                total += flops
        return total

    def _module(self, path: str, passes: bool) -> tuple[int, bool]:
        """Backward FLOPs of a matrix with its adapters, and whether a gradient leads to it."""
        mine = self._below.get(path, [])
        own = [w for w in mine if w.group != "adapter"]
        added = [w for w in mine if w.group == "adapter"]
        beside, learns = self._beside.get(path, []), any(map(self._trains, added))
        reads = passes or (learns and any(product.before for product in beside))
        # thin matrices stand in a row, and so do those of an adapter, which is beside them
        total = self._row(own, reads) + self._row(added, passes)
        for product in beside:
            made = passes * product.hidden + learns * product.gradients
            total += product.flops(self.tokens) * made
        return total, passes or any(map(self._trains, mine))

    def _row(self, weights: list[Weight], passes: bool) -> int:
        """Backward FLOPs of matrices that stand one after the other."""
        total = 0
        for weight in weights:
            trains = self._trains(weight)
            total += self._flops(weight) * (passes + trains)
            passes = passes or trains
        return total

    def _norm(self, path: str | None) -> bool:
        return path is not None and any(map(self._trains, self._below.get(path, [])))

    def _flops(self, weight: Weight) -> int:
        return self._product_flops.get(weight.name, 0) if weight.role == "matrix" else 0

    def _trains(self, weight: Weight) -> bool:
        return weight.name in self._training


def _dots(name: str) -> list[int]:
    return [i for i, letter in enumerate(name) if letter == "."]
