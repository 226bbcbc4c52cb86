"""Formats on the layers that data picked for them: what a runtime stores of a mixed model.

A paper says how many layers of one size have which format, and shows the first ones with the most
bits. The step that picks keeps the layers' own formats in the candidate's notes. Both profiles
take the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from ..candidate import Candidate
from ..profile import Format, Group, Profile

NOTE: Final = "formats"


def picked(candidate: Candidate) -> Profile:
    """The candidate's profile with every layer's own format."""
    noted: Mapping[Group, Any] = (candidate.notes or {}).get(NOTE, {})
    if not noted:
        return candidate.paper.profile
    forms = {group: [Format(**form) for form in layers] for group, layers in noted.items()}
    return candidate.paper.profile.with_layers(forms)


def as_note(formats: Mapping[Group, tuple[Format, ...]]) -> dict[str, Any]:
    """What to keep in a candidate's notes for `picked`; JSON."""
    return {NOTE: {group: [asdict(form) for form in forms] for group, forms in formats.items()}}
