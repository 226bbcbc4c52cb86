"""The backward pass on paper against torch's own counter, for several choices of what trains."""

import json
from fnmatch import fnmatchcase

import pytest
from paretune.evaluators.compute.backward import training_step_flops
from paretune.spaces.families import family_of
from paretune.spaces.paper import Paper
from paretune.spaces.profile import Head, forward_flops
from paretune.spaces.slots import slots
from paretune.spaces.steps import Phase

BATCH, TOKENS = 3, 10
TRAINED = {
    "everything": ("*",),
    "nothing": (),
    "head": ("*classifier*", "*pooler*", "*score*", "lm_head*", "*pre_classifier*"),
    "biases": ("*bias*",),
    "last layer": ("*.2.*",),
    "middle layer's queries": ("*.1.*query*", "*.1.*q_proj*", "*.1.*q_lin*", "*.1.*c_attn*"),
    "first layer's output": ("*.0.*output.dense*", "*.0.*o_proj*", "*.0.*out_lin*"),
    "values and downs": ("*value*", "*v_proj*", "*down_proj*", "*lin2*"),
    "norms": ("*norm*", "*LayerNorm*", "*ln_*"),
    "tables": ("*embeddings*", "*wte*", "*wpe*", "*embed_tokens*"),
}


def from_folder(folder, kind: str):
    import transformers

    auto = {
        "classification": transformers.AutoModelForSequenceClassification,
        "language-modelling": transformers.AutoModelForCausalLM,
    }[kind]
    config = transformers.AutoConfig.from_pretrained(folder, attn_implementation="eager")
    return auto.from_config(config, attn_implementation="eager")


def counted(model, patterns) -> tuple[int, int]:
    """FLOPs of forward and of forward with backward, as torch counts them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model.train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = any(fnmatchcase(name, pattern) for pattern in patterns)
    ids = torch.randint(5, 20, (BATCH, TOKENS))
    mask = torch.ones_like(ids)
    with FlopCounterMode(display=False) as counter:
        answer = model(input_ids=ids, attention_mask=mask)
        forward = counter.get_total_flops()
        if answer.logits.requires_grad:
            answer.logits.sum().backward()
    return forward, counter.get_total_flops()


@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("bert", "classification"),
        ("roberta", "classification"),
        ("distilbert", "classification"),
        ("gpt2", "classification"),
        ("gpt2", "language-modelling"),
        ("llama", "language-modelling"),
        ("qwen2", "language-modelling"),
    ],
)
def test_the_backward_pass_is_what_torch_counts(tiny_models, family, kind, trained):
    folder = tiny_models[family]
    config = json.loads((folder / "config.json").read_text())
    outputs = config["vocab_size"] if kind == "language-modelling" else 2
    tied = kind == "language-modelling" and config.get("tie_word_embeddings", family == "gpt2")
    profile = family_of(family).profile(config, Head(kind, outputs, tied=tied))
    forward, backward = training_step_flops(profile, TRAINED[trained], BATCH, TOKENS)
    torch_forward, torch_total = counted(from_folder(folder, kind), TRAINED[trained])
    assert forward == forward_flops(profile, BATCH, TOKENS)
    # rotary angles are an outer product that torch counts: take them out where they are
    extra = torch_forward - forward
    assert extra >= 0
    assert forward + backward == torch_total - extra


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_training_everything_is_close_to_three_forward_passes(tiny_models, family):
    config = json.loads((tiny_models[family] / "config.json").read_text())
    profile = family_of(family).profile(config, Head("classification", 2))
    forward, backward = training_step_flops(profile, ("*",), 1, 16)
    assert backward == 2 * forward


@pytest.mark.parametrize("method", ["lora", "ia3"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_the_backward_pass_of_adapters_is_what_torch_counts(tiny_models, family, method):
    from paretune.spaces.build import build

    config = json.loads((tiny_models[family] / "config.json").read_text())
    plain = Paper(family_of(family).profile(config, Head("classification", 2)))
    technique = slots()["finetuning"].technique(method)
    settings = {knob.name: knob.default for knob in technique.hyperparameters(plain)}
    paper = plain
    for step in technique.steps(plain, settings):
        if step.phase >= Phase.TRAIN:
            break
        paper = step.on_paper(paper)
    model = build(paper.profile)
    model.config._attn_implementation = "eager"
    forward, backward = training_step_flops(paper.profile, paper.recipe.trainable, BATCH, TOKENS)
    torch_forward, torch_total = counted(model, paper.recipe.trainable)
    assert torch_forward == forward
    assert torch_total == forward + backward
    everything = training_step_flops(plain.profile, ("*",), BATCH, TOKENS)
    assert backward < everything[1]
