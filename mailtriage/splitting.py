"""Splits mails into train, validation and test so that no near-duplicate and no thread stands on two sides.

Near-duplicates are found by MinHash with banding (Broder 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive
Datasets", ch. 3): two mails that share about 70 % of their three-word shingles end in one group. A thread are the mails
with the same `thread_id`, an answer and what it answers, and those whose subjects name the same number of a case or a
client. Groups are dealt out by iterative stratification (Sechidis et al. 2011), or by time, the newest for the test.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any, Literal

import numpy as np

from mailtriage.errors import ConfigError
from mailtriage.examples import Example

BANDS, ROWS = 8, 6  # a pair with similarity s shares a band with probability 1 - (1 - s**6)**8: 0.63 at 0.7, 0.1 at 0.5
_PRIME = (1 << 31) - 1


Shares = tuple[float, float, float]


@dataclass(frozen=True)
class Split:
    """The three parts, and how many groups of mails belong together."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    groups: int

    def __iter__(self) -> Any:
        return iter((self.train, self.validation, self.test))


def split(
    examples: Sequence[Example],
    shares: Shares = (0.8, 0.1, 0.1),
    seed: int = 7,
    method: Literal["random", "time"] = "random",
) -> Split:
    """Split by group; the same seed gives the same split.

    Args:
        method: `random` gives each part about its share of every label. `time` puts the newest mails into the test and
            the oldest into training; a group stands where its newest mail does.

    Raises:
        ConfigError: the shares do not add up to 1.
    """
    if abs(sum(shares) - 1) > 1e-6 or min(shares) < 0:
        raise ConfigError(f"expected shares that add up to 1, found {shares}")
    members: dict[int, list[Example]] = {}
    for example, group in zip(examples, groups_of(examples), strict=True):
        members.setdefault(group, []).append(example)
    parts: tuple[list[Example], list[Example], list[Example]] = ([], [], [])
    deal = _by_time(members, shares) if method == "time" else _stratified(members, shares, Random(seed))
    for group, part in deal:
        parts[part].extend(members[group])
    return Split(*parts, groups=len(members))


def groups_of(examples: Sequence[Example]) -> list[int]:
    """A group number a mail: near-duplicates and mails of one thread share it, also where one leads to the other."""
    groups = near_duplicate_groups([f"{example.subject} {example.text}" for example in examples])
    parent = list(range(len(examples)))
    for position, pair in enumerate(zip(groups, _threads(examples), strict=True)):
        for other in pair:
            if other is not None:
                _join(parent, other, position)
    return [_root(parent, position) for position in range(len(examples))]


def crossings(parts: Mapping[str, Sequence[Example]]) -> dict[str, Any]:
    """What stands in more than one part, counted anew from the mails themselves.

    Returns:
        `groups`: for `ids`, `identical_texts`, `near_duplicates` and `threads` how many groups there are (`all`) and
        how many cross (`crossing`); `parts`: for each part its `mails` and the time of the `first` and `last`.
    """
    examples = [mail for mails in parts.values() for mail in mails]
    sides = [name for name, mails in parts.items() for _ in mails]
    texts = [f"{mail.subject} {mail.text}" for mail in examples]
    keys: dict[str, list[tuple[Any, ...]]] = {
        "ids": [(mail.id,) for mail in examples],
        "identical_texts": [(" ".join(text.lower().split()),) for text in texts],
        "near_duplicates": [(group,) for group in near_duplicate_groups(texts)],
        "threads": [() if thread is None else (thread,) for thread in _threads(examples)],
    }
    return {
        "groups": {name: _crossing(found, sides) for name, found in keys.items()},
        "parts": {name: _span(mails) for name, mails in parts.items()},
    }


def _crossing(keys: Sequence[tuple[Any, ...]], sides: Sequence[str]) -> dict[str, int]:
    found: dict[Any, set[str]] = {}
    for own, side in zip(keys, sides, strict=True):
        for key in own:
            found.setdefault(key, set()).add(side)
    return {"all": len(found), "crossing": sum(len(reached) > 1 for reached in found.values())}


