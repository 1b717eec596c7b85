"""Batches of mails of similar length under a token budget, so that little is padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

JITTER = 0.1  # lengths are blurred by so much before sorting, so that epochs make different batches


def token_batches(lengths: Sequence[int], budget: int, *, seed: int, epoch: int, workers: int = 1) -> list[list[int]]:
    """Positions of mails in batches whose padded size stays within `budget` tokens, in random order.

    The number of batches is a multiple of `workers`: worker `r` takes every `workers`-th batch from `r` on, and no mail
    is seen twice or left out. The same seed and epoch give the same batches everywhere.
    """
    random = np.random.default_rng([seed, epoch])
    blurred = np.asarray(lengths) * (1 + JITTER * random.uniform(-1, 1, len(lengths)))
    batches: list[list[int]] = [[]]
    longest = 0
    for position in np.argsort(blurred, kind="stable").tolist():
        longest = max(longest, lengths[position])
        if batches[-1] and longest * (len(batches[-1]) + 1) > budget:
            batches.append([])
            longest = lengths[position]
        batches[-1].append(position)
    _split_largest(batches, workers)
    return [batches[i] for i in random.permutation(len(batches))]


def length_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Positions of mails, shortest first, in batches of at most `budget` tokens, padding included, or of one mail."""
    batch: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        if batch and lengths[position] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch


def _split_largest(batches: list[list[int]], workers: int) -> None:
    """Halve the largest batches until their number is a multiple of `workers`."""
    while len(batches) % workers:
        largest = max(range(len(batches)), key=lambda i: len(batches[i]))
        if len(batches[largest]) < 2:
            raise ValueError(f"expected at least one mail for each of {workers} workers")
        half = batches.pop(largest)
        batches += [half[: len(half) // 2], half[len(half) // 2 :]]
