"""Desk: a study's trials in memory, where configurations are drawn before anything is stored.

A draw in a database costs a commit a parameter and leaves half a trial behind when the process
dies. Here it costs microseconds; what is refused is taken back, and what is admitted is stored
whole, in one transaction. Samplers see only the desk.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

if TYPE_CHECKING:
    from optuna.study import StudyDirection
    from optuna.trial import FrozenTrial

NAME = "desk"


class Desk(InMemoryStorage):
    """Optuna's storage in memory, from which the last trial can be taken back.

    It holds one study, `NAME`, whose trial ids are the trials' numbers.
    """

    def __init__(self, directions: list[StudyDirection]) -> None:
        super().__init__()
        self.study_id = self.create_new_study(directions, NAME)

    def put(self, trial: FrozenTrial) -> None:
        """Lays a stored trial on the desk, with the number that it has.

        A baseline lies here as failed: it has no parameters, and one complete trial without
        parameters leaves samplers that look for common parameters with none at all.
        """
        if trial.state == TrialState.COMPLETE and not trial.params:
            trial = copy.deepcopy(trial)
            trial.state, trial.values = TrialState.FAIL, None
        self.create_new_trial(self.study_id, trial)

    def take_back(self, number: int) -> None:
        """Removes the last trial as if it had never been drawn.

        Optuna has no word for that: its storages only grow. Number and id are free again.
        """
        study = self._studies[self.study_id]
        if number != len(study.trials) - 1:
            raise ValueError(f"only the last trial can be taken back, not {number}")
        study.trials.pop()
        del self._trial_id_to_study_id_and_number[number]
        self._max_trial_id = number - 1
        # `ask` looks for waiting trials only behind the last one it saw
        seen = self._prev_waiting_trial_number[self.study_id]
        self._prev_waiting_trial_number[self.study_id] = min(seen, number)

    def system_attributes(self) -> dict[str, Any]:
        """What samplers noted about the study as a whole."""
        return dict(self.get_study_system_attrs(self.study_id))
