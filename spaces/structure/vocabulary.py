"""Structure: rows of the table of words removed that the task hardly reads.

The words that are read most on the train and calibration splits keep their rows, special tokens
always; of words that are read equally often, the first. A removed word reads the row of the kept
word that is most like it. So the tokenizer stays, and so does what a text is cut into: the model
holds a map from words to rows (see `word_table.py`), whose bytes count.

arXiv 2010.05609 and TextPruner (2203.15996) take the words out of the tokenizer as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

from ..configuration import Settings
from ..hyperparameter import Hyperparameter, OneOf
from ..paper import Paper
from ..steps import Bench, Phase, Reads, Step
from ..technique import Targets
from .counts import WHEN, keep_knob, kept_of, phase_of, refusals

if TYPE_CHECKING:
    from ..candidate import Candidate

WORD_SHARES: Final = (0.0625, 0.125, 0.25, 0.5)
"""Shares of the vocabulary that are offered: few tasks read more than half of it."""

WORD_MULTIPLE: Final = 8
"""As for other widths; so at least eight rows stay, which most special tokens need."""


@dataclass(frozen=True)
class PruneWords:
    """Removes the rows of the words that are read least.

    Args:
        keep: share of the vocabulary that keeps a row. phase: before or after fine-tuning.
    """

    keep: float
    phase: Phase = Phase.STRUCTURE_AFTER
    name: ClassVar[str] = "vocabulary.prune"
    version: ClassVar[int] = 1
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Reads]] = frozenset({"train", "calibration"})

    @property
    def settings(self) -> Settings:
        """The share."""
        return {"keep": self.keep}

    def on_paper(self, paper: Paper) -> Paper:
        """A table of fewer rows; as many words as before may come in."""
        rows = kept_of(paper.profile.vocabulary, self.keep, WORD_MULTIPLE)
        return replace(paper, profile=replace(paper.profile, word_rows=rows))

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """The smaller candidate; `notes["vocabulary"]` holds the words that kept their rows.

        Raises:
            DataError: both splits are empty.
            StepFailed: kind `illegal`, fewer rows than special tokens.
        """
        from .words import cut_words

        assert candidate is not None  # only the step that loads starts from nothing
        return cut_words(candidate, self.on_paper(candidate.paper), bench)


class Vocabulary:
    """Rows of the table of words removed; their words read the row of the word most like them.

    For classifiers. FLOPs stay: nothing is multiplied with that table. Before fine-tuning it makes
    the training smaller too: gradients and both moments of Adam have as few rows.
    """

    name: ClassVar[str] = "vocabulary"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"parameters", "bytes", "outputs"})
    source: ClassVar[str] = "arXiv 2010.05609, 2203.15996 (which words go)"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Share of the vocabulary kept; before or after fine-tuning."""
        return (words_knob(paper), WHEN)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Nothing to remove, adapters in the way, a language model, or too few rows."""
        keep, total = float(settings["keep"]), [paper.profile.vocabulary]
        return [*refusals(paper, "words", total, keep, WORD_MULTIPLE), *word_refusals(paper, keep)]

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """One Change."""
        return (PruneWords(float(settings["keep"]), phase_of(settings["when"])),)


def words_knob(paper: Paper, name: str = "keep", *, whole: bool = False) -> OneOf:
    """The knob for the share of the vocabulary that keeps its rows; see `keep_knob`."""
    total = [paper.profile.vocabulary]
    return keep_knob(total, WORD_MULTIPLE, name, whole=whole, shares=WORD_SHARES, middle=0.25)


def word_refusals(paper: Paper, keep: float) -> list[str]:
    """Why a model must have a row for every word, or cannot do with this share of them."""
    profile = paper.profile
    if profile.head.kind == "language-modelling":
        return [
            "a language model is judged by its answers over the whole vocabulary, and over fewer "
            "words the figure would mean something else; choose another structure, or a "
            "classification task"
        ]
    if profile.word_rows is not None:
        return ["words share rows of the table already; choose another structure"]
    rows = kept_of(profile.vocabulary, keep, WORD_MULTIPLE)
    return too_few_rows(profile.vocabulary, rows, len(special_words(paper)))


def special_words(paper: Paper) -> list[int]:
    """Words that keep their rows whatever is read, ascending: the tokenizer's special tokens.

    With those that the model's config names.
    """
    extra = dict(paper.profile.extra)
    found: set[int | None] = set(paper.special)
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        value = extra.get(key)
        found |= set(value) if isinstance(value, tuple) else {value}
    return sorted(i for i in found if i is not None and 0 <= i < paper.profile.vocabulary)


def too_few_rows(vocabulary: int, rows: int, special: int) -> list[str]:
    """The refusal of a table that does not hold the special tokens.

    >>> too_few_rows(320, 8, 9)
    ['8 rows do not hold the 9 special tokens; choose a share of at least 0.05']
    """
    if rows >= special:
        return []
    least = WORD_MULTIPLE * math.ceil(special / WORD_MULTIPLE) / vocabulary
    advice = f"a share of at least {math.ceil(1e4 * least) / 1e4:g}"
    return [
        f"{rows} rows do not hold the {special} special tokens; choose "
        f"{advice if least < 1 else 'another structure'}"
    ]
