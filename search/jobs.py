"""Jobs: what making and judging a configuration takes, on paper, piece by piece.

For samplers, which weigh what a candidate brings against what it takes. FLOPs stand for seconds
only among pieces of one kind: what a FLOP takes, `samplers/cost.py` reads from the history.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from ..evaluators.compute.step import step_flops
from ..spaces.configuration import Configuration
from ..spaces.lower import Node, Subject, Walk, is_same_training, shared, walk
from ..spaces.profile import forward_flops
from ..spaces.recent import Recent
from .samplers.cost import Job, Piece

PASS_ITEMS: Final = 256
"""Texts that a step reads which looks at data. Any number would do: it only scales a rate."""

SIZES: Final = 8192
"""Pieces whose sizes are remembered."""


@dataclass(frozen=True)
class Jobs:
    """What configurations take, as `Problem.job` asks it.

    Args:
        subject: what they are lowered against.
        tokens: of an item.
        first_rung: of a legal configuration.
        timed: whether a trial takes speed at a rung.
    """

    subject: Subject
    tokens: int
    first_rung: Callable[[Configuration], int]
    timed: Callable[[int], bool]
    _sizes: Recent[float] = field(default_factory=lambda: Recent(SIZES))

    def __call__(self, configuration: Configuration, rung: int | None = None) -> Job | None:
        """What a configuration takes at a rung, None: the first that it is asked at.

        None where it is illegal.
        """
        path = walk(configuration, self.subject)
        if path.objections:
            return None
        at = self.first_rung(configuration) if rung is None else rung
        nodes = shared(path, self.subject, at)
        pieces = []
        for node, before in zip(nodes, [None, *nodes], strict=False):
            size = self._sizes.get(node.key, partial(self._size, node, before))
            pieces.append(Piece(node.key, node.step.name, size))
        session = self._session(path) if self.timed(at) else None
        return Job(tuple(pieces), path.paper.runtime or "eager", at, session)

    def _size(self, node: Node, before: Node | None) -> float:
        """FLOPs, never below 1: of a training from the rung before on, of other steps one pass."""
        paper = node.before
        if not node.trains:
            return max(1.0, forward_flops(paper.profile, PASS_ITEMS, self.tokens))
        steps = node.until_step or 0
        if before is not None and is_same_training(before, node):
            steps -= before.until_step or 0
        return max(1.0, steps * step_flops(paper, paper.recipe.batch, self.tokens))

    def _session(self, path: Walk) -> tuple[object, ...]:
        """What a timing session is shared by: everything but weights."""
        last = path.moves[-1]
        return path.paper.profile, path.paper.runtime, last.step.name, last.told
