"""Ray Tune's two ends of a search: the searcher beside the driver, the actor on a node.

Imports Ray; `ray.py` imports it when a cluster is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from multiprocessing.connection import wait
from typing import Any

from ray.tune import Trainable
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
        self._listen(event := Event("asked", ask.purpose, ask.number, seed=ask.seed))
        self._asks[trial_id] = (ask, event.at)
        prior = self._source.prior(ask)
        return {
            "ask": json.dumps(ask.to_json()),
            "prior": json.dumps(prior.to_json() if prior else None),
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Passes the record on; an actor that died answers nothing."""
        ask, started = self._asks.pop(trial_id)
        try:
            record = _record(result or {}, error, ask, self._source.prior(ask), started)
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


class SlotActor(Trainable):
    """A slot on some node."""

    def setup(
        self, config: dict[str, str], work: bytes = b"", limits: Limits | None = None
    ) -> None:
        """Takes the work; the process starts with the first ask."""
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
            except WorkFailed as error:
                return {"broken": str(error), "answered": 0, "done": True}
            for message in news:
                if isinstance(message, Record):
                    text = json.dumps(message.to_json())
                    return {"record": text, "answered": 1, "done": True}
            wait(self._slot.handles(), WAKE_SECONDS)

    def cleanup(self) -> None:
        """Stops the slot's process."""
        self._slot.stop()


def _record(
    result: Mapping[str, Any], lost: bool, ask: Ask, prior: Record | None, started: float
) -> Record:
    """What an actor answered.

    Raises:
        WorkFailed: its worker process cannot begin at all.
    """
    if "broken" in result:
        raise WorkFailed(result["broken"])
    if lost or "record" not in result:
        return failed(ask, prior, "crashed", "the worker was lost", started)
    return Record.from_json(json.loads(result["record"]))
