"""`Idempotency-Key`: the same key and content get the same answer, and two that come together share one computation.

The answers live in this process, for a while and up to a size: with several replicas a repeated request may meet one
that computes it anew.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.metrics import IDEMPOTENT_REPLAYS
from serving.refusals import Refused, bad_request
from serving.routes import CLIENT, IDEMPOTENCY_KEY, JSON_LENGTH, REPLAYED

KEEP_SECONDS = 600.0
KEEP_BYTES = 32 * 2**20
LONGEST_KEY = 128


@dataclass(eq=False, slots=True)
class _Entry:
    """One key: what its request held, and its answer once it is there."""

    fingerprint: bytes
    done: asyncio.Event = field(default_factory=asyncio.Event)
    messages: list[Message] = field(default_factory=list)
    expires: float = 0.0

    @property
    def size(self) -> int:
        return 256 + sum(len(message.get("body", b"")) for message in self.messages)


class Idempotency:
    """ASGI middleware for POST requests with the header `Idempotency-Key`; others pass.

    Only answers of status 200 are kept: whoever was refused should try again. A key belongs to a client and a route.
    """

    def __init__(self, app: ASGIApp, *, keep_seconds: float = KEEP_SECONDS, keep_bytes: int = KEEP_BYTES) -> None:
        self._app = app
        self._keep_seconds = keep_seconds
        self._keep_bytes = keep_bytes
        self._entries: OrderedDict[tuple[str, str, str], _Entry] = OrderedDict()
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = _header(scope, IDEMPOTENCY_KEY) if scope["type"] == "http" and scope["method"] == "POST" else None
        if key is None:
            await self._app(scope, receive, send)
            return
        if not 0 < len(key) <= LONGEST_KEY or not key.isascii() or not key.isprintable():
            raise bad_request("bad_idempotency_key", f"expected 1 to {LONGEST_KEY} printable characters as the key")
        body = await _read(receive)
        place = (_header(scope, CLIENT) or "", scope["path"], key)
        fingerprint = _fingerprint(scope, body)
        while (entry := self._find(place)) is not None:
            if entry.fingerprint != fingerprint:
                raise Refused(
                    HTTPStatus.UNPROCESSABLE_ENTITY,
                    "idempotency_conflict",
                    f"the '{IDEMPOTENCY_KEY}' of this request belongs to another content; send another key",
                )
            await entry.done.wait()
            if entry.messages:
                IDEMPOTENT_REPLAYS.inc()
                await _replay(entry.messages, send)
                return
            # The first one was cancelled, so this one takes its place.
        await self._compute(place, fingerprint, scope, _replaying(body, receive), send)

    async def _compute(
        self, place: tuple[str, str, str], fingerprint: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        entry = self._entries[place] = _Entry(fingerprint)
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(_copy(message))
            if message["type"] == "http.response.body" and not message.get("more_body"):
                entry.messages = messages
                self._settle(place, entry)
            await send(message)

        try:
            await self._app(scope, receive, keep)
        finally:
            if not entry.done.is_set():
                self._entries.pop(place, None)
                entry.done.set()

    def _settle(self, place: tuple[str, str, str], entry: _Entry) -> None:
        """Keep a whole answer, or hand one that refuses to those who wait, and forget it."""
        if entry.messages[0]["status"] == HTTPStatus.OK:
            entry.expires = time.monotonic() + self._keep_seconds
            self._bytes += entry.size
            self._entries.move_to_end(place)
        else:
            self._entries.pop(place, None)
        entry.done.set()
        self._forget()

    def _find(self, place: tuple[str, str, str]) -> _Entry | None:
        self._forget()
        return self._entries.get(place)

    def _forget(self) -> None:
        """Drop what is over, and the oldest answers while all of them take too much; never one being computed."""
        now = time.monotonic()
        for place, entry in list(self._entries.items()):
            if entry.done.is_set() and (entry.expires <= now or self._bytes > self._keep_bytes):
                self._bytes -= self._entries.pop(place).size
            elif entry.done.is_set():
                break  # the rest is younger


def _header(scope: Scope, name: str) -> str | None:
    wanted = name.encode()
    return next((value.decode("latin-1") for key, value in scope["headers"] if key.lower() == wanted), None)


def _fingerprint(scope: Scope, body: bytes) -> bytes:
    digest = hashlib.sha256(body)
    for name in ("content-type", JSON_LENGTH):
        digest.update(f"\0{_header(scope, name) or ''}".encode())
    return digest.digest()


async def _read(receive: Receive) -> bytes:
    chunks = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError
        chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(chunks)


def _replaying(body: bytes, receive: Receive) -> Receive:
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> MutableMapping[str, Any]:
        return waiting.pop() if waiting else await receive()

    return replay


def _copy(message: Mapping[str, Any]) -> Message:
    """Without the lists that other middleware adds headers to."""
    return {name: list(value) if isinstance(value, list) else value for name, value in message.items()}


async def _replay(messages: list[Message], send: Send) -> None:
    for message in messages:
        again = _copy(message)
        if again["type"] == "http.response.start":
            again["headers"] = [*again.get("headers", ()), (REPLAYED.encode(), b"true")]
        await send(again)
