"""Examples to arrays: tokenised with the model's own tokenizer, cached, named by a digest.

Language modelling: a split's texts are tokenised without special tokens, strung together and cut
into blocks of `max_length`; what is left over is dropped unless it is all there is. A block's first
token is not judged (nothing comes before it), so its label is -100. A token owns the UTF-8 bytes of
the text from where the token before it ends to where it ends itself, so white space that a
tokenizer drops still counts; `text_bytes` of a block are the bytes that its judged tokens own.
Hence bits per byte compare across tokenizers.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import DataError
from ...spaces.configuration import digest
from ...spaces.task import Items, Task
from .spec import SPLITS, TaskSpec, place
from .splits import Example, Examples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ALGORITHM = 1
"""Raised when the same examples would be encoded otherwise."""

NOT_JUDGED = -100
"""The label of a position that no loss and no metric looks at."""

_ARRAYS = ("input_ids", "attention_mask", "labels", "text_bytes")


def encode(found: Examples, spec: TaskSpec, tokenizer_folder: Path, cache: Path) -> Task:
    """The task in arrays, made once for each (examples, tokenizer, length).

    Raises:
        DataError: no tokenizer in the folder, one that cannot say where its tokens stand, or a
            split without a token that can be judged.
    """
    path = cache / f"encoded-{_cache_key(found, spec, tokenizer_folder)}.npz"
    if path.is_file():
        pad, splits = _read(path)
    else:
        tokenizer = _tokenizer(tokenizer_folder)
        pad = _pad(tokenizer)
        splits = {split: _encoded(found, split, spec, tokenizer, pad) for split in SPLITS}
        _write(path, pad, splits)
    return Task(
        name=spec.name,
        kind=found.kind,
        labels=found.labels,
        max_length=spec.max_length,
        splits=splits,
        digest=_task_digest(found, spec.max_length, pad, splits),
        pad_token_id=pad,
        notes=found.notes,
    )


def check_length(max_length: int, folder: Path) -> None:
    """Refuses a length that the model in a folder has no positions for.

    Raises:
        DataError: too long for the model, or too short for any text.
    """
    if max_length < 2:
        raise DataError(f"max_length {max_length} holds no text; choose at least 2")
    config = folder / "config.json"
    if not config.is_file():
        return
    data = json.loads(config.read_text(encoding="utf-8"))
    positions = data.get("max_position_embeddings") or data.get("n_positions")
    if positions and "roberta" in data.get("model_type", ""):
        positions -= data.get("pad_token_id", 1) + 1  # its positions count from there
    if positions and max_length > positions:
        raise DataError(
            f"max_length {max_length} exceeds the {positions} positions of the model in {folder}; "
            f"choose max_length <= {positions}"
        )


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, padding_side="right", truncation_side="right"
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"no usable tokenizer in {folder} ({str(error).splitlines()[0]}); the model's folder "
            "must hold its tokenizer.json"
        ) from error
    loaded: PreTrainedTokenizerBase = tokenizer
    return loaded


def _pad(tokenizer: PreTrainedTokenizerBase) -> int:
    """What to pad with: decoders often have no token for it, and the mask hides it anyway."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    return 0


def _encoded(
    found: Examples, split: str, spec: TaskSpec, tokenizer: PreTrainedTokenizerBase, pad: int
) -> Items:
    part = found.splits[split]
    if found.kind == "classification":
        return _classified(part, spec.max_length, tokenizer, pad)
    items = _blocks(_string(part, tokenizer, split), spec.max_length, pad)
    return _some(items, dict(spec.limits).get(split), spec.seed)


