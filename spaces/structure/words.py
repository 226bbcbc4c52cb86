"""Which words keep their rows, and which row each of the others reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from ...errors import DataError, StepFailed
from ..build import kept_tensors
from ..candidate import Candidate
from ..families import family_of
from ..paper import Paper
from ..steps import Bench, Split
from .importance import strongest
from .surgery import filled
from .vocabulary import special_words, too_few_rows

_SPLITS: Final[tuple[Split, ...]] = ("train", "calibration")
_BATCH: Final = 256
_REMOVED: Final = 1024
_KEPT: Final = 4096
"""Words that are compared at a time, removed with kept ones: 16 MB of cosines."""


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
    special, stay = special_words(candidate.paper), after.profile.rows("vocabulary")
    if wrong := too_few_rows(profile.vocabulary, stay, len(special)):
        raise StepFailed("illegal", wrong[0])
    counts = word_counts(bench, profile.vocabulary)
    counts[special] = counts.sum() + 1
    kept = strongest(counts, stay)
    new = kept_tensors(candidate.module)
    table = f"{family.tables['vocabulary']}.weight"
    whole = new[table].detach()
    new[table] = whole[kept]
    new[family.word_map] = nearest_rows(whole, kept, bench.device, bench.progress)
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


def nearest_rows(
    table: Tensor, kept: list[int], device: str, progress: Callable[[int, int], None]
) -> Tensor:
    """The row of the smaller table that each word reads, `(words,)` int32.

    A kept word reads its own; another one that of the kept word whose row has the largest cosine
    with its own, of equals the first.

    Args:
        table: a row for every word, `(words, width)`.
        kept: words that keep their rows, ascending.
        device: where the cosines are computed.
        progress: told how many of the removed words have their row, and of how many.
    """
    rows = torch.empty(len(table), dtype=torch.int32)
    rows[kept] = torch.arange(len(kept), dtype=torch.int32)
    goes = torch.ones(len(table), dtype=torch.bool)
    goes[kept] = False
    removed = goes.nonzero()[:, 0]
    unit = nn.functional.normalize(table.to(device), dim=1)
    others = unit[kept]
    done = 0
    for some in torch.split(removed, _REMOVED):
        rows[some] = _nearest(unit[some.to(device)], others).to(rows)
        done += len(some)
        progress(done, len(removed))
    return rows


def _nearest(units: Tensor, others: Tensor) -> Tensor:
    """Which of the others, `(m, width)`, has the largest product with each of `(n, width)`."""
    best = units.new_full((len(units),), -torch.inf)
    found = torch.zeros(len(units), dtype=torch.int64, device=units.device)
    for start in range(0, len(others), _KEPT):
        here, place = (units @ others[start : start + _KEPT].t()).max(dim=1)
        better = here > best
        best, found = here.maximum(best), torch.where(better, place + start, found)
    return found
