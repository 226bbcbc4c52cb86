"""The terms of the training objective, over what transformers models answer.

Sources: soft targets 1503.02531 (section 2); hidden states and attention 1909.10351 (eq. 7-9, with
attention compared after the softmax, which is what the modules give); token similarities, for
widths that differ, 1907.09682 (eq. 1-4, over the tokens of a text).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import StepFailed
from .recipe import Loss

IGNORED = -100


def objective(
    losses: Sequence[Loss], student: Any, teacher: Any, labels: Tensor, mask: Tensor
) -> Tensor:
    """The weighted sum of a recipe's losses, a scalar.

    Args:
        losses: the terms.
        student, teacher: transformers outputs with `logits` and, where a term asks for them,
            `hidden_states` or `attentions`. `teacher` may be None when only `task` is asked.
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
            term = hidden_loss(student.hidden_states, teacher.hidden_states, mask)
        else:
            term = attention_loss(student.attentions, teacher.attentions, mask)
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


def hidden_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Mean squared difference of hidden states, embeddings included, over tokens of text.

    Layers are paired by `layer_map`. Where widths differ, each side's `(s, s)` cosine similarities
    between the tokens of a text are compared instead: nothing is learnt that is thrown away later.
    """
    pairs = layer_map(len(student) - 1, len(teacher) - 1)
    terms = [
        _state_difference(student[ours], teacher[theirs], mask) for ours, theirs in enumerate(pairs)
    ]
    return torch.stack(terms).mean()


def attention_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Mean squared difference of attention probabilities, over rows that are text.

    Where the numbers of heads differ, the means over heads are compared.
    """
    if not student or not teacher:
        raise StepFailed("illegal", "a model without attention has none to compare; use `hidden`")
    pairs = layer_map(len(student), len(teacher))[1:]
    terms = []
    for ours, theirs in enumerate(pairs):
        a, b = student[ours].float(), teacher[theirs - 1].float()
        if a.shape[1] != b.shape[1]:
            a, b = a.mean(1, keepdim=True), b.mean(1, keepdim=True)
        terms.append(_masked_mean((a - b).square().mean(1).sum(-1), mask))
    return torch.stack(terms).mean()


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


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `(b, s)` values over the tokens of text."""
    return (values * mask).sum() / mask.sum()
