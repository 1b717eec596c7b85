"""Mails in, answers out, in KServe's two protocols.

V1: `{"instances": [{"id", "subject", "body", "custodian_bank"}, ...]}` becomes `{"predictions": [...]}`.
V2: one BYTES tensor a field, each of shape (mails,), becomes one tensor a column of the answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from kserve import InferOutput, InferRequest, InferResponse

from mailtriage.errors import InvalidMail
from mailtriage.inference import Prediction
from mailtriage.mail import Email
from serving.dataplane import read_texts
from serving.metrics import MAILS, REFUSED_RECORDS
from serving.refusals import bad_request, too_many_mails

FIELDS = ("id", "subject", "body", "custodian_bank", "received_at")
REQUIRED_TENSORS = ("id", "body")


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
        answers = dict(self.refused)
        for position, prediction in zip(self.positions, predictions, strict=True):
            answers[position] = prediction.to_record()
        return [answers[position] for position in range(self.size)]


def read_request(payload: Any, max_mails: int) -> MailRequest:
    """Read a V1 object or a V2 request.

    Raises:
        Refused: 400, the request has not the shape of its protocol; 413, it holds more than `max_mails` mails.
    """
    records = _records_of_tensors(payload, max_mails) if isinstance(payload, InferRequest) else _instances(payload)
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


def _instances(payload: Any) -> list[Any]:
    instances = payload.get("instances") if isinstance(payload, Mapping) else None
    if not isinstance(instances, list):
        raise bad_request("no_instances", "expected 'instances' to be a list of mails")
    return instances


def _records_of_tensors(request: InferRequest, max_mails: int) -> list[dict[str, Any]]:
    names = [tensor.name for tensor in request.inputs]
    unknown = sum(name not in FIELDS for name in names)
    if unknown or len(set(names)) != len(names):
        raise bad_request("unknown_tensor", f"expected at most one tensor of each of {', '.join(FIELDS)}")
    for name in REQUIRED_TENSORS:
        if name not in names:
            raise bad_request("missing_tensor", f"expected the tensor '{name}'")
    columns = {tensor.name: read_texts(tensor) for tensor in request.inputs}
    sizes = {len(column) for column in columns.values()}
    if max(sizes) > max_mails:
        raise too_many_mails(max(sizes), max_mails)
    if len(sizes) != 1:
        raise bad_request("wrong_shape", "expected all tensors to have one element a mail")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


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


def v1_answer(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"predictions": list(answers)}


def v2_outputs(tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Names and types of the answer's tensors."""
    texts = ("id", "decision", *tasks, "prediction")
    outputs = [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in texts]
    return outputs + [{"name": f"{task}_confidence", "datatype": "FP32", "shape": [-1]} for task in tasks]


def v2_answer(
    request: InferRequest,
    answers: Sequence[Mapping[str, Any]],
    tasks: Sequence[str],
    request_id: str,
    **parameters: str,
) -> InferResponse:
    """One tensor a column; `prediction` holds each mail's whole V1 object as JSON text.

    A record that cannot be used has decision `error`, empty labels and confidence 0.
    """
    scores = {task: [answer.get("labels", {}).get(task, {}) for answer in answers] for task in tasks}
    outputs = [
        _texts("id", [answer["id"] or "" for answer in answers]),
        _texts("decision", [answer.get("decision", "error") for answer in answers]),
        *(_texts(task, [score.get("label", "") for score in scores[task]]) for task in tasks),
        _texts("prediction", [orjson.dumps(answer).decode() for answer in answers]),
    ]
    for task in tasks:
        values = np.asarray([score.get("confidence", 0.0) for score in scores[task]], dtype=np.float32)
        outputs.append(InferOutput(f"{task}_confidence", [len(values)], "FP32", data=values))
    return InferResponse(
        request.id or request_id,
        request.model_name,
        outputs,
        model_version=parameters.get("model_version"),
        parameters=dict(parameters),
        use_binary_outputs=bool(request.use_binary_outputs),
        requested_outputs=request.request_outputs,
    )


def _texts(name: str, values: Sequence[str]) -> InferOutput:
    tensor = np.empty(len(values), dtype=np.object_)
    tensor[:] = values
    return InferOutput(name, [len(values)], "BYTES", data=tensor)
