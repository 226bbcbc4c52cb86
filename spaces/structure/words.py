"""Which words keep their rows, and which row each of the others reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor, nn

from ...errors import DataError, StepFailed
from ..build import kept_tensors
from ..candidate import Candidate
from ..families import family_of
from ..paper import Paper
from ..profile import Profile
from ..special_tokens import NOTE
from ..steps import Bench, Split
from .importance import strongest
from .surgery import filled

_SPLITS: Final[tuple[Split, ...]] = ("train", "calibration")
_BATCH: Final = 256
_ROWS: Final = 512
"""Removed words that are compared at a time, so that the cosines take little memory."""


def cut_words(candidate: Candidate, after: Paper, bench: Bench) -> Candidate:
    """The candidate with fewer rows in its table of words.

    Args:
        candidate: with a row for every word; left as it is.
        after: the smaller paper: it says how many rows stay.
        bench: where the texts come from.

    Returns:
        The smaller candidate without training state; `notes["vocabulary"]` lists the words that
        kept their rows, ascending.
    """
    profile, family = candidate.paper.profile, family_of(candidate.paper.profile.family)
    special = _special(profile, (candidate.notes or {}).get(NOTE, ()))
    stay = after.profile.rows("vocabulary")
    if len(special) > stay:
        raise StepFailed(
            "illegal",
            f"{stay} rows do not hold the {len(special)} special tokens; choose a larger keep",
        )
    counts = word_counts(bench, profile.vocabulary)
    counts[special] = counts.sum() + 1
    kept = strongest(counts, stay)
    new = kept_tensors(candidate.module)
    table = f"{family.tables['vocabulary']}.weight"
    whole = new[table].detach()
    new[table] = whole[kept]
    new[family.word_map] = nearest_rows(whole, kept, bench.device)
    notes = {**(candidate.notes or {}), "vocabulary": kept}
    return Candidate(filled(after.profile, new), after, notes=notes)


def word_counts(bench: Bench, vocabulary: int) -> Tensor:
    """How often each word stands in the train and calibration texts, `(vocabulary,)` int64.

    Raises:
        DataError: they hold none.
    """
    counts = torch.zeros(vocabulary, dtype=torch.int64)
    for split in _SPLITS:
        for batch in bench.batches(split, batch=_BATCH):
            words = torch.from_numpy(batch.input_ids[batch.attention_mask == 1])
            counts += torch.bincount(words, minlength=vocabulary)
    if not counts.any():
        raise DataError(
            "the train and calibration splits are empty, and words are kept by how often they "
            "are read; give the task training items, or choose another structure"
        )
    return counts


def nearest_rows(table: Tensor, kept: list[int], device: str) -> Tensor:
    """The row of the smaller table that each word reads, `(words,)` int32.

    A kept word reads its own; another one that of the kept word whose row has the largest cosine
    with its own, of equals the first.

    Args:
        table: a row for every word, `(words, width)`.
        kept: words that keep their rows, ascending.
        device: where the cosines are computed.
    """
    rows = torch.empty(len(table), dtype=torch.int32)
    unit = nn.functional.normalize(table.to(device), dim=1)
    others = unit[kept].t()
    for start in range(0, len(table), _ROWS):
        cosines = unit[start : start + _ROWS] @ others
        rows[start : start + _ROWS] = cosines.argmax(dim=1).to(rows)
    rows[kept] = torch.arange(len(kept), dtype=torch.int32)
    return rows


def _special(profile: Profile, named: Iterable[int]) -> list[int]:
    """The tokenizer's special tokens, and those that the model's config names."""
    extra = dict(profile.extra)
    found: set[int | None] = set(named)
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        value = extra.get(key)
        found |= set(value) if isinstance(value, tuple) else {value}
    return sorted(i for i in found if i is not None and 0 <= i < profile.vocabulary)
