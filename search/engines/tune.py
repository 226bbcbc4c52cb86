"""Ray Tune's two ends of a search: the searcher beside the driver, the actor on a node.

Imports Ray; `ray.py` imports it when a cluster is used.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from ray.tune import Callback, Trainable
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from ...errors import ParetuneError, WorkFailed
from ..driver import Done, Source
from ..events import Event, Listener
from ..records import Ask, Record
from .attempt import failed
from .local import INTERRUPTED, WAKE_SECONDS
from .slot import Limits, Slot


class DriverSearcher(Searcher):
    """Asks and tells on behalf of Ray.

    Args:
        source: hands out asks and takes records.
        workers: asks under way at once.
        listen: told what is asked and answered.
        interrupted: Ctrl-C was pressed: nothing is asked any more.

    `done` says why it ended; `error` is what must be raised once Ray has let go.
    """

    def __init__(
        self,
        source: Source,
        workers: int,
        listen: Listener,
        interrupted: Callable[[], bool],
    ) -> None:
        super().__init__(metric="answered", mode="max")
        self._source, self._workers = source, workers
        self._listen, self._interrupted = listen, interrupted
        self.done: Done | None = None
        self.error: ParetuneError | None = None
        self._asks: dict[str, tuple[Ask, float]] = {}
        self._wait = False

    def suggest(self, trial_id: str) -> Any:
        """The next ask as a config; None: later; FINISHED: never."""
        if self._interrupted():
            self.done = INTERRUPTED
        if self.done is not None or self.error is not None:
            return Searcher.FINISHED
        try:
            self._source.beat()
            if self._wait or len(self._asks) >= self._workers:
                return None
            return self._next(trial_id)
        except ParetuneError as error:  # through Ray it would come out as something else
            self.error = error
            return Searcher.FINISHED

    def _next(self, trial_id: str) -> Any:
        ask = self._source.next()
        if not isinstance(ask, Ask):
            self.done = ask if isinstance(ask, Done) else None
            self._wait = True  # the answer stays the same until something comes back
            return Searcher.FINISHED if self.done else None
        self._listen(event := Event("asked", ask.purpose, ask.number, seed=ask.seed, rung=ask.rung))
        self._asks[trial_id] = (ask, event.at)
        prior = self._source.prior(ask)
        return {
            "ask": json.dumps(ask.to_json()),
            "prior": json.dumps(prior.to_json() if prior else None),
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Passes the record on; where an actor was lost, `LostActors` says why right after."""
        if not error:
            self._answered(trial_id, result or {})

    def lost(self, trial_id: str, cause: str) -> None:
        """Passes on that an actor died, or could not begin."""
        self._answered(trial_id, {"lost": cause})

    def _answered(self, trial_id: str, result: Mapping[str, Any]) -> None:
        ask, started = self._asks.pop(trial_id)
        try:
            record = _record(result, ask, self._source.prior(ask), started)
            stored = self._source.tell(record)
        except ParetuneError as broken:
            self.error = self.error or broken
            return
        self._wait = False
        self._listen(Event("told", stored.state, stored.number, seed=stored.seed))

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        # Ray writes down what it would restore; there is nothing to: the driver stays here
        return object, ()

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the checkpoint."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study is the checkpoint."""


class LostActors(Callback):
    """Tells a searcher why actors were lost, which Ray says to callbacks alone."""

    def __init__(self, searcher: DriverSearcher) -> None:
        self._searcher = searcher

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Passes on what was raised; Ray's own heading and colours are left out."""
        said = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
        plain = re.sub(r"\x1b\[\d*m", "", said.partition("\n")[2].strip())
        self._searcher.lost(trial.trial_id, plain)


class SlotActor(Trainable):
    """A slot on some node."""

    def setup(
        self,
        config: dict[str, str],
        work: bytes = b"",
        limits: Limits | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Takes the work; the process starts with the first ask.

        Args:
            config: the first ask. work, limits: of the slot.
            variables: of the driver's environment; a node has its own.
        """
        os.environ.update(variables or {})
        self._slot = Slot(work, limits or Limits())
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, str]) -> bool:
        """Takes the next ask; the slot and what it has loaded stay."""
        prior = json.loads(new_config["prior"])
        self._ask = Ask.from_json(json.loads(new_config["ask"]))
        self._prior = None if prior is None else Record.from_json(prior)
        return True

    def step(self) -> dict[str, Any]:
        """Answers the ask."""
        self._slot.give(self._ask, self._prior)
        while True:
            try:
                news = list(self._slot.news())
            except WorkFailed as error:  # also a disk that takes nothing more
                return {"broken": str(error), "answered": 0, "done": True}
            for message in news:
                if isinstance(message, Record):
                    text = json.dumps(message.to_json())
                    return {"record": text, "answered": 1, "done": True}
            wait(self._slot.handles(), WAKE_SECONDS)

    def cleanup(self) -> None:
        """Stops the slot's process."""
        self._slot.stop()


def _record(result: Mapping[str, Any], ask: Ask, prior: Record | None, started: float) -> Record:
    """What an actor answered.

    Raises:
        WorkFailed: its worker process cannot begin at all.
    """
    if "broken" in result:
        raise WorkFailed(result["broken"])
    if "record" not in result:
        cause = result.get("lost") or "Ray does not say why"
        return failed(ask, prior, "crashed", f"the worker was lost: {cause}", started)
    return Record.from_json(json.loads(result["record"]))
