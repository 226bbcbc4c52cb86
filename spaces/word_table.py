"""WordTable: an embedding table that several words share rows of.

The tokenizer and the ids that come in stay as they are: a map of whole numbers, one for each word
of the vocabulary, says which row a word reads. It is no parameter, and nothing trains it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WordTable(nn.Embedding):
    """An embedding table with fewer rows than there are words.

    Without a padding row, which torch would keep from training: other words may read it as well.

    Args:
        rows: of the table. width: of a row.
        words: that may come in; at first all of them read row 0.
    """

    def __init__(self, rows: int, width: int, words: int) -> None:
        super().__init__(rows, width)
        self.rows = nn.Buffer(torch.zeros(words, dtype=torch.int32))

    def forward(self, input: Tensor) -> Tensor:
        """`(...)` words to `(..., width)`."""
        return super().forward(self.rows[input])


def word_maps(module: nn.Module) -> dict[str, Tensor]:
    """The map of a model's table of words, `(words,)` int32, by its name; empty: it has none."""
    found = ((path, part) for path, part in module.named_modules() if isinstance(part, WordTable))
    return {f"{path}.rows": part.rows for path, part in found}
