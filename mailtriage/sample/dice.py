"""Random choices that are the same on every platform and Python version."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar

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


class Weighted(Sequence[T]):
    """Items of which some come more often; `draw` picks one."""

    def __init__(self, items: Sequence[T], weights: Sequence[float]) -> None:
        self._items = tuple(items)
        self._cumulative = tuple(accumulate(weights))

    def draw(self, dice: Dice) -> T:
        return self._items[bisect_right(self._cumulative, dice.random() * self._cumulative[-1], hi=len(self) - 1)]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self._items[index]
