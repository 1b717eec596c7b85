"""Tensors of the V2 inference protocol: reading them strictly, and mails and answers as columns.

in   one BYTES tensor a field, each of shape (mails,): id, subject, body, custodian_bank, received_at
out  id, decision, a label and a confidence a task, and `prediction`: each mail's whole V1 answer as JSON text
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from kserve import InferInput, InferOutput, InferRequest, InferResponse
from kserve.protocol.infer_type import RequestedOutput

from serving.json_body import read_json_object
from serving.mail_requests import FIELDS
from serving.refusals import bad_request, too_many_mails
from serving.routes import JSON_LENGTH

REQUIRED = ("id", "body")


def read_binary_request(body: bytes, headers: Mapping[str, str], model_name: str) -> InferRequest:
    """A V2 request whose tensors follow its JSON (the binary tensor data extension); they are views, not copies.

    Raises:
        Refused: 400, sizes, shapes or types do not fit.
    """
    length = headers.get(JSON_LENGTH, "")
    if not length.isdigit() or int(length) > len(body):
        raise bad_request("wrong_length", f"expected the header '{JSON_LENGTH}' to be the length of the JSON part")
    content = read_json_object(body[: int(length)])
    try:
        return _binary_request(content, memoryview(body), int(length), model_name)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise bad_request("wrong_type", "expected a V2 inference request with binary tensors") from None


def _binary_request(content: Mapping[str, Any], body: memoryview, start: int, model_name: str) -> InferRequest:
    inputs = []
    for given in content["inputs"]:
        tensor = InferInput(str(given["name"]), [int(size) for size in given["shape"]], str(given["datatype"]))
        size = (given.get("parameters") or {}).get("binary_data_size")
        if size is None:
            tensor.data = list(given["data"])
        elif not 0 <= size <= len(body) - start:
            raise bad_request("wrong_length", "a tensor is longer than the body")
        else:
            tensor._raw_data = body[start : start + size]
            start += size
        inputs.append(tensor)
    wanted = [RequestedOutput(str(output["name"]), output.get("parameters")) for output in content.get("outputs") or ()]
    parameters = content.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise bad_request("wrong_type", "expected 'parameters' to be an object")
    return InferRequest(model_name, inputs, content.get("id"), parameters=parameters, request_outputs=wanted or None)


def read_numbers(tensor: InferInput, datatype: str) -> np.ndarray[Any, Any]:
    """The values of a number tensor in its shape.

    Raises:
        Refused: 400, another datatype, or values that do not fit datatype and shape.
    """
    if tensor.datatype != datatype:
        raise bad_request("wrong_type", f"expected tensor '{tensor.name[:64]}' to be {datatype}")
    misfit = bad_request("wrong_shape", f"the values of '{tensor.name[:64]}' do not fit its datatype and shape")
    if any(size < 0 for size in tensor.shape):
        raise misfit
    try:
        values: np.ndarray[Any, Any] = tensor.as_numpy()
    except (ValueError, TypeError, OverflowError):
        raise misfit from None
    return values


def read_texts(tensor: InferInput) -> list[Any]:
    """The elements of a BYTES tensor as `str`; one that is no UTF-8 stays `bytes`, for its record to be refused.

    Raises:
        Refused: 400, another datatype, or another number of elements than the shape says.
    """
    name = tensor.name[:64]
    if tensor.datatype != "BYTES":
        raise bad_request("wrong_type", f"expected tensor '{name}' to be BYTES")
    values = _flat(tensor.data) if tensor._raw_data is None else _length_prefixed(tensor._raw_data, name)
    if len(values) != int(np.prod([max(size, 0) for size in tensor.shape], dtype=np.int64)):
        raise bad_request("wrong_shape", f"tensor '{name}' has another number of elements than its shape says")
    return [_text(value) for value in values]


def _flat(data: Any) -> list[Any]:
    values: list[Any] = []
    for value in data or ():
        values += value if isinstance(value, list) else [value]
    return values


def _length_prefixed(raw: bytes | memoryview, name: str) -> list[bytes]:
    values, start = [], 0
    while start < len(raw):
        if start + 4 > len(raw):
            raise bad_request("wrong_length", f"tensor '{name}' ends within an element")
        (size,) = struct.unpack_from("<I", raw, start)
        start += 4
        if start + size > len(raw):
            raise bad_request("wrong_length", f"tensor '{name}' ends within an element")
        values.append(bytes(raw[start : start + size]))
        start += size
    return values


def _text(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def mail_records(request: InferRequest, max_mails: int) -> list[dict[str, Any]]:
    """The records of a V2 request with one tensor a field.

    Raises:
        Refused: 400, tensors are missing, unknown or of different sizes; 413, they hold more than `max_mails` mails.
    """
    names = [tensor.name for tensor in request.inputs]
    unknown = sum(name not in FIELDS for name in names)
    if unknown or len(set(names)) != len(names):
        raise bad_request("unknown_tensor", f"expected at most one tensor of each of {', '.join(FIELDS)}")
    for name in REQUIRED:
        if name not in names:
            raise bad_request("missing_tensor", f"expected the tensor '{name}'")
    columns = {tensor.name: read_texts(tensor) for tensor in request.inputs}
    sizes = {len(column) for column in columns.values()}
    if max(sizes) > max_mails:
        raise too_many_mails(max(sizes), max_mails)
    if len(sizes) != 1:
        raise bad_request("wrong_shape", "expected all tensors to have one element a mail")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def answer_types(tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Names and types of the answer's tensors."""
    texts = ("id", "decision", *tasks, "prediction")
    outputs = [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in texts]
    return outputs + [{"name": f"{task}_confidence", "datatype": "FP32", "shape": [-1]} for task in tasks]


def mail_answer(
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
    columns = {
        "id": _texts([answer["id"] or "" for answer in answers]),
        "decision": _texts([answer.get("decision", "error") for answer in answers]),
        **{task: _texts([score.get("label", "") for score in scores[task]]) for task in tasks},
        "prediction": _texts([orjson.dumps(answer).decode() for answer in answers]),
    }
    for task in tasks:
        confidences = [score.get("confidence", 0.0) for score in scores[task]]
        columns[f"{task}_confidence"] = np.asarray(confidences, dtype=np.float32)
    return tensor_answer(request, columns, request_id, parameters)


def tensor_answer(
    request: InferRequest, columns: Mapping[str, np.ndarray[Any, Any]], request_id: str, parameters: Mapping[str, str]
) -> InferResponse:
    """A V2 answer: float arrays become FP32 tensors, arrays of texts BYTES, binary where the request wants that."""
    outputs = []
    for name, values in columns.items():
        datatype = "BYTES" if values.dtype == np.object_ else "FP32"
        outputs.append(InferOutput(name, list(values.shape), datatype, data=np.ascontiguousarray(values)))
        if request.from_grpc:  # KServe 0.21 stumbles over arrays on the way to gRPC
            outputs[-1].set_data_from_numpy(outputs[-1].data, binary_data=True)
    return InferResponse(
        request.id or request_id,
        request.model_name,
        outputs,
        model_version=parameters.get("model_version"),
        parameters=dict(parameters),
        use_binary_outputs=bool(request.use_binary_outputs),
        requested_outputs=request.request_outputs,
    )


def _texts(values: Sequence[str]) -> np.ndarray[Any, Any]:
    tensor = np.empty(len(values), dtype=np.object_)
    tensor[:] = values
    return tensor
