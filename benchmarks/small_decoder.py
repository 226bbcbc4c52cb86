"""A small GPT-2 that knows nothing yet, and a tokenizer for one text: the start of the example
`decoder.yaml`, whose baseline is its training.

    python -m paretune.benchmarks.small_decoder --text wiki.txt.gz --to runs/small-gpt2

The files are what transformers writes: `config.json`, `model.safetensors`, `tokenizer.json`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..errors import DataError, ParetuneError, RunError

WORDS: Final = 4096
"""Entries of the vocabulary, the end of a text among them."""

END: Final = "<|endoftext|>"


def read_text(path: Path) -> str:
    """A text file, also `.gz`.

    Raises:
        DataError: it is not there, or no UTF-8.
    """
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}; give a text file in UTF-8") from error


def small_decoder(
    text: str, to: Path, *, width: int = 192, layers: int = 6, heads: int = 6, seed: int = 0
) -> int:
    """Writes model and tokenizer into a new folder; how many parameters the model has.

    Args:
        text: byte pairs are counted on it (byte-level BPE of `WORDS` entries). to: the folder.
        width: of the hidden states. layers, heads: of them. seed: of the weights.

    Raises:
        RunError: the folder is there.
    """
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    if to.exists():
        raise RunError(f"{to} is there already; move it away or choose another --to")
    pairs = ByteLevelBPETokenizer()
    pairs.train_from_iterator(
        text.splitlines(), vocab_size=WORDS, special_tokens=[END], show_progress=False
    )
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=pairs._tokenizer, eos_token=END, bos_token=END, pad_token=END
    )
    torch.manual_seed(seed)
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=256,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    model = GPT2LMHeadModel(config)
    model.save_pretrained(to)
    tokenizer.save_pretrained(to)
    return sum(p.numel() for p in model.parameters())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m paretune.benchmarks.small_decoder")
    parser.add_argument("--text", type=Path, required=True, help="a text file, also .gz")
    parser.add_argument("--to", type=Path, required=True, help="the folder to write")
    parser.add_argument("--width", type=int, default=192, help="of the hidden states")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=6)
    asked = parser.parse_args(arguments)
    try:
        sizes = {"width": asked.width, "layers": asked.layers, "heads": asked.heads}
        parameters = small_decoder(read_text(asked.text), asked.to, **sizes)
    except ParetuneError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps({"model": str(asked.to), "parameters": parameters}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
