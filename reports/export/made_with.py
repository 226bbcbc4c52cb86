"""Where bits are comparable: the versions and the processor that a proof was made with."""

from __future__ import annotations

from ...evaluators.devices.here import processor
from ...search.subject import environment_pairs


def made_with(threads: int) -> dict[str, str]:
    """Versions of the libraries, processor and threads of a proof made here and now."""
    return {**dict(environment_pairs(threads)), "processor": processor()}
