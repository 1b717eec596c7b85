"""A cleaned mail that a model can be trained or measured on, and the JSONL file between pipeline steps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path

from mailtriage.cleaning import clean
from mailtriage.cleaning_trace import Trace, traced
from mailtriage.errors import DataError, TaxonomyError
from mailtriage.mail import Email
from mailtriage.metrics import UNLABELLED
from mailtriage.taxonomy import Task, Taxonomy


@dataclass(frozen=True, slots=True)
class Example:
    """What is left of a mail after cleaning, with its labels (`None`: not labelled)."""

    id: str
    subject: str
    text: str
    custodian_bank: str | None = None
    received_at: datetime | None = None
    labels: Mapping[str, str | None] = field(default_factory=dict)
    language: str | None = None
    removed_kinds: tuple[str, ...] = ()
    trace: Trace | None = None
    thread_id: str | None = None
    attachments: int | None = None

    @classmethod
    def from_email(cls, mail: Email, of_mails: int = 0) -> Example:
        """Clean a mail as serving does. Of many mails, `of_mails`, only some are kept a trace of for the bundle."""
        cleaned = clean(mail.body, mail.subject)
        return cls(
            id=mail.id,
            subject=cleaned.subject,
            text=cleaned.text,
            custodian_bank=mail.custodian_bank,
            received_at=mail.received_at,
            labels=dict(mail.labels),
            language=guess_language(f"{cleaned.subject} {cleaned.text}"),
            removed_kinds=tuple(sorted({removed.kind for removed in cleaned.removed} - {"whitespace"})),
            trace=traced(mail, cleaned, of_mails),
            attachments=mail.attachments,
            thread_id=mail.thread_id,
        )

    def indices(self, taxonomy: Taxonomy) -> tuple[int, ...]:
        """Label numbers in task order; `UNLABELLED` where there is no label, or a retired one, which no model gives.

        Raises:
            TaxonomyError: a label that the taxonomy does not have; names the mail.
        """
        try:
            return tuple(_number(task, self.labels.get(task.id)) for task in taxonomy.tasks)
        except TaxonomyError as error:
            raise TaxonomyError(f"mail '{self.id}': {error}") from None


def _number(task: Task, label: str | None) -> int:
    number = UNLABELLED if label is None else task.index(label)
    return UNLABELLED if number >= 0 and task.labels[number].state == "retired" else number


_WORDS = {
    "de": frozenset(
        "ich und der die das nicht ist mein meine bitte sie mir den dem auf für mit zu wie habe ein eine".split()
    ),
    "en": frozenset("the and my to is not please you of for with have i in a it on this your can would".split()),
}


def guess_language(text: str) -> str | None:
    """`de` or `en` by counting the commonest words; `None` where neither leads."""
    words = text.lower().split()
    counts = {language: sum(word in known for word in words) for language, known in _WORDS.items()}
    best = max(counts, key=lambda language: counts[language])
    return best if sorted(counts.values())[-1] > sorted(counts.values())[-2] else None


def data_hash(*parts: Sequence[Example]) -> str:
    """SHA-256 over the mails of each part, in order: what the model reads of them, their ids and labels."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)} mails".encode())
        for mail in part:
            read = (mail.id, mail.custodian_bank, mail.subject, mail.text, sorted(mail.labels.items()))
            digest.update(repr(read).encode())
    return digest.hexdigest()


def write_examples(path: Path, examples: Iterable[Example]) -> int:
    """Write JSONL and return the number of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = 0
    with path.open("w", encoding="utf-8") as stream:
        for example in examples:
            stream.write(example_line(example))
            rows += 1
    return rows


def example_line(example: Example) -> str:
    """The line of JSON that `read_examples` reads."""
    record = {item.name: getattr(example, item.name) for item in fields(example)} | {
        "received_at": example.received_at.isoformat() if example.received_at else None,
        "trace": example.trace.to_record() if example.trace else None,
    }
    for late in ("thread_id", "attachments"):  # files of mails without these stay the same to the byte
        if record[late] is None:
            del record[late]
    return json.dumps(record, ensure_ascii=False) + "\n"


def read_examples(path: str | Path) -> Iterator[Example]:
    """Read what `write_examples` wrote.

    Raises:
        DataError: a row is not what was written; names the row.
    """
    with Path(path).open(encoding="utf-8") as stream:
        for row, line in enumerate(stream, start=1):
            try:
                record = json.loads(line)
                time, kinds, trace = (record.pop(key) for key in ("received_at", "removed_kinds", "trace"))
                yield Example(
                    **record,
                    received_at=datetime.fromisoformat(time) if time else None,
                    removed_kinds=tuple(kinds),
                    trace=Trace.from_record(trace) if trace else None,
                )
            except (ValueError, TypeError, KeyError, AttributeError):
                raise DataError(f"{path}, row {row}: expected a cleaned mail") from None
