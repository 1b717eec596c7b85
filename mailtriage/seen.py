"""Which mails a bundle was fitted on or chosen by, so that no figure on them is taken for one on new mails.

A bundle keeps a hash of each mail's words, with every digit alike: whoever has the bundle can ask for a mail that they
have, and cannot find a client's number by trying. Mails that differ in digits alone count as one, as in the split.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from mailtriage.bundle import Bundle
from mailtriage.examples import Example, data_hash
from mailtriage.splitting import Split, split

FILE = "seen_mails.txt"  # of a bundle: a hash a line, in order
SIZE = 8  # bytes of a hash


def write_seen(folder: Path, examples: Iterable[Example]) -> None:
    """Write the file of a bundle; the same for the same mails."""
    (folder / FILE).write_text("".join(f"{found}\n" for found in sorted({_hash(mail) for mail in examples})))


def count_seen(bundle: Bundle, examples: Sequence[Example]) -> int | None:
    """How many of these mails the bundle was fitted on or chosen by; `None` for a bundle that does not say."""
    if not (bundle.path / FILE).is_file():
        return None
    known = set((bundle.path / FILE).read_text().split())
    return sum(_hash(mail) in known for mail in examples)


def training_split(bundle: Bundle, examples: Sequence[Example]) -> Split | None:
    """The parts that training made of these mails; `None` if they are not just the mails that training was given."""
    found = {
        name: bundle.read_json(name) if (bundle.path / name).is_file() else {}
        for name in ("training.json", "metrics.json")
    }
    settings, expected = found["training.json"], found["metrics.json"].get("data_sha256")
    if expected is None or not settings:
        return None
    parts = split(examples, seed=settings["seed"], method=settings["split"])
    return parts if data_hash(parts.train, parts.validation) == expected else None


def _hash(mail: Example) -> str:
    words = re.findall(r"[^\W\d_]+|\d", f"{mail.subject} {mail.text}".lower())
    masked = " ".join("0" if word.isdigit() else word for word in words)
    return hashlib.blake2b(masked.encode("utf-8", "replace"), digest_size=SIZE).hexdigest()
