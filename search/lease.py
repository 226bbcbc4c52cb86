"""Lease: one driver at a time holds a run, and how long drivers have held it.

The holder stands in one attribute of the study, changed only by compare-and-swap: a single UPDATE
that names the old text, so of two drivers that start together one loses, on any database.
A driver of this host counts as dead when its process is gone; one of another host when it has not
been heard of for `STALE_SECONDS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import column, insert, select, table, update
from sqlalchemy.exc import IntegrityError

from ..errors import RunError
from .holder import STALE_SECONDS, alive, this_process

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.engine import Engine

BEAT_SECONDS: Final = 10.0
"""How often the holder is heard of; work after the last beat of a killed driver is not counted."""

_KEYS = ("study_id", "key", "value_json")
_ATTRIBUTES = table("study_user_attributes", *(column(name) for name in _KEYS))
_FREE: Final = {"owner": None, "seen": 0.0, "spent_seconds": 0.0}


class Lease:
    """This process's hold on a study.

    Args:
        engine: of the database that the study lies in.
        study_id: the study.
        clock: unix time.
    """

    def __init__(self, engine: Engine, study_id: int, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._study_id = study_id
        self._clock = clock
        self._text = ""
        self._state: dict[str, Any] = dict(_FREE)

    def take(self) -> None:
        """Takes the study over from nobody, or from a driver that is dead.

        Raises:
            RunError: another driver holds it.
        """
        found = self._read()
        held = json.loads(found)
        if alive(held, self._clock()):
            raise RunError(_in_use(held))
        mine = {**held, "owner": this_process(), "seen": self._clock()}
        if not self._swap(found, mine):
            raise RunError(_in_use(json.loads(self._read())))

    def beat(self) -> None:
        """Says that this driver lives, at most every `BEAT_SECONDS`.

        Raises:
            RunError: another driver has taken the study over.
        """
        if self._clock() - self._state["seen"] >= BEAT_SECONDS:
            self._tick(this_process())

    def release(self) -> None:
        """Gives the study back."""
        self._tick(None)

    def spent_seconds(self) -> float:
        """Wall time that drivers have held the study, this one's up to now among it."""
        return float(self._state["spent_seconds"]) + self._clock() - float(self._state["seen"])

    def _tick(self, owner: dict[str, Any] | None) -> None:
        state = {"owner": owner, "seen": self._clock(), "spent_seconds": self.spent_seconds()}
        if not self._swap(self._text, state):
            raise RunError(
                "another driver has taken this run over while this one was silent; "
                "its records go on there: stop this one"
            )

    def _read(self) -> str:
        ours = self._ours()
        with self._engine.begin() as connection:
            text = connection.execute(select(_ATTRIBUTES.c.value_json).where(*ours)).scalar()
        if text is not None:
            return str(text)
        row = {"study_id": self._study_id, "key": "lease", "value_json": json.dumps(_FREE)}
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(_ATTRIBUTES).values(row))
        except IntegrityError:  # another driver put it there first: read what it wrote
            return self._read()
        return json.dumps(_FREE)

    def _swap(self, old: str, state: dict[str, Any]) -> bool:
        new = json.dumps(state)
        if new == old:
            return True  # MySQL counts rows that changed, not rows that were found
        change = update(_ATTRIBUTES).where(*self._ours(), _ATTRIBUTES.c.value_json == old)
        with self._engine.begin() as connection:
            done = connection.execute(change.values(value_json=new)).rowcount == 1
        if done:
            self._text, self._state = new, state
        return done

    def _ours(self) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        return _ATTRIBUTES.c.study_id == self._study_id, _ATTRIBUTES.c.key == "lease"


def spent_seconds(lease: dict[str, Any] | None) -> float:
    """Wall time that drivers have held a study, up to when the last one was heard of."""
    return float(lease["spent_seconds"]) if lease else 0.0


def _in_use(held: dict[str, Any]) -> str:
    owner = held["owner"] or {"host": "?", "pid": "?"}
    seen = datetime.fromtimestamp(held["seen"]).isoformat(sep=" ", timespec="seconds")
    free = datetime.fromtimestamp(held["seen"] + STALE_SECONDS).time().isoformat("minutes")
    return (
        f"this run is held by process {owner['pid']} on {owner['host']}, last heard of {seen}; "
        f"wait for it or stop it there (a host that died lets go at {free})"
    )
