"""Adjustments: what a study asks for that cannot be searched as written; always said, never silent.

What comes out is the study as resolved, which is what the run stores.
"""

from __future__ import annotations

from ..evaluators.catalogue import followed
from ..evaluators.energy.meters import find_meter
from .samplers import sampler
from .study import Study


def adjusted(study: Study, *, judged: bool) -> tuple[Study, list[str]]:
    """The study as it is searched, and a sentence on each difference.

    Args:
        study: as loaded.
        judged: a function of the user's gives the figures, so that nothing is known of them.
    """
    words = []
    if len(study.fidelity.rungs) > 1 and not sampler(study.sampler).reads_records:
        study = _changed(study, fidelity={"rungs": [1.0]})
        words.append(f"{study.sampler} knows one fidelity: rungs are off")
    own = set() if judged else set(study.objectives) - set(study.custom_metrics)
    found = followed([n for n in study.objectives if n in own], _energy_is_time(study))
    for name, other in found.items():
        study = _changed(study, objectives=[n for n in study.objectives if n != name])
        words.append(
            f"{name} is a fixed multiple of {other} here: it is reported, and not searched"
        )
    return study, words


def _energy_is_time(study: Study) -> bool:
    """Whether energy is watts times seconds.

    It is modelled from processor time, which only with one thread is the time that passes.
    """
    workload = study.workload.spec()
    meter = find_meter(workload, device=study.settings.device)
    return meter.source == "modelled" and workload.threads == 1


def _changed(study: Study, **sections: object) -> Study:
    return Study.from_dict({**study.to_json(), **sections})
