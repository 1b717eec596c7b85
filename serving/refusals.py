"""Answers that say no: one shape for every refused request, over REST and gRPC.

    {"error": {"code": "too_many_mails", "message": "...", "limit": 256}}

`code` is stable, for programs; the message is for people and never holds text of the request.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from grpc import StatusCode
from grpc_interceptor.exceptions import GrpcException

from serving.routes import API_KEY

GRPC_STATUS = {
    HTTPStatus.BAD_REQUEST: StatusCode.INVALID_ARGUMENT,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: StatusCode.INVALID_ARGUMENT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.UNPROCESSABLE_ENTITY: StatusCode.ALREADY_EXISTS,
    HTTPStatus.NOT_FOUND: StatusCode.NOT_FOUND,
    HTTPStatus.SERVICE_UNAVAILABLE: StatusCode.UNAVAILABLE,
}

OVERLOADED, TIMEOUT = "overloaded", "timeout"  # codes by which the transformer tells what the predictor can take


class Refused(GrpcException):
    """A request that is not answered, and why.

    Args:
        status: the HTTP status; gRPC gets the nearest of its own.
        code: short and stable, such as `not_json`.
        message: what was expected and what was found, without text of the request.
        retry_after: seconds after which a client may try again; becomes the header `Retry-After`.
        close: whether the connection is closed after the answer.
        allow: the methods of a route that was asked with another; becomes the header `Allow`.
        detail: further fields of the error object, such as `limit`.
    """

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        message: str,
        *,
        retry_after: int | None = None,
        close: bool = False,
        allow: str = "",
        **detail: Any,
    ) -> None:
        super().__init__(status_code=GRPC_STATUS.get(status, StatusCode.INTERNAL), details=message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.close = close
        self.allow = allow
        self.detail = detail

    @property
    def body(self) -> dict[str, Any]:
        return error_body(self.code, self.message, **self.detail)

    @property
    def headers(self) -> dict[str, str]:
        headers = {"retry-after": str(self.retry_after)} if self.retry_after is not None else {}
        headers |= {"connection": "close"} if self.close else {}
        return headers | ({"allow": self.allow} if self.allow else {})


def error_body(code: str, message: str, **detail: Any) -> dict[str, Any]:
    """The JSON object of a refused request."""
    return {"error": {"code": code, "message": message, **detail}}


def bad_request(code: str, message: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, code, message)


def unauthorized() -> Refused:
    return Refused(HTTPStatus.UNAUTHORIZED, "unauthorized", f"expected a valid key in the header '{API_KEY}'")


def unsupported(message: str) -> Refused:
    return Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)


def too_many_mails(found: int, limit: int) -> Refused:
    message = f"a request may hold {limit} mails, found {found}; send them in several requests"
    return Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_many_mails", message, limit=limit)


def body_too_large(limit: int) -> Refused:
    message = f"a request may have {limit} bytes; send the mails in several requests"
    return Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", message, limit=limit)


def unavailable(code: str, message: str, retry_after: int = 1, *, close: bool = False) -> Refused:
    return Refused(HTTPStatus.SERVICE_UNAVAILABLE, code, message, retry_after=retry_after, close=close)
