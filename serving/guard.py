"""What every request passes before KServe sees it: routes, media type, size, request id, access log, cancellation.

KServe's server has no body limit, echoes and logs what it cannot parse, offers routes that unload the model, and
works on for a client that has gone away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import nullcontext
from contextvars import ContextVar
from email.message import Message
from http import HTTPStatus
from typing import Any

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.metrics import REQUEST_SECONDS, REQUESTS
from serving.refusals import Refused, body_too_large, unavailable, unsupported
from serving.routes import (
    BINARY,
    BUNDLE_DIGEST,
    CLIENT,
    JSON_LENGTH,
    REQUEST_ID,
    REQUEST_ID_CHARACTERS,
    REQUEST_ID_LENGTH,
    Route,
    routes,
)
from serving.tracing import server_span, trace_id

logger = logging.getLogger("serving.access")

CLIENT_CLOSED_REQUEST = 499  # nginx's number: nobody reads this answer

_request_fields: ContextVar[dict[str, Any] | None] = ContextVar("request_fields", default=None)
_SAFE_ID = re.compile(f"{REQUEST_ID_CHARACTERS}{{1,{REQUEST_ID_LENGTH}}}")


def note(**fields: Any) -> None:
    """Add fields to the access log line of the current request."""
    current = _request_fields.get()
    if current is not None:
        current.update(fields)


class Guard:
    """ASGI middleware.

    Args:
        app: what is guarded.
        model: the model's name in the routes.
        max_body: bytes that a request may have.
        body_timeout: seconds in which a body must have arrived.
        answer_headers: headers of every answer.

    Where the answers name a bundle, a request that names another is refused, on a connection that is then closed:
    behind a balancer the next one may lead to the right server.
    """

    def __init__(
        self, app: ASGIApp, *, model: str, max_body: int, body_timeout: float, answer_headers: Mapping[str, str]
    ) -> None:
        self._app = app
        self._routes = {(route.method, route.path): route for route in routes(model)}
        self._methods: dict[str, list[str]] = {}
        for route in self._routes.values():
            self._methods.setdefault(route.path, []).append(route.method)
        self._max_body = max_body
        self._body_timeout = body_timeout
        self._bundle = answer_headers.get(BUNDLE_DIGEST, "")
        self._answer_headers = [(name.encode(), value.encode()) for name, value in answer_headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send, self._answer_headers)
        token = _request_fields.set(exchange.fields)
        try:
            route = self._route(scope)
            exchange.route = route.path
            body = await self._body(route, exchange.headers, receive)
            self._check_bundle(exchange.headers)
            with server_span(f"{route.method} {route.path}", exchange.headers) if body else nullcontext():
                note(**({"trace_id": trace} if (trace := trace_id()) else {}))
                await _run_while_connected(self._app, scope, body, receive, exchange.send)
        except Refused as refused:
            await exchange.refuse(refused)
        except _ClientGone:
            exchange.status = CLIENT_CLOSED_REQUEST
        except Exception:
            logger.exception("a request failed", extra={"fields": exchange.fields})
            await exchange.refuse(_internal())
        finally:
            _request_fields.reset(token)
            exchange.close()

    def _route(self, scope: Scope) -> Route:
        route = self._routes.get((scope["method"], scope["path"]))
        if route is not None:
            return route
        methods = self._methods.get(scope["path"])
        if methods is None:
            raise Refused(HTTPStatus.NOT_FOUND, "not_found", "there is no such route")
        allow = ", ".join(methods)
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", f"this route takes {allow}", allow=allow)

    def _check_bundle(self, headers: Mapping[str, str]) -> None:
        wanted = headers.get(BUNDLE_DIGEST, "")
        if self._bundle and wanted and wanted != self._bundle:
            raise unavailable("bundle_mismatch", "this server has another bundle", close=True)

    async def _body(self, route: Route, headers: Mapping[str, str], receive: Receive) -> bytes:
        if not route.media_types:
            return b""
        _check_media_type(route, headers)
        if headers.get("content-length", "").isdigit() and int(headers["content-length"]) > self._max_body:
            raise body_too_large(self._max_body)
        try:
            async with asyncio.timeout(self._body_timeout):
                return await self._read(receive)
        except TimeoutError:
            raise Refused(
                HTTPStatus.REQUEST_TIMEOUT, "slow_body", f"the body did not arrive within {self._body_timeout:g} s"
            ) from None

    async def _read(self, receive: Receive) -> bytes:
        chunks, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientGone
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self._max_body:
                raise body_too_large(self._max_body)
            if not message.get("more_body"):
                return b"".join(chunks)


class _ClientGone(Exception):
    """The client closed the connection before it had its answer."""


class _Exchange:
    """One request and its answer, as far as headers, log and metrics go."""

    def __init__(self, scope: Scope, send: Send, answer_headers: list[tuple[bytes, bytes]]) -> None:
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        self.request_id = _usable_id(self.headers.get(REQUEST_ID, ""))
        # KServe hands the headers to the model, which passes the id on to the predictor.
        scope["headers"] = [pair for pair in scope["headers"] if pair[0].lower() != REQUEST_ID.encode()]
        scope["headers"].append((REQUEST_ID.encode(), self.request_id.encode()))
        self.method = scope["method"]
        self.route = "other"
        self.status = 0
        self.fields: dict[str, Any] = {}
        self._answer_headers = [*answer_headers, (REQUEST_ID.encode(), self.request_id.encode())]
        self._send = send
        self._started = time.perf_counter()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), *self._answer_headers]
            names = {name.lower() for name, _ in headers}
            if JSON_LENGTH.encode() in names and b"content-type" not in names:  # KServe names none for binary tensors
                headers.append((b"content-type", BINARY.encode()))
            message["headers"] = headers
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        self.fields["refused"] = refused.code
        if self.status:  # the answer has begun: the connection ends here, which the client can tell from a whole one
            return
        content = orjson.dumps(refused.body)
        headers = {"content-type": "application/json", "content-length": str(len(content)), **refused.headers}
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        with contextlib.suppress(OSError):
            await self.send({"type": "http.response.start", "status": refused.status.value, "headers": pairs})
            await self.send({"type": "http.response.body", "body": content})

    def close(self) -> None:
        seconds = time.perf_counter() - self._started
        method = self.method if self.method.isalpha() else ""
        quiet = self.method == "GET" and self.status < 500
        _log_and_count(self.headers, self.request_id, method, self.route, self.status, seconds, self.fields, quiet)


@contextlib.contextmanager
def guarded_call(route: str, headers: dict[str, str]) -> Iterator[None]:
    """Log and count a gRPC call as `Guard` does a request; its status is the one that REST would give.

    `headers` are the call's metadata; a request id that is missing or unusable is replaced in them.

    Raises:
        Refused: what is not refused already, but failed, without a word of the failure.
    """
    headers[REQUEST_ID] = request_id = _usable_id(headers.get(REQUEST_ID, ""))
    fields: dict[str, Any] = {}
    began, status = time.perf_counter(), int(HTTPStatus.OK)
    token = _request_fields.set(fields)
    try:
        yield
    except asyncio.CancelledError:
        status = CLIENT_CLOSED_REQUEST
        raise
    except Refused as refused:
        status, fields["refused"] = refused.status, refused.code
        raise
    except Exception:
        internal = _internal()
        status, fields["refused"] = internal.status, internal.code
        logger.exception("a request failed", extra={"fields": fields})
        raise internal from None
    finally:
        _request_fields.reset(token)
        _log_and_count(headers, request_id, "POST", route, int(status), time.perf_counter() - began, fields)


def _usable_id(given: str) -> str:
    return given if _SAFE_ID.fullmatch(given) else uuid.uuid4().hex


def _internal() -> Refused:
    return Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "this is our fault; see the log")


def _log_and_count(
    headers: Mapping[str, str],
    request_id: str,
    method: str,
    route: str,
    status: int,
    seconds: float,
    fields: Mapping[str, Any],
    quiet: bool = False,
) -> None:
    REQUESTS.labels(route, str(status)).inc()
    REQUEST_SECONDS.labels(route).observe(seconds)
    line = {
        "request_id": request_id,
        "client": headers.get(CLIENT, "")[:64],
        "method": method,
        "route": route,
        "status": status,
        "ms": round(seconds * 1000, 2),
        **fields,
    }
    logger.log(logging.DEBUG if quiet else logging.INFO, "request", extra={"fields": line})


async def _run_while_connected(app: ASGIApp, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """Run the application on a body that is here already, and cancel it when the client goes away."""
    replayed = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal replayed
        if not replayed:
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    work = asyncio.ensure_future(app(scope, replay, send))
    watch = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise _ClientGone
        await work
    finally:
        for task in (work, watch):
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _check_media_type(route: Route, headers: Mapping[str, str]) -> None:
    encoding = headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise unsupported("bodies must not be compressed; send them without 'Content-Encoding'")
    header = Message()
    header["content-type"] = headers.get("content-type", "")
    if not headers.get("content-type") or header.get_content_type() not in route.media_types:
        raise unsupported(f"expected 'Content-Type: {' or '.join(route.media_types)}'")
    if str(header.get_param("charset", "utf-8")).lower() not in ("utf-8", "utf8"):
        raise unsupported("expected a body in UTF-8")
