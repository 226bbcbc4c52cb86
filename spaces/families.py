"""FAMILIES: the model families that paretune knows, and the config.json of a profile.

To add a family: one row here; the tests walk the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from ..errors import ModelError
from .family import Family, Role, SizeKeys
from .profile import Attention, Profile

_ENCODER_MODULES: Final[Mapping[Role, str]] = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention.norm": "attention.output.LayerNorm",
    "ffn.up": "intermediate.dense",
    "ffn.down": "output.dense",
    "ffn.norm": "output.LayerNorm",
}

_ENCODER_KEEP: Final = (
    "attention_probs_dropout_prob",
    "bos_token_id",
    "classifier_dropout",
    "eos_token_id",
    "hidden_act",
    "hidden_dropout_prob",
    "initializer_range",
    "layer_norm_eps",
    "pad_token_id",
)

_BERT: Final = Family(
    name="bert",
    kind="encoder",
    classes={"classification": "BertForSequenceClassification"},
    base="bert",
    sizes=SizeKeys(token_types="type_vocab_size"),
    layer="bert.encoder.layer",
    modules=_ENCODER_MODULES,
    tables={
        "vocabulary": "bert.embeddings.word_embeddings",
        "positions": "bert.embeddings.position_embeddings",
        "token_types": "bert.embeddings.token_type_embeddings",
    },
    embedding_norm="bert.embeddings.LayerNorm",
    final_norm=None,
    pooler="bert.pooler.dense",
    classifier="classifier",
    keep=_ENCODER_KEEP,
    fixed={
        "is_decoder": False,
        "add_cross_attention": False,
        "position_embedding_type": "absolute",
    },
    defaults={"type_vocab_size": 2, "pad_token_id": 0},
)


def _roberta(name: str, classes: str) -> Family:
    tables = {rows: path.replace("bert.", "roberta.") for rows, path in _BERT.tables.items()}
    return replace(
        _BERT,
        name=name,
        classes={"classification": classes},
        base="roberta",
        layer="roberta.encoder.layer",
        tables=tables,
        embedding_norm="roberta.embeddings.LayerNorm",
        pooler="classifier.dense",
        classifier="classifier.out_proj",
        defaults={"type_vocab_size": 2, "pad_token_id": 1},
        positions_after_padding=True,
    )


_DISTILBERT: Final = Family(
    name="distilbert",
    kind="encoder",
    classes={"classification": "DistilBertForSequenceClassification"},
    base="distilbert",
    sizes=SizeKeys(width="dim", layers="n_layers", heads="n_heads", feed_forward="hidden_dim"),
    layer="distilbert.transformer.layer",
    modules={
        "attention.query": "attention.q_lin",
        "attention.key": "attention.k_lin",
        "attention.value": "attention.v_lin",
        "attention.output": "attention.out_lin",
        "attention.norm": "sa_layer_norm",
        "ffn.up": "ffn.lin1",
        "ffn.down": "ffn.lin2",
        "ffn.norm": "output_layer_norm",
    },
    tables={
        "vocabulary": "distilbert.embeddings.word_embeddings",
        "positions": "distilbert.embeddings.position_embeddings",
    },
    embedding_norm="distilbert.embeddings.LayerNorm",
    final_norm=None,
    pooler="pre_classifier",
    classifier="classifier",
    keep=(
        "activation",
        "attention_dropout",
        "bos_token_id",
        "dropout",
        "eos_token_id",
        "initializer_range",
        "pad_token_id",
        "seq_classif_dropout",
        "sinusoidal_pos_embds",
    ),
    fixed={},
    defaults={"pad_token_id": 0},
)

_GPT2: Final = Family(
    name="gpt2",
    kind="decoder",
    classes={
        "classification": "GPT2ForSequenceClassification",
        "language-modelling": "GPT2LMHeadModel",
    },
    base="transformer",
    sizes=SizeKeys(
        width="n_embd",
        layers="n_layer",
        heads="n_head",
        feed_forward="n_inner",
        positions="n_positions",
    ),
    layer="transformer.h",
    modules={
        "attention.query": "attn.c_attn",
        "attention.key": "attn.c_attn",
        "attention.value": "attn.c_attn",
        "attention.output": "attn.c_proj",
        "attention.norm": "ln_1",
        "ffn.up": "mlp.c_fc",
        "ffn.down": "mlp.c_proj",
        "ffn.norm": "ln_2",
    },
    tables={"vocabulary": "transformer.wte", "positions": "transformer.wpe"},
    embedding_norm=None,
    final_norm="transformer.ln_f",
    pooler=None,
    classifier="score",
    keep=(
        "activation_function",
        "attn_pdrop",
        "bos_token_id",
        "embd_pdrop",
        "eos_token_id",
        "initializer_range",
        "layer_norm_epsilon",
        "pad_token_id",
        "resid_pdrop",
        "scale_attn_weights",
    ),
    fixed={
        "add_cross_attention": False,
        "reorder_and_upcast_attn": False,
        "scale_attn_by_inverse_layer_idx": False,
    },
    defaults={"eos_token_id": 50256},
    tied=True,
    transposed=True,
)

_LLAMA: Final = Family(
    name="llama",
    kind="decoder",
    classes={
        "classification": "LlamaForSequenceClassification",
        "language-modelling": "LlamaForCausalLM",
    },
    base="model",
    sizes=SizeKeys(kv_heads="num_key_value_heads", head_width="head_dim"),
    layer="model.layers",
    modules={
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.o_proj",
        "attention.norm": "input_layernorm",
        "ffn.gate": "mlp.gate_proj",
        "ffn.up": "mlp.up_proj",
        "ffn.down": "mlp.down_proj",
        "ffn.norm": "post_attention_layernorm",
    },
    tables={"vocabulary": "model.embed_tokens"},
    embedding_norm=None,
    final_norm="model.norm",
    pooler=None,
    classifier="score",
    keep=(
        "attention_bias",
        "attention_dropout",
        "bos_token_id",
        "eos_token_id",
        "hidden_act",
        "initializer_range",
        "max_position_embeddings",
        "mlp_bias",
        "pad_token_id",
        "rms_norm_eps",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "sliding_window",
    ),
    fixed={"use_sliding_window": False},
    defaults={"max_position_embeddings": 2048, "eos_token_id": 2},
    gated=True,
    rope=True,
    norm_bias=False,
    qkv_bias="attention_bias",
    output_bias="attention_bias",
    ffn_bias="mlp_bias",
)


def _like_llama(name: str, prefix: str, **changes: Any) -> Family:
    classes = {
        "classification": f"{prefix}ForSequenceClassification",
        "language-modelling": f"{prefix}ForCausalLM",
    }
    return replace(
        _LLAMA, name=name, classes=classes, ffn_bias=False, heads_divide_width=False, **changes
    )


_FAMILIES: Final = (
    _BERT,
    _roberta("roberta", "RobertaForSequenceClassification"),
    _roberta("xlm-roberta", "XLMRobertaForSequenceClassification"),
    _DISTILBERT,
    _GPT2,
    _LLAMA,
    _like_llama(
        "mistral",
        "Mistral",
        qkv_bias=False,
        output_bias=False,
        defaults={"num_key_value_heads": 8, "max_position_embeddings": 131072, "eos_token_id": 2},
    ),
    _like_llama(
        "qwen2",
        "Qwen2",
        qkv_bias=True,
        output_bias=False,
        defaults={"num_key_value_heads": 32, "max_position_embeddings": 32768},
    ),
    _like_llama(
        "qwen3",
        "Qwen3",
        head_norms=("self_attn.q_norm", "self_attn.k_norm"),
        defaults={
            "num_key_value_heads": 32,
            "head_dim": 128,
            "max_position_embeddings": 32768,
        },
    ),
)

FAMILIES: Final[Mapping[str, Family]] = {family.name: family for family in _FAMILIES}
"""Every family, by the `model_type` of its config.json."""


def family_of(name: str) -> Family:
    """The family of that name.

    Raises:
        ModelError: no such row.
    """
    if name not in FAMILIES:
        raise ModelError(
            f"model family {name!r} is not supported; known: {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[name]


def plain_objection(profile: Profile) -> str | None:
    """Why transformers' own classes cannot hold this structure; None: they can."""
    if profile.adapters:
        return f"the {profile.adapters[0].kind} adapter is not merged into the weights"
    if profile.word_rows is not None:
        return f"{profile.vocabulary} words share {profile.word_rows} rows of the embedding table"
    if any(layer != profile.layers[0] for layer in profile.layers):
        return "layers differ in heads or feed-forward width"
    if not profile.layers:
        return None
    layer, family = profile.layers[0], family_of(profile.family)
    if layer.attention is None or layer.feed_forward is None:
        return "layers lack their attention or feed-forward part"
    if layer.attention.rank is not None or layer.feed_forward.rank is not None:
        return "matrices are products of two thin ones"
    heads, head_width = layer.attention.heads, layer.attention.head_width
    if family.sizes.head_width is None and heads * head_width != profile.width:
        return f"{heads} heads of {head_width} do not add up to the width {profile.width}"
    if family.heads_divide_width and profile.width % heads:
        return f"{heads} heads do not divide the width {profile.width}"
    return None


