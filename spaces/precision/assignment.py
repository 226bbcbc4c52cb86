"""Which layer gets which format, where it is fixed how many get each: the best of all ways.

Errors are taken to add up (arXiv 2001.00281, section 3.3), so that this is a transportation
problem, solved exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..profile import Format


def assigned(
    errors: Sequence[Mapping[Format, float]], formats: Sequence[Format]
) -> tuple[Format, ...]:
    """The formats in the order of the layers, with the smallest sum of errors.

    Args:
        errors: of each layer, what each format does when no other layer has one. Finite.
        formats: as many as there are layers.

    >>> more, less = Format("int8"), Format("int4", 32)
    >>> [form.name for form in assigned([{more: 0, less: 1}, {more: 0, less: 3}], [more, less])]
    ['int4', 'int8']
    """
    from scipy.optimize import linear_sum_assignment

    table = np.array([[layer[form] for form in formats] for layer in errors], dtype=np.float64)
    _, places = linear_sum_assignment(table)
    return tuple(formats[int(place)] for place in places)
