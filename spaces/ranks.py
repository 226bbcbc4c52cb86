"""Ranks that go while adapters train: which ones, a smoothed sensitivity says (arXiv 2303.10512).

    s(w) = I U        smoothed |w g| times how much it moves (eq. 8 to 11)
    S_i  = s(e_i) + mean s(P_i) + mean s(Q_i)        of rank i (eq. 7)

Ranks with the highest S of all matrices together stay; of the others e is set to zero after every
step. They may come back while more ranks go, and no longer once as many are left as shall stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from .candidate import TrainState
from .device import CPU
from .recipe import RankBudget

SMOOTHED: Final = "smoothed"
MOVED: Final = "moved"
STAYS: Final = "stays"
STATES: Final = frozenset({SMOOTHED, MOVED, STAYS})
"""Kinds of state of a training that are not the optimiser's."""

_BETA: Final = 0.85
"""Of both moving averages, as in the paper's experiments."""

_E: Final = ".lora_E.default"


@dataclass(frozen=True)
class _Triplets:
    """The names of one matrix's Q `(r, inputs)`, e `(r, 1)` and P `(outputs, r)`."""

    q: str
    e: str
    p: str


class Ranks:
    """The ranks of one training.

    Args:
        weights: what trains, by name.
        budget: how many stay.
        state: where the training stands.
    """

    def __init__(
        self, weights: Mapping[str, nn.Parameter], budget: RankBudget, state: TrainState
    ) -> None:
        self._weights, self._budget = weights, budget
        paths = [name.removesuffix(_E) for name in weights if name.endswith(_E)]
        self._matrices = [
            _Triplets(f"{path}.lora_A.default", f"{path}{_E}", f"{path}.lora_B.default")
            for path in paths
        ]
        self._names = [name for m in self._matrices for name in (m.q, m.e, m.p)]
        self._state: dict[str, Tensor] = {}
        for name in self._names:
            for kind in (SMOOTHED, MOVED):
                key, like = f"{name}/{kind}", weights[name]
                found = state.tensors.get(key)
                self._state[key] = (
                    torch.zeros_like(like) if found is None else found.to(like.device, copy=True)
                ).detach()
        for m in self._matrices:
            key, like = f"{m.e}/{STAYS}", weights[m.e]
            found = state.tensors.get(key)
            every = torch.ones_like(like, dtype=torch.bool)
            self._state[key] = every if found is None else found.to(like.device, copy=True)

    def regulariser(self) -> Tensor:
        """How far the rows of Q and the columns of P are from orthonormal: mean Frobenius norm."""
        terms = []
        for m in self._matrices:
            for rows in (self._weights[m.q], self._weights[m.p].T):
                off = rows @ rows.T - torch.eye(len(rows), device=rows.device)
                terms.append(torch.linalg.matrix_norm(off))
        return self._budget.orthogonality * torch.stack(terms).mean()

    @torch.no_grad()
    def observe(self) -> None:
        """Smooths the sensitivities with the gradients of a step."""
        for name in self._names:
            weight = self._weights[name]
            if weight.grad is None:
                continue
            now = (weight * weight.grad).abs()
            smoothed, moved = (self._state[f"{name}/{kind}"] for kind in (SMOOTHED, MOVED))
            smoothed.lerp_(now, 1 - _BETA)
            moved.lerp_((now - smoothed).abs(), 1 - _BETA)

    @torch.no_grad()
    def let_go(self, step: int, total: int) -> None:
        """Sets e to zero where a rank does not stay after a step (from 0) of so many."""
        settled = step > 0 and self._budget.is_fixed(step - 1, total)
        if not settled:
            left = self._budget.left(step, total)
            scores = torch.cat([self._scores(m) for m in self._matrices])
            stays = torch.zeros_like(scores, dtype=torch.bool)
            stays[scores.argsort(descending=True, stable=True)[:left]] = True
            sizes = [len(self._weights[m.e]) for m in self._matrices]
            for m, part in zip(self._matrices, torch.split(stays, sizes), strict=True):
                self._state[f"{m.e}/{STAYS}"] = part[:, None]
        for m in self._matrices:
            self._weights[m.e].mul_(self._state[f"{m.e}/{STAYS}"])

    def tensors(self) -> dict[str, Tensor]:
        """The state to go on from, on the CPU."""
        return {key: value.to(CPU, copy=True) for key, value in self._state.items()}

    def _scores(self, m: _Triplets) -> Tensor:
        return self._sensitivity(m.e)[:, 0] + (
            self._sensitivity(m.q).mean(dim=1) + self._sensitivity(m.p).mean(dim=0)
        )

    def _sensitivity(self, name: str) -> Tensor:
        return self._state[f"{name}/{SMOOTHED}"] * self._state[f"{name}/{MOVED}"]
