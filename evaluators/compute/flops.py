"""FLOPs on paper: of one answer, of one token, of the whole training.

FLOP = 2 x multiply-accumulate; matrix products only; attention as the full square. Unstructured
sparsity and weight-only formats change nothing.
"""

from __future__ import annotations

from typing import Final

from ...spaces.paper import Paper
from ...spaces.profile import decode_flops, forward_flops
from ..measurement import Measurement, Source
from ..metric import Evidence, Metric

CONVENTION: Final = "matrix products, 2 per multiply-accumulate, full attention square"
WHERE: Final = ("batch", "prompt_tokens", "output_tokens")
WITH_CACHE: Final = "with a cache, logits of the last position"
WITHOUT_CACHE: Final = "the whole text anew for every token, logits of every position"


def flops(evidence: Evidence) -> Measurement:
    """FLOPs to answer one batch: the prompt, then every written token as the runtime writes it."""
    return _exact(workload_flops(evidence), _where(evidence))


def flops_per_token(evidence: Evidence) -> Measurement:
    """FLOPs to answer one batch, per token read or written."""
    workload = evidence.workload
    tokens = workload.batch * (workload.prompt_tokens + workload.output_tokens)
    return _exact(workload_flops(evidence) / tokens, _where(evidence))


def training_flops(evidence: Evidence) -> Measurement:
    """FLOPs of all Train steps at full fidelity, by which products their backward passes make.

    A teacher's own training is one of them, as in `training_time`.
    """
    papers = (*training_papers(evidence), *evidence.teacher_papers)
    tokens = int(evidence.setting("item_tokens", evidence.workload.prompt_tokens))
    facts: dict[str, str | int | float] = {"convention": CONVENTION, "item_tokens": tokens}
    if any(paper.recipe.teacher for paper in papers):
        facts["teacher_forward"] = "not counted"
    drawn = any(paper.recipe.elastic for paper in papers)
    if drawn:
        facts["random_sub_networks"] = "as expected"
    total = float(sum(_run_flops(paper, tokens) for paper in papers))
    source: Source = "modelled" if drawn else "exact"
    return Measurement(total, "FLOP", source, conditions=evidence.conditions(**facts))


def workload_flops(evidence: Evidence) -> int:
    """FLOPs of one batch of the workload.

    Reading the prompt gives the first token; with a cache, the k-th one after it attends to
    prompt + k positions. Without one, prompt + k positions are read anew, with logits of each.
    """
    profile, workload = evidence.paper.profile, evidence.workload
    batch, prompt = workload.batch, workload.prompt_tokens
    if workload.output_tokens == 0:
        return forward_flops(profile, batch, prompt)
    lengths = range(prompt, prompt + workload.output_tokens)
    if not _caches(evidence.paper):
        return sum(forward_flops(profile, batch, tokens) for tokens in lengths)
    first = forward_flops(profile, batch, prompt, last_only=True)
    return first + sum(decode_flops(profile, context, batch=batch) for context in lengths[1:])


def training_papers(evidence: Evidence) -> tuple[Paper, ...]:
    """The papers that training started from: as told, else the candidate's own."""
    if evidence.training_papers is not None:
        return evidence.training_papers
    return (evidence.paper,)


def _caches(paper: Paper) -> bool:
    """Whether the paper's runtime writes with a cache, as is assumed where it has none yet."""
    from ...spaces.runtimes import RUNTIMES

    row = RUNTIMES.get(paper.runtime or "")
    return row is None or row.caches


def _where(evidence: Evidence) -> tuple[tuple[str, object], ...]:
    facts = {"convention": CONVENTION}
    if evidence.workload.output_tokens:
        facts["writing"] = WITH_CACHE if _caches(evidence.paper) else WITHOUT_CACHE
    return evidence.conditions(*WHERE, **facts)


def _run_flops(paper: Paper, tokens: int) -> float:
    from .step import training_run_flops

    return training_run_flops(paper, tokens) if paper.recipe.total_steps else 0.0


def _exact(value: float, conditions: tuple[tuple[str, object], ...]) -> Measurement:
    return Measurement(float(value), "FLOP", "exact", conditions=conditions)


METRICS: Final = (
    Metric(
        name="flops",
        unit="FLOP",
        direction="minimize",
        resource="computation",
        needs="paper",
        pieces=frozenset(),
        definition="Matrix-product FLOPs to answer one batch of the workload (2 per MAC).",
        source="arXiv 1706.03762; decode: arXiv 2204.02311",
        evaluate=flops,
    ),
    Metric(
        name="flops_per_token",
        unit="FLOP",
        direction="minimize",
        resource="computation",
        needs="paper",
        pieces=frozenset(),
        definition="FLOPs of one batch of the workload, per token read or written.",
        source="arXiv 2001.08361",
        evaluate=flops_per_token,
        follows="flops",
    ),
    Metric(
        name="training_flops",
        unit="FLOP",
        direction="minimize",
        resource="computation",
        needs="paper",
        pieces=frozenset(),
        definition="Forward and backward matrix products of all Train steps at full fidelity, a "
        "teacher's among them, nothing recomputed or cached; 3 x forward where everything trains. "
        "A super-network's step is that of all its sub-networks of the step together.",
        source="arXiv 2204.02311",
        evaluate=training_flops,
    ),
)
