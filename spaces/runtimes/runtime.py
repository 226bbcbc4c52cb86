"""Runtime: what answers once a candidate is deployed. One file, one row in `RUNTIMES`.

A runtime is the technique of the `runtime` slot: its only step is a Deploy. It also says what it
can hold (the capability table that legality reads) and how many bytes its tensors take.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from ..device import CPU
from ..profile import Group, Profile
from ..steps import Runner
from ..technique import Technique


@runtime_checkable
class Runtime(Technique, Protocol):
    """One row of `RUNTIMES`.

    Attributes:
        holds: formats that each group may be stored in; a group left out holds fp32 only.
        export_formats: export targets this runtime's artifact is made for (`onnx`, ...).
        caches: writing keeps keys and values, so that a further token costs one position; else the
            whole text is read anew for every token, with logits of every position.
        files: the runtime whose files it answers from; its own name where it writes its own.
    """

    holds: ClassVar[Mapping[Group, frozenset[str]]]
    export_formats: ClassVar[frozenset[str]]
    caches: ClassVar[bool]
    files: ClassVar[str]

    def payload_bytes(self, profile: Profile) -> int:
        """Bytes of all tensors that `deploy` will write, headers and graph apart; exact."""
        ...

    def open(self, folder: Path, *, threads: int = 1, device: str = CPU) -> Runner:
        """Answers from the files of an artifact that this runtime's Deploy wrote.

        Args:
            folder: the artifact.
            threads: CPU threads that it may use.
            device: where it answers, `cpu` or `cuda:N`; what it cannot do there, `objections` say.
        """
        ...
