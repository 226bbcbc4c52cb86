"""WHICH configuration to try next, and running it. The package is callable: see `__call__`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .run import Run
    from .session import Evaluate
    from .study import Study


class _Search(ModuleType):
    """A package and a function of one name: Python binds `paretune.search` to the package."""

    def __call__(
        self,
        study: Study | Mapping[str, object] | Path | str,
        run: Path | str,
        *,
        evaluate: Evaluate | None = None,
        quiet: bool = True,
    ) -> Run:
        """The Python face of `paretune search`; see `session.search`."""
        from .session import search

        return search(study, run, evaluate=evaluate, quiet=quiet)


sys.modules[__name__].__class__ = _Search