def plain_config(profile: Profile) -> dict[str, Any] | None:
    """The config.json with which transformers' Auto classes load the built weights.

    None where they cannot; `plain_objection` says why.
    """
    if plain_objection(profile) is not None:
        return None
    for layer in profile.layers[:1]:
        if layer.attention is not None and layer.feed_forward is not None:
            return _config(profile, layer.attention, layer.feed_forward.width)
    return carrier_config(profile)


def carrier_config(profile: Profile) -> dict[str, Any]:
    """A config.json of the same depth and width whose layers `build` then cuts to size."""
    widths = {layer.attention.head_width for layer in profile.layers if layer.attention}
    head_width = max(widths, default=profile.width)
    return _config(profile, Attention(1, 1, head_width), hidden=1)


def _config(profile: Profile, attention: Attention, hidden: int) -> dict[str, Any]:
    family = family_of(profile.family)
    keys = family.sizes
    sizes = {
        keys.vocabulary: profile.vocabulary,
        keys.width: profile.width,
        keys.layers: len(profile.layers),
        keys.heads: attention.heads,
        keys.kv_heads: attention.kv_heads,
        keys.head_width: attention.head_width,
        keys.feed_forward: hidden,
        keys.token_types: profile.token_types,
    }
    if "positions" in family.tables:
        sizes[keys.positions] = profile.positions
    return {
        "model_type": family.name,
        "architectures": [family.classes[profile.head.kind]],
        "dtype": "float32",
        **_nested(profile.extra),
        **{key: size for key, size in sizes.items() if key is not None},
        **_answers(profile),
    }


def _answers(profile: Profile) -> dict[str, Any]:
    if profile.head.kind == "language-modelling":
        return {"tie_word_embeddings": profile.head.tied}
    labels = {i: f"LABEL_{i}" for i in range(profile.head.outputs)}
    return {
        "id2label": {str(i): label for i, label in labels.items()},
        "label2id": {label: i for i, label in labels.items()},
    }


def _nested(extra: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """`Profile.extra` with its dotted keys as objects again."""
    nested: dict[str, Any] = {}
    for key, value in extra:
        *outer, last = key.split(".")
        place = nested
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = list(value) if isinstance(value, tuple) else value
    return nested
