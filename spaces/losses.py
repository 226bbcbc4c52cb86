"""The terms of the training objective, over what models answer; see `answers.py`.

Sources: soft targets 1503.02531 (section 2); hidden states and attention 1909.10351 (eq. 7-9, with
attention compared after the softmax, which is what the modules give); token similarities, for
widths that differ, 1907.09682 (eq. 1-4, over the tokens of a text); relations of queries, keys and
values 2012.15828 (section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import StepFailed
from .recipe import Loss, Pairs

IGNORED = -100

_UNSEEN = -1e9
"""In place of a score that must weigh nothing: minus infinity would make 0 x infinity of it."""


def objective(
    losses: Sequence[Loss], student: Any, teacher: Any, labels: Tensor, mask: Tensor
) -> Tensor:
    """The weighted sum of a recipe's losses, a scalar.

    Args:
        losses: the terms.
        student, teacher: an `Answer` each, or what else has `logits` and, where a term asks for
            them, `hidden_states`, `attentions` or `projections`. `teacher` may be None when only
            `task` is asked.
        labels: `(b,)` classes or `(b, s)` token ids, `-100` where nothing is judged.
        mask: `(b, s)`, 1 where there is text.
    """
    total: Tensor = student.logits.new_zeros((), dtype=torch.float32)
    for loss in losses:
        if loss.kind == "task":
            term = task_loss(student.logits, labels)
        elif loss.kind == "logits":
            term = logits_loss(student.logits, teacher.logits, labels, loss.temperature)
        elif loss.kind == "hidden":
            term = hidden_loss(student.hidden_states, teacher.hidden_states, mask, loss.pairs)
        elif loss.kind == "attention":
            term = attention_loss(student.attentions, teacher.attentions, mask, loss.pairs)
        else:
            term = relation_loss(student.projections, teacher.projections, mask, loss.heads)
        total = total + loss.weight * term
    return total


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy on the class, or on every judged next token, averaged over what is judged."""
    answers, wanted = _judged(logits, labels)
    return F.cross_entropy(answers, wanted, reduction="sum") / max(len(wanted), 1)


def logits_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """`T^2 KL(teacher || student)` at temperature T, averaged over what is judged (1503.02531)."""
    if student.shape != teacher.shape:
        raise StepFailed(
            "illegal",
            f"the student answers {tuple(student.shape)}, its teacher {tuple(teacher.shape)}; "
            "distil from a teacher with the same classes or vocabulary",
        )
    ours, _ = _judged(student, labels)
    theirs, _ = _judged(teacher, labels)
    wanted = F.log_softmax(theirs / temperature, -1)
    given = F.log_softmax(ours / temperature, -1)
    divergence = F.kl_div(given, wanted, reduction="sum", log_target=True) / max(len(given), 1)
    return temperature**2 * divergence


def hidden_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    mask: Tensor,
    pairs: Pairs = "spread",
) -> Tensor:
    """Mean squared difference of hidden states over tokens of text; embeddings only if `spread`.

    Layers are paired by `paired`. Where widths differ, each side's `(s, s)` cosine similarities
    between the tokens of a text are compared instead: nothing is learnt that is thrown away later.
    """
    terms = [
        _state_difference(student[ours], teacher[theirs], mask)
        for ours, theirs in paired(len(student) - 1, len(teacher) - 1, pairs)
    ]
    return torch.stack(terms).mean()


def attention_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    mask: Tensor,
    pairs: Pairs = "spread",
) -> Tensor:
    """Mean squared difference of attention probabilities, over rows that are text.

    Where the numbers of heads differ, the means over heads are compared.
    """
    if not student or not teacher:
        raise StepFailed("illegal", "a model without attention has none to compare; use `hidden`")
    terms = []
    for ours, theirs in paired(len(student), len(teacher), pairs):
        if ours == 0:  # the embeddings attend to nothing
            continue
        a, b = student[ours - 1].float(), teacher[theirs - 1].float()
        if a.shape[1] != b.shape[1]:
            a, b = a.mean(1, keepdim=True), b.mean(1, keepdim=True)
        terms.append(_masked_mean((a - b).square().mean(1).sum(-1), mask))
    return torch.stack(terms).mean()


