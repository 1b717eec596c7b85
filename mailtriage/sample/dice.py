"""Random choices that are the same on every platform and Python version."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

T = TypeVar("T")


class Dice:
    """Choices built on `Random.random` alone, the only method whose sequence is promised to stay between versions."""

    __slots__ = ("random",)

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed).random

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def between(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + int(self.random() * (high - low + 1))

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self.random() * len(items))]

    def digits(self, count: int) -> str:
        """`count` digits, the first not 0."""
        return str(self.between(10 ** (count - 1), 10**count - 1))


class Weighted(Generic[T]):
    """Items of which some come more often; `draw` picks one."""

    __slots__ = ("_cumulative", "_items")

    def __init__(self, items: Iterable[T], weights: Iterable[float]) -> None:
        self._items = tuple(items)
        self._cumulative = tuple(accumulate(weights))

    def draw(self, dice: Dice) -> T:
        place = dice.random() * self._cumulative[-1]
        return self._items[bisect_right(self._cumulative, place, hi=len(self._items) - 1)]

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)
