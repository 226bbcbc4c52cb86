"""Recent: a memory that forgets, for what is looked up thousands of times in a search."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Values by key; beyond `size`, what nobody asked for longest is forgotten.

    `functools.lru_cache` where what is needed to make a value is more than its key.

    Args:
        size: values that are held at most.

    >>> squares = Recent[int](2)
    >>> [squares.get(n, lambda: n * n) for n in (1, 2, 1, 3)], 1 in squares, 2 in squares
    ([1, 4, 1, 9], True, False)
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: OrderedDict[Hashable, Value] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key, made where it is not held."""
        held = self._held
        if key in held:
            held.move_to_end(key)
            return held[key]
        value = held[key] = make()
        if len(held) > self._size:
            held.popitem(last=False)
        return value

    def __contains__(self, key: Hashable) -> bool:
        return key in self._held
