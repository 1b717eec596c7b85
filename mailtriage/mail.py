"""A customer's e-mail as a record: what goes into cleaning, training and serving."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mailtriage.errors import InvalidMail


@dataclass(frozen=True, slots=True)
class Email:
    """One mail. `body` is the decoded text of the mail, plain or HTML, as the client sent it.

    `labels` maps a task to a label id; a task that is missing or `None` was not labelled. Mails with the same
    `thread_id` stand on one side of a split; nothing else reads it. `attachments` counts the files that came with it,
    `None` where nobody counted; only evaluation reads it. `notes` say what reading left alone, and are for a person.
    """

    id: str
    subject: str = ""
    body: str = ""
    received_at: datetime | None = None
    custodian_bank: str | None = None
    labels: Mapping[str, str | None] = field(default_factory=dict)
    thread_id: str | None = None
    attachments: int | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def from_record(cls, record: object, tasks: Iterable[str] = ()) -> Email:
        """Read a JSON object; other keys than ours and `tasks` are ignored.

        Raises:
            InvalidMail: the record is no object, a field has the wrong type, or there is no text at all.
        """
        if not isinstance(record, Mapping):
            raise InvalidMail("wrong_type", f"expected an object, found {_json_type(record)}")
        subject = _text(record, "subject")
        body = _text(record, "body")
        if not subject.strip() and not body.strip():
            raise InvalidMail("no_text", "expected a text in 'subject' or 'body', found none")
        return cls(
            id=_identifier(record),
            subject=subject,
            body=body,
            received_at=_time(record),
            custodian_bank=_text(record, "custodian_bank").strip() or None,
            labels={task: _text(record, task).strip() or None for task in tasks if task in record},
            thread_id=_thread(record),
            attachments=_attachments(record.get("attachments")),
        )

    def to_record(self) -> dict[str, Any]:
        """The JSON object that `from_record` reads."""
        record: dict[str, Any] = {"id": self.id, "subject": self.subject, "body": self.body}
        if self.received_at is not None:
            record["received_at"] = self.received_at.isoformat()
        if self.custodian_bank is not None:
            record["custodian_bank"] = self.custodian_bank
        if self.attachments is not None:
            record["attachments"] = self.attachments
        if self.thread_id is not None:
            record["thread_id"] = self.thread_id
        return record | dict(self.labels)


def _identifier(record: Mapping[str, Any]) -> str:
    value = record.get("id")
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InvalidMail("wrong_type", f"expected 'id' to be a text, found {_json_type(value)}")
    return str(value)


def _thread(record: Mapping[str, Any]) -> str | None:
    """A text or a number; anything else is no thread and no reason to refuse a mail, as with keys that are not ours."""
    value = record.get("thread_id")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = str(value).strip().encode("utf-8", "replace").decode("utf-8")
    return None if text in ("", "nan") else text  # the second is a number that a table lacks


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidMail("wrong_type", f"expected '{key}' to be a text, found {_json_type(value)}")
    return value


def _time(record: Mapping[str, Any]) -> datetime | None:
    value = record.get("received_at")
    if value is None or value == "" or isinstance(value, datetime):
        return value or None
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise InvalidMail(
            "wrong_type", "expected 'received_at' to be a time such as 2026-11-01T09:30:00+01:00, found another text"
        ) from None


def _attachments(value: object) -> int | None:
    """A count, also as a CSV holds it, or a list of files; whatever else stands under this name says nothing."""
    if isinstance(value, list | tuple):
        return len(value)
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 10:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _json_type(value: object) -> str:
    names = {
        type(None): "nothing",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
    }
    return names.get(type(value), "an object" if isinstance(value, Mapping) else type(value).__name__)
