"""JSON bodies, read strictly; what cannot be read is never quoted."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import orjson

from serving.refusals import bad_request


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
