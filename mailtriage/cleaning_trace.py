"""What cleaning made of a mail, without a word of the mail: kept in a bundle, so that a later cleaning can be compared.

A trace holds fingerprints and offsets. Whoever has the mail can rebuild from them the text that the model was trained
on; whoever has not learns how long its parts were and why they went. The fingerprint of what was left covers the raw
mail, too, so that nobody finds a short text by trying.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailtriage.cleaning import Cleaned, Removed
from mailtriage.cleaning_rules.edits import apply_edits
from mailtriage.cleaning_rules.html_text import visible_text
from mailtriage.mail import Email

FILE = "cleaning_sample.jsonl.gz"  # of a bundle
MOST_MAILS = 1000
MOST_SPANS = 2000  # a newsletter with more keeps none
# What takes the place of a span is white space, the hyphen of a list, or what entities of HTML stood for. These are the
# client's characters, and each is written as this sign.
MASK = "\ufffd"


@dataclass(frozen=True, slots=True)
class Trace:
    """What cleaning made of one mail: fingerprints, and the spans that it removed, with masked replacements.

    `mail` stands for the raw subject and body, `subject` and `text` for what was left of them.
    """

    mail: str
    subject: str
    text: str
    removed: tuple[Removed, ...]

    @classmethod
    def of(cls, mail: Email, cleaned: Cleaned) -> Trace:
        removed = tuple(
            Removed(span.kind, span.rule, span.start, span.end, _masked(span.replacement)) for span in cleaned.removed
        )
        return cls(fingerprint(mail), fingerprint(mail, cleaned.subject), fingerprint(mail, cleaned.text), removed)

    def rebuild(self, mail: Email) -> str | None:
        """The text that cleaning made of this mail then; `None` where its entities cannot be read any more."""
        edits = [
            Removed(span.kind, span.rule, span.start, span.end, _unmasked(span, mail.body)) for span in self.removed
        ]
        text = apply_edits(mail.body, edits)
        return text if fingerprint(mail, text) == self.text else None

    def to_record(self) -> dict[str, Any]:
        """The JSON object of this trace."""
        spans = [
            [span.kind, span.rule, span.start, span.end, *([span.replacement] if span.replacement else [])]
            for span in self.removed
        ]
        return {"mail": self.mail, "subject": self.subject, "text": self.text, "removed": spans}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Trace:
        """Read what `to_record` made; a `KeyError` or `TypeError` says that it is something else."""
        removed = tuple(Removed(*span) for span in record["removed"])
        return cls(record["mail"], record["subject"], record["text"], removed)


def fingerprint(mail: Email, result: str | None = None) -> str:
    """128 bits of the SHA-256 of a raw mail, and of what was made of it."""
    parts = [mail.subject, mail.body] if result is None else [mail.subject, mail.body, result]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def traced(mail: Email, cleaned: Cleaned, of_mails: int) -> Trace | None:
    """The trace of a mail, for about the share of so many mails that a bundle needs to choose from."""
    if len(cleaned.removed) > MOST_SPANS:
        return None
    # Twice as many as needed, since only the training mails of them get into a bundle.
    if of_mails > 2 * MOST_MAILS and _rank(fingerprint(mail)) * of_mails > 2 * MOST_MAILS:
        return None
    return Trace.of(mail, cleaned)


def _rank(mail: str) -> float:
    return int(mail[:8], 16) / 2**32


def write_traces(folder: Path, traces: Iterable[Trace]) -> int:
    """Write the file of a bundle, with at most `MOST_MAILS`, the same for the same mails; returns how many."""
    chosen = sorted({trace.mail: trace for trace in traces}.values(), key=lambda trace: trace.mail)[:MOST_MAILS]
    content = "".join(json.dumps(trace.to_record(), separators=(",", ":")) + "\n" for trace in chosen)
    if chosen:
        (folder / FILE).write_bytes(gzip.compress(content.encode(), mtime=0))
    return len(chosen)


def read_traces(content: bytes) -> Iterator[Trace]:
    """The traces in the file of a bundle."""
    with gzip.open(io.BytesIO(content), "rt", encoding="utf-8") as file:
        for line in file:
            yield Trace.from_record(json.loads(line))


def _masked(replacement: str) -> str:
    return "".join(sign if _is_layout(sign) else MASK for sign in replacement)


def _is_layout(sign: str) -> bool:
    return sign.isspace() or sign == "-"


def _unmasked(span: Removed, body: str) -> str:
    """The replacement of a span, with the characters that the entities in its source stand for."""
    if MASK not in span.replacement:
        return span.replacement
    read = visible_text(body[span.start : span.end]).text
    characters = iter([sign for sign in read if not _is_layout(sign)])
    return "".join(next(characters, MASK) if sign == MASK else sign for sign in span.replacement)
