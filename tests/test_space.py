from __future__ import annotations

import optuna
import pytest
from paretune.errors import StudyError, UnknownName
from paretune.reports.catalogues import example_paper
from paretune.spaces.configuration import Choice, Configuration
from paretune.spaces.space import Space

WANTED = {
    "finetuning": {"methods": ["none", "full", "lora"], "lora": {"rank": [2, 16]}},
    "structure": {"methods": ["none", "ffn"], "ffn": {"when": "after"}},
    "precision": {"methods": ["fp32", "int8", "int4"]},
}


def space() -> Space:
    return Space.of(WANTED, example_paper())


def test_only_the_knobs_of_chosen_methods_are_suggested():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(50):
        trial = study.ask()
        configuration = space().suggest(trial)
        methods = {f"{slot}.{choice.method}" for slot, choice in configuration}
        for name in trial.params:
            if "." in name:
                assert name.rsplit(".", 1)[0] in methods


def test_every_sampled_configuration_comes_back_from_its_parameters():
    for configuration in space().sample(100, seed=1):
        parameters = space().parameters(configuration)
        assert space().suggest(optuna.trial.FixedTrial(parameters)) == configuration


def test_a_fixed_knob_is_no_parameter():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        trial = study.ask()
        space().suggest(trial)
        assert "structure.ffn.when" not in trial.params


CUT_AND_TAUGHT = {
    "finetuning": {"methods": ["none", "full"]},
    "structure": {"methods": ["none", "sparsity"]},
    "recovery": {"methods": ["none", "distil"]},
}


def test_what_earlier_answers_leave_one_value_is_not_asked():
    about = Space.of(CUT_AND_TAUGHT, example_paper())
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    asked = {"structure.sparsity.share": set(), "recovery.distil.teacher": set()}
    for _ in range(120):
        trial = study.ask()
        found = about.suggest(trial)
        for name, seen in asked.items():
            slot, method, knob = name.split(".")
            choice = found.get(slot)
            if choice is None or choice.method != method:
                continue
            told, structure = dict(choice.settings), found.get("structure")
            if name in trial.params:
                seen.add(told[knob])
            elif knob == "share":
                assert (told["pattern"], told["share"]) == ("2:4", 0.5)
            else:
                cut = structure and dict(structure.settings)["when"] == "after"
                assert (bool(cut), told["teacher"]) == (False, "baseline")
    assert asked == {
        "structure.sparsity.share": {0.3, 0.4, 0.5, 0.6, 0.7},
        "recovery.distil.teacher": {"baseline", "self"},
    }


def test_what_was_not_asked_is_no_parameter_of_a_configuration():
    about = Space.of(CUT_AND_TAUGHT, example_paper())
    for configuration in about.sample(60, seed=1):
        values = about.parameters(configuration)
        trial = optuna.trial.FixedTrial(values)
        assert about.suggest(trial) == configuration
        assert trial.params.keys() == values.keys()


def test_a_value_that_a_study_does_not_offer_is_never_settled_on():
    wanted = {"sparsity": {"pattern": "2:4", "share": {"values": [0.3, 0.7]}}}
    about = Space.of({"structure": {"methods": ["sparsity"], **wanted}}, example_paper())
    for configuration in about.sample(10):
        (choice,) = configuration.choices
        assert dict(choice[1].settings)["share"] in {0.3, 0.7}


def test_configspace_holds_the_conditions():
    built = space().configspace(seed=3)
    for sample in built.sample_configuration(50):
        if sample["finetuning"] != "lora":
            assert not any(name.startswith("finetuning.lora") for name in dict(sample))


@pytest.mark.parametrize(
    ("wanted", "error", "said"),
    [
        ({"finetunning": {}}, UnknownName, "did you mean 'finetuning'"),
        ({"finetuning": {"methods": ["lorra"]}}, UnknownName, "did you mean 'lora'"),
        ({"finetuning": {"lora": {"rang": 4}}}, UnknownName, "did you mean 'rank'"),
        ({"finetuning": {"lora": {"rank": [2, 1000]}}}, StudyError, "rank is 1000; allowed"),
    ],
)
def test_what_no_table_holds_is_refused_with_the_nearest(wanted, error, said):
    with pytest.raises(error, match=said):
        Space.of(wanted, example_paper())


def test_a_configuration_outside_the_space_has_no_parameters():
    with pytest.raises(StudyError, match="not in this study's space"):
        space().parameters(Configuration.of(recovery=Choice.of("finetune", share=0.1)))
