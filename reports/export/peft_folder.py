"""peft's folder: adapters that stay beside the weights, loaded onto the given model.

It holds the adapter's own tensors and the modules of the head, which are new for every task. All
else must be the given model's, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from ...errors import VerificationFailed
from ...spaces.families import family_of
from ...spaces.finetuning import TABLE
from ...spaces.finetuning.adapters import ThroughPeft
from ...spaces.finetuning.vera import Vera, projections
from ...spaces.models import inspect_model
from ...spaces.profile import Adapter, Profile
from .description import Description
from .target import Piece

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor

_PREFIX: Final = "base_model.model."


def write_peft(piece: Piece, folder: Path) -> dict[str, Any]:
    """Writes adapter_config.json and adapter_model.safetensors.

    Args:
        piece: one that `hf_refusals` passes.
        folder: where to.

    Returns:
        What the base is loaded with.
    """
    from safetensors.torch import load_file, save_file

    from ...spaces.runtimes.eager_runner import TENSORS

    profile, options = piece.paper.profile, _options(piece)
    tensors = load_file(piece.artifact / TENSORS)
    own = {weight.name for adapter in profile.adapters for weight in adapter.weights}
    rest = {_plain(name): tensor for name, tensor in tensors.items() if name not in own}
    saved = _saved_modules(profile, rest, _base_tensors(piece, options))
    kept = {_plain(name): tensor for name, tensor in tensors.items() if name in own}
    kept |= {n: t for n, t in rest.items() if n.startswith(tuple(f"{path}." for path in saved))}
    config = cast(Any, _config(profile, profile.adapters[0], saved))
    config.base_model_name_or_path = piece.base
    config.inference_mode = True
    config.save_pretrained(folder)
    save_file(
        _named(profile.adapters[0], kept),
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    return options


def base_of(described: Description) -> Path:
    """The folder of the base, found by the name that the study gave it.

    Raises:
        ModelError: it is not to be found, or is of a kind that the study did not allow.
        VerificationFailed: it has other weights than it had.
    """
    found = inspect_model(
        described.base["id"],
        allow_pickle=described.base.get("allow_pickle", False),
        trust_remote_code=described.base.get("trust_remote_code", False),
    )
    if found.digest != described.base["digest"]:
        raise VerificationFailed(
            f"{described.base['id']} is not the base that this adapter was trained on; get the "
            "revision of that time, or export with another format"
        )
    return found.path


def _options(piece: Piece) -> dict[str, Any]:
    profile = piece.paper.profile
    if profile.head.kind != "classification":
        return {"dtype": "float32"}
    padding = dict(profile.extra)["pad_token_id"]
    return {"dtype": "float32", "num_labels": profile.head.outputs, "pad_token_id": padding}


def _base_tensors(piece: Piece, options: Mapping[str, Any]) -> dict[str, Tensor]:
    import transformers

    from .usage import AUTO

    auto = getattr(transformers, AUTO[piece.paper.profile.head.kind])
    module = auto.from_pretrained(
        piece.source, local_files_only=True, ignore_mismatched_sizes=True, **options
    )
    return dict(module.named_parameters())


def _saved_modules(
    profile: Profile, ours: Mapping[str, Tensor], base: Mapping[str, Tensor]
) -> tuple[str, ...]:
    """Paths of the modules that go into the adapter's file: what differs from the base.

    peft saves a classifier under the names `classifier` and `score` as a whole; the module above
    it in the head (a pooler) is saved by its own path.
    """
    import torch

    if profile.head.kind != "classification":
        return ()
    heads = [weight.name for weight in profile.weights() if weight.group == "head"]
    differ = [name for name in heads if not torch.equal(ours[name], base[name])]
    top = family_of(profile.family).classifier.partition(".")[0]
    paths = {name.rpartition(".")[0] for name in differ}
    return tuple(sorted({top, *(path for path in paths if path.partition(".")[0] != top)}))


def _config(profile: Profile, adapter: Adapter, saved: tuple[str, ...]) -> PeftConfig:
    technique = cast(ThroughPeft, TABLE[adapter.kind])
    config: Any = technique.peft_config(adapter, _transposed(profile, adapter))
    config.task_type = "SEQ_CLS" if profile.head.kind == "classification" else "CAUSAL_LM"
    config.modules_to_save = list(saved) or None
    return cast("PeftConfig", config)


def _named(adapter: Adapter, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names that peft reads them by."""
    if not adapter.past:
        named = {f"{_PREFIX}{name}": tensor for name, tensor in kept.items()}
        return named | _projections(adapter)
    import torch

    tables = [_plain(weight.name) for weight in adapter.weights]
    rest = {f"base_model.{name}": t for name, t in kept.items() if name not in tables}
    # one table, the layers side by side
    return rest | {"prompt_embeddings": torch.cat([kept[name] for name in tables], dim=1)}


def _projections(adapter: Adapter) -> dict[str, Tensor]:
    """VeRA's shared matrices, which are drawn and not trained: peft would draw others."""
    if adapter.kind != Vera.name:
        return {}
    a, b = projections(adapter)
    return {"base_model.vera_A": a, "base_model.vera_B": b}


def _transposed(profile: Profile, adapter: Adapter) -> bool:
    wrapped = {f"{path}.base_layer.weight" for path in adapter.wraps}
    return any(w.name in wrapped and w.input_axis == 0 for w in profile.weights())


def _plain(name: str) -> str:
    """A parameter's name as it stands in the base, or in peft's file."""
    plain = name.replace(".base_layer.", ".").replace(".default", "")
    # DoRA's lengths are a module here and a plain tensor in peft's file.
    return plain.replace(".lora_magnitude_vector.weight", ".lora_magnitude_vector")
