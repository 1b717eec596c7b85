"""Splits mails into train, validation and test so that no near-duplicate stands on two sides.

Near-duplicates are found by MinHash with banding (Broder 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive
Datasets", ch. 3): two mails that share about 70 % of their three-word shingles end in one group.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from mailtriage.errors import ConfigError
from mailtriage.examples import Example

BANDS, ROWS = 8, 6  # a pair with similarity s shares a band with probability 1 - (1 - s**6)**8: 0.63 at 0.7, 0.1 at 0.5
_PRIME = (1 << 31) - 1


@dataclass(frozen=True)
class Split:
    """The three parts, and which group each mail (by position in the input) belongs to."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    groups: int

    def __iter__(self) -> Any:
        return iter((self.train, self.validation, self.test))


def split(examples: Sequence[Example], shares: tuple[float, float, float] = (0.8, 0.1, 0.1), seed: int = 7) -> Split:
    """Split by group, each label in about the wanted shares; the same seed gives the same split.

    Raises:
        ConfigError: the shares do not add up to 1.
    """
    if abs(sum(shares) - 1) > 1e-6 or min(shares) < 0:
        raise ConfigError(f"expected shares that add up to 1, found {shares}")
    groups = near_duplicate_groups([f"{example.subject} {example.text}" for example in examples])
    members: dict[int, list[Example]] = {}
    for example, group in zip(examples, groups, strict=True):
        members.setdefault(group, []).append(example)
    parts: tuple[list[Example], list[Example], list[Example]] = ([], [], [])
    for group, part in _assign(members, shares, Random(seed)):
        parts[part].extend(members[group])
    return Split(*parts, groups=len(members))


def near_duplicate_groups(texts: Sequence[str]) -> list[int]:
    """A group number a text; texts that share most of their words share a number."""
    random = np.random.default_rng(0)
    slopes = random.integers(1, _PRIME, BANDS * ROWS, dtype=np.int64)
    offsets = random.integers(0, _PRIME, BANDS * ROWS, dtype=np.int64)
    parent = list(range(len(texts)))
    seen: dict[tuple[int, bytes], int] = {}
    for position, text in enumerate(texts):
        shingles = _shingles(text)
        signature = ((shingles[:, None] * slopes + offsets) % _PRIME).min(axis=0)
        for band in range(BANDS):
            key = (band, signature[band * ROWS : (band + 1) * ROWS].tobytes())
            _join(parent, seen.setdefault(key, position), position)
    return [_root(parent, position) for position in range(len(texts))]


def _shingles(text: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Hashes of all runs of three words; numbers are alike, since only they differ in many a form letter."""
    words = re.findall(r"[^\W\d_]+|\d", text.lower())
    words = ["0" if word.isdigit() else word for word in words] or [""]
    runs = {" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))}
    return np.asarray([zlib.crc32(run.encode("utf-8", "replace")) >> 1 for run in runs], dtype=np.int64)


def _root(parent: list[int], position: int) -> int:
    while parent[position] != position:
        parent[position] = parent[parent[position]]
        position = parent[position]
    return position


def _join(parent: list[int], one: int, other: int) -> None:
    parent[_root(parent, other)] = _root(parent, one)


def _assign(
    members: dict[int, list[Example]], shares: tuple[float, float, float], random: Random
) -> Iterable[tuple[int, int]]:
    """(group, part): groups of the same labels are shuffled and dealt out until each part has its share of mails."""
    strata: dict[tuple[str | None, ...], list[int]] = {}
    for group, mails in members.items():
        strata.setdefault(tuple(mails[0].labels.values())[-1:], []).append(group)
    dealt = [1e-9, 1e-9, 1e-9]
    for groups in strata.values():
        random.shuffle(groups)
        for group in groups:
            lag = [share * sum(dealt) - have for share, have in zip(shares, dealt, strict=True)]
            part = max((p for p in range(3) if shares[p] > 0), key=lambda p: lag[p])
            dealt[part] += len(members[group])
            yield group, part
