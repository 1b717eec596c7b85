"""KServe's data plane with strict reading, binary tensors that stay binary, and readiness that means it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import orjson
from kserve import InferInput, InferRequest
from kserve.errors import ModelNotFound
from kserve.model import BaseKServeModel
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.infer_type import RequestedOutput
from kserve.protocol.rest.v2_datamodels import InferenceRequest

from serving.refusals import bad_request

JSON_LENGTH = "inference-header-content-length"  # of the binary tensor data extension


class StrictDataPlane(DataPlane):
    """What KServe's own does, except that

    - a body that cannot be read is refused with 400 and never quoted;
    - `Content-Type: application/json; charset=utf-8` is JSON too;
    - CloudEvents are not read, so that no field of a mail can turn a request into one;
    - binary tensors are not turned into Python lists on the way;
    - readiness asks the models, and a request to a model that is not ready does not load it again.
    """

    def decode(
        self, body: Any, headers: Mapping[str, str], protocol_version: str = "v1", model_name: str | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if isinstance(body, InferRequest):
            return body, {}
        if isinstance(body, InferenceRequest):
            return InferRequest.from_inference_request(body, model_name), {}
        if protocol_version == "v2":
            return read_binary_request(body, headers, model_name or ""), {}
        return read_json_object(body), {}

    async def ready(self) -> bool:
        models = self.model_registry.get_models().values()
        return bool(models) and all([await model.healthy() for model in models])

    async def model_ready(self, model_name: str, disable_predictor_health_check: bool = False) -> bool:
        """For a request (`disable_predictor_health_check`) a loaded model is enough: its answer says the rest."""
        model = self.get_model_from_registry(model_name)
        return bool(model.ready) if disable_predictor_health_check else await model.healthy()

    async def get_model(self, name: str) -> BaseKServeModel:
        model: BaseKServeModel | None = self.model_registry.get_model(name)
        if model is None:
            raise ModelNotFound(name)
        return model

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        metadata: dict[str, Any] = await super().model_metadata(model_name)
        model = self.get_model_from_registry(model_name)
        return metadata | {"versions": [model.model_version], "platform": model.platform}


def read_json_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a V1 body.

    Raises:
        Refused: 400, the body is no JSON or no object.
    """
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        content = _read_with_lone_surrogates(body)
    if not isinstance(content, dict):
        raise bad_request("wrong_type", 'expected a JSON object such as {"instances": [...]}')
    return content


def _read_with_lone_surrogates(body: bytes) -> Any:
    """JSON may hold half of an escaped surrogate pair (a mail cut in the middle of an emoji), which orjson refuses."""
    if b"\\u" not in body:
        _not_json()
    try:
        return json.loads(body, parse_constant=lambda _: _not_json())
    except (ValueError, RecursionError):
        _not_json()


def _not_json(*_: object) -> NoReturn:
    raise bad_request("not_json", "the body is no JSON in UTF-8") from None


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
    try:
        return tensor.as_numpy()
    except (ValueError, TypeError, OverflowError):
        raise bad_request(
            "wrong_shape", f"the values of '{tensor.name[:64]}' do not fit its datatype and shape"
        ) from None


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