def relation_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, heads: int
) -> Tensor:
    """`KL(teacher || student)` of what each token's query, key and value have to do with others'.

    A relation is the softmax over a text's tokens of scaled products within one kind (eq. 5 and 6),
    over the whole square, causal or not. The heads of both models are laid side by side and cut
    anew into relation heads, so that neither widths nor numbers of heads need agree.

    Args:
        student, teacher: queries, keys and values of one attention, `(b, s, inner)` each; widths
            may differ from one to the next.
        mask: `(b, s)`, 1 where there is text.
        heads: relation heads; they divide every width.

    Returns:
        The mean over the three kinds, relation heads and tokens of text.
    """
    terms = []
    for ours, theirs in zip(student, teacher, strict=True):
        given, wanted = (_relations(side, mask, heads) for side in (ours, theirs))
        divergence = (wanted.exp() * (wanted - given)).sum(-1).mean(1)
        terms.append(_masked_mean(divergence, mask))
    return torch.stack(terms).mean()


def paired(student: int, teacher: int, pairs: Pairs) -> list[tuple[int, int]]:
    """Which of the student's states learns from which of the teacher's; 0 is the embeddings'.

    `top` counts layers from the end, as far as both have any (1908.09355, PKD-Last).

    >>> paired(2, 4, "spread"), paired(2, 4, "top"), paired(2, 4, "last")
    ([(0, 0), (1, 2), (2, 4)], [(2, 4), (1, 3)], [(2, 4)])
    """
    if pairs == "spread":
        return list(enumerate(layer_map(student, teacher)))
    common = 1 if pairs == "last" else max(1, min(student, teacher))
    return [(student - back, teacher - back) for back in range(common)]


def layer_map(student: int, teacher: int) -> list[int]:
    """The teacher's state for each of the student's states 0 (embeddings) to its depth.

    Uniform: state `m` of `M` learns from state `round(m N / M)` of `N` (1909.10351, section 3.1).

    >>> layer_map(3, 6)
    [0, 2, 4, 6]
    """
    if student == 0:
        return [teacher]
    return [(2 * m * teacher + student) // (2 * student) for m in range(student + 1)]


def _judged(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of logits in fp32 and what they should say: `(n, outputs)`, `(n,)`."""
    logits = logits.float()
    if labels.ndim == 1:
        return logits, labels
    # Position t answers for the token at t + 1.
    wanted = labels[:, 1:]
    judged = wanted != IGNORED
    return logits[:, :-1][judged], wanted[judged]


def _state_difference(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    a, b = a.float(), b.float()
    if a.shape[-1] == b.shape[-1]:
        return _masked_mean((a - b).square().mean(-1), mask)
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    difference = (a @ a.mT - b @ b.mT).square() * mask[:, None, :]
    return _masked_mean(difference.sum(-1) / mask.sum(-1, keepdim=True), mask)


def _relations(projected: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Log-probabilities `(b, heads, s, s)` of one kind's relations; padding is not related to."""
    batch, tokens, width = projected.shape
    if width % heads:
        raise StepFailed(
            "illegal",
            f"{heads} relation heads do not divide a projection of {width}; choose a number that "
            "divides the student's and the teacher's",
        )
    parts = projected.float().reshape(batch, tokens, heads, width // heads).transpose(1, 2)
    scores = parts @ parts.mT / math.sqrt(width // heads)
    return scores.masked_fill(mask[:, None, None, :] == 0, _UNSEEN).log_softmax(-1)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `(b, s)` values over the tokens of text."""
    return (values * mask).sum() / mask.sum()
