"""Holder: which process drives a run, and whether it still lives. Asked without a database."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any, Final

import psutil

STALE_SECONDS: Final = 600.0
"""A driver of another host counts as dead when it has not been heard of for so long."""


def this_process() -> dict[str, Any]:
    """This process, so that another of the same number is not taken for it."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "born": psutil.Process(pid).create_time()}


def alive(held: Mapping[str, Any], now: float) -> bool:
    """Whether somebody holds a run and lives.

    Args:
        held: `owner` (a process, None: nobody) and `seen`, when it was last heard of.
        now: unix time.
    """
    owner = held["owner"]
    if owner is None:
        return False
    if owner["host"] != socket.gethostname():
        return bool(now - held["seen"] < STALE_SECONDS)
    try:
        born = psutil.Process(owner["pid"]).create_time()
    except psutil.NoSuchProcess:
        return False
    return abs(born - float(owner["born"])) < 1.0  # else the number went to another process