def _span(mails: Sequence[Example]) -> dict[str, Any]:
    times = [_time(mail) for mail in mails if mail.received_at is not None]
    ends = (min(times), max(times)) if times else (None, None)
    return {"mails": len(mails)} | {
        name: end and datetime.fromtimestamp(end, UTC).date().isoformat()
        for name, end in zip(("first", "last"), ends, strict=True)
    }


def _threads(examples: Sequence[Example]) -> list[int | None]:
    """The number of a mail of its thread a mail; none for a mail that says nothing of a thread."""
    keys = [_thread_keys(example) for example in examples]
    parent = list(range(len(examples)))
    seen: dict[tuple[str, str], int] = {}
    for position, own in enumerate(keys):
        for key in own:
            _join(parent, seen.setdefault(key, position), position)
    return [_root(parent, position) if own else None for position, own in enumerate(keys)]


def _thread_keys(example: Example) -> list[tuple[str, str]]:
    """What a mail shares with others of its thread: the id, and long numbers in the subject, of a case or a client.

    A mail's own Message-ID is one too, for answers that name no more than the mail before. Other ids than a Message-ID
    may count mails, as a thread's id may count threads: they are not compared.
    """
    keys = [("number", number) for number in re.findall(r"(?<!\d)\d{6,}(?!\d)", example.subject)]
    if example.thread_id is not None:
        keys.append(("thread", example.thread_id))
        if "@" in example.id:
            keys.append(("thread", example.id))
    return keys


def _time(example: Example) -> float:
    """Seconds since 1970; a time without a zone is taken for UTC, a mail without a time for the oldest."""
    received = example.received_at
    if received is None:
        return -math.inf
    return (received if received.tzinfo else received.replace(tzinfo=UTC)).timestamp()


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


def _by_time(members: Mapping[int, list[Example]], shares: Shares) -> Iterator[tuple[int, int]]:
    """(group, part), the oldest first."""
    total, dealt = sum(map(len, members.values())), 0
    for group in sorted(members, key=lambda group: max(map(_time, members[group]))):
        middle = (dealt + len(members[group]) / 2) / total
        yield group, 0 if middle < shares[0] else 1 if middle < shares[0] + shares[1] else 2
        dealt += len(members[group])


def _stratified(members: Mapping[int, list[Example]], shares: Shares, random: Random) -> Iterator[tuple[int, int]]:
    """(group, part): the rarest label's groups first, each to the part that lacks most of that label, then of mails."""
    counts = {group: Counter(_labels_of(mails)) for group, mails in members.items()}
    having: dict[tuple[str, str], list[int]] = {}
    for group, labels in counts.items():
        for label in labels:
            having.setdefault(label, []).append(group)
    rarest_first = sorted(having, key=lambda label: (sum(counts[group][label] for group in having[label]), label))
    total = sum((Counter(labels) for labels in counts.values()), Counter())
    lacking = [{label: share * number for label, number in total.items()} for share in shares]
    lacking_mails = [share * sum(map(len, members.values())) for share in shares]
    open_parts = [part for part in range(3) if shares[part] > 0]
    dealt: set[int] = set()
    rounds: list[tuple[tuple[str, str] | None, list[int]]] = [(label, having[label]) for label in rarest_first]
    for wanted, groups in [*rounds, (None, list(members))]:
        waiting = [group for group in groups if group not in dealt]
        random.shuffle(waiting)
        for group in sorted(waiting, key=lambda group: -len(members[group])):
            part = max(open_parts, key=lambda p: (lacking[p][wanted] if wanted else 0.0, lacking_mails[p]))
            for name, number in counts[group].items():
                lacking[part][name] -= number
            lacking_mails[part] -= len(members[group])
            dealt.add(group)
            yield group, part


def _labels_of(mails: Sequence[Example]) -> Iterator[tuple[str, str]]:
    return ((task, label) for mail in mails for task, label in mail.labels.items() if label is not None)
