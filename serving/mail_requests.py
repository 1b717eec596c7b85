"""Records of a request in, one answer a record out: `{"instances": [...]}` becomes `{"predictions": [...]}`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mailtriage.errors import InvalidMail
from mailtriage.inference import Prediction
from mailtriage.mail import Email
from serving.metrics import MAILS, REFUSED_RECORDS
from serving.refusals import bad_request, too_many_mails

EXPLAINED_MAILS = 8  # of one request for explanations: each of them takes up to 130 forward passes
FIELDS = ("id", "subject", "body", "custodian_bank", "received_at")


@dataclass(frozen=True, slots=True)
class MailRequest:
    """A request's usable mails, where they stood in it, and the answers of the records that cannot be used."""

    mails: tuple[Email, ...]
    positions: tuple[int, ...]
    refused: Mapping[int, dict[str, Any]]

    @property
    def size(self) -> int:
        return len(self.mails) + len(self.refused)

    def answers(self, predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """One object a record, in the request's order."""
        return self.in_order([prediction.to_record() for prediction in predictions])

    def in_order(self, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The usable mails' objects, and the errors of the others in their places."""
        answers = dict(self.refused)
        answers.update(zip(self.positions, records, strict=True))
        return [answers[position] for position in range(self.size)]


def read_instances(payload: Any) -> list[Any]:
    """The records of a V1 body.

    Raises:
        Refused: 400, it has no list `instances`.
    """
    instances = payload.get("instances") if isinstance(payload, Mapping) else None
    if not isinstance(instances, list):
        raise bad_request("no_instances", "expected 'instances' to be a list of mails")
    return instances


def read_mails(records: Sequence[Any], max_mails: int) -> MailRequest:
    """Records as mails; one that is no mail gets its error object here.

    Raises:
        Refused: 413, there are more than `max_mails`.
    """
    if len(records) > max_mails:
        raise too_many_mails(len(records), max_mails)
    mails, positions, refused = [], [], {}
    for position, record in enumerate(records):
        try:
            mails.append(_encodable_mail(Email.from_record(record)))
            positions.append(position)
        except InvalidMail as error:
            REFUSED_RECORDS.labels(error.code).inc()
            MAILS.labels("error").inc()
            refused[position] = {"id": _identifier(record), "error": {"code": error.code, "message": str(error)}}
    return MailRequest(tuple(mails), tuple(positions), refused)


def _encodable_mail(mail: Email) -> Email:
    """Half a surrogate pair cannot leave as UTF-8: it becomes a question mark, as the tokenizer reads it."""
    changed = {
        name: text.encode("utf-8", "replace").decode("utf-8")
        for name in ("id", "subject", "body", "custodian_bank")
        if (text := getattr(mail, name)) is not None and not _is_encodable(text)
    }
    return dataclasses.replace(mail, **changed) if changed else mail


def _is_encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _identifier(record: Any) -> str | None:
    value = record.get("id") if isinstance(record, Mapping) else None
    usable = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value).encode("utf-8", "replace").decode("utf-8") if usable else None
