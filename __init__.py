"""paretune: the configurations of a transformer that nobody can beat on every count at once.

    import paretune

    run = paretune.search("study.yaml", "runs/mine")             # as `paretune search` does
    run = paretune.search(study, "runs/mine", evaluate=judge)    # your own figures, no models made

`paretune.search` is the package of that name, which can be called: `search.session.search`, loaded
when it is first called. Importing paretune loads nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .search.session import search
else:
    from . import search

__all__ = ["search"]

__version__ = "0.1.0"