def _classified(
    part: Sequence[Example], length: int, tokenizer: PreTrainedTokenizerBase, pad: int
) -> Items:
    columns = [list(texts) for texts in zip(*(example.texts for example in part), strict=True)]
    rows: list[list[int]] = tokenizer(*columns, truncation=True, max_length=length)["input_ids"]
    ids = np.full((len(rows), length), pad, dtype=np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    sizes = [sum(len(text.encode()) for text in example.texts) for example in part]
    labels = [example.label for example in part]
    return Items(ids, mask, np.asarray(labels, np.int64), np.asarray(sizes, np.int64))


@dataclass(frozen=True)
class _String:
    """A split's tokens in a row, `(t,)`, and the bytes that each owns, `(t,)`."""

    ids: np.ndarray
    sizes: np.ndarray


def _string(part: Sequence[Example], tokenizer: PreTrainedTokenizerBase, split: str) -> _String:
    if not tokenizer.is_fast:
        raise DataError(
            f"{type(tokenizer).__name__} cannot say where its tokens stand in the text, which bits "
            "per byte need; use a model with a tokenizer.json"
        )
    texts = [_line(" ".join(example.texts)) for example in part]
    coded = tokenizer(
        texts,
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,  # else it warns of texts longer than a block, which are cut here
    )
    ids = [token for row in coded["input_ids"] for token in row]
    if len(ids) < 2:
        raise DataError(f"the {split} split has {len(ids)} tokens; language modelling needs two")
    pairs = zip(texts, coded["offset_mapping"], strict=True)
    sizes = [size for text, spans in pairs for size in _owned(text, spans)]
    return _String(np.asarray(ids, np.int64), np.asarray(sizes, np.int64))


def _line(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def _owned(text: str, spans: Sequence[tuple[int, int]]) -> Iterator[int]:
    """Bytes from the end of the token before to the end of each token; the last takes the rest."""
    ends = list(accumulate((end for _, end in spans), max))
    start = 0
    for i, end in enumerate(ends):
        end = len(text) if i == len(ends) - 1 else end
        yield len(text[start:end].encode())
        start = end


def _blocks(string: _String, length: int, pad: int) -> Items:
    count = max(1, len(string.ids) // length)
    used = min(len(string.ids), count * length)
    ids = np.full(count * length, pad, dtype=np.int64)
    sizes = np.zeros_like(ids)
    mask = np.zeros_like(ids)
    ids[:used], sizes[:used], mask[:used] = string.ids[:used], string.sizes[:used], 1
    shape = (count, length)
    labels = np.where(mask == 1, ids, NOT_JUDGED).reshape(shape)
    labels[:, 0] = NOT_JUDGED
    owned = sizes.reshape(shape)[:, 1:].sum(axis=1)
    return Items(ids.reshape(shape), mask.reshape(shape), labels, owned)


def _some(items: Items, limit: int | None, seed: int) -> Items:
    """Blocks in a pseudo-random order, so that a leading share of them is a fair sample."""
    order = sorted(range(len(items)), key=lambda i: place(str(i), seed))[:limit]
    return Items(*(getattr(items, name)[order] for name in _ARRAYS))


def _cache_key(found: Examples, spec: TaskSpec, folder: Path) -> str:
    hasher = hashlib.sha256()
    versions = [version("tokenizers"), version("transformers")]
    facts = [ALGORITHM, versions, found.kind, spec.max_length, spec.seed, sorted(spec.limits)]
    hasher.update(json.dumps(facts).encode())
    for path in sorted(folder.iterdir()):
        if path.suffix in {".json", ".txt", ".model", ".jinja"} and "index" not in path.name:
            hasher.update(path.name.encode() + b"\0" + path.read_bytes())
    for split in SPLITS:
        rows = [[*example.texts, example.label] for example in found.splits[split]]
        hasher.update(json.dumps([split, rows]).encode())
    return hasher.hexdigest()[:32]


def _read(path: Path) -> tuple[int, dict[str, Items]]:
    with np.load(path, allow_pickle=False) as stored:
        splits = {s: Items(*(stored[f"{s}.{name}"] for name in _ARRAYS)) for s in SPLITS}
        return int(stored["pad"]), splits


def _write(path: Path, pad: int, splits: dict[str, Items]) -> None:
    arrays = {f"{s}.{name}": getattr(splits[s], name) for s in SPLITS for name in _ARRAYS}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, pad=np.int64(pad), **arrays)
    temporary.replace(path)


def _task_digest(found: Examples, length: int, pad: int, splits: dict[str, Items]) -> str:
    arrays = {}
    for split, items in splits.items():
        for name in _ARRAYS:
            array = getattr(items, name).astype("<i8")
            arrays[f"{split}.{name}"] = [*array.shape, hashlib.sha256(array.tobytes()).hexdigest()]
    return digest([found.kind, list(found.labels), length, pad, arrays])
