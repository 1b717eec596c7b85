"""The transformer's connection to its predictor, against a server that breaks connections on purpose."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from serving.predictor_client import PredictorClient
from serving.refusals import Refused
from serving.routes import BUNDLE_DIGEST, JSON_LENGTH

DIGEST = "d" * 64
IDS = np.ones((1, 4), dtype=np.int64)


class Flaky:
    """Answers requests, and closes the connection instead where it is told to."""

    def __init__(self, breaks: set[int]) -> None:
        self.breaks = breaks
        self.requests = 0
        self.connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await self._head(reader):
                self.requests += 1
                await reader.readexactly(int(head["content-length"]))
                if self.requests in self.breaks:
                    return
                writer.write(_answer())
                await writer.drain()
        finally:
            writer.close()

    async def _head(self, reader: asyncio.StreamReader) -> dict[str, str]:
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:]
        except asyncio.IncompleteReadError:
            return {}
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines) if name}


def _answer() -> bytes:
    values = np.asarray([[0.25, 0.75]], dtype=np.float32)
    output = {"name": "topic", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": values.nbytes}}
    head = json.dumps({"outputs": [output]}).encode()
    body = head + values.tobytes()
    headers = f"{JSON_LENGTH}: {len(head)}\r\n{BUNDLE_DIGEST}: {DIGEST}\r\n"
    return f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


def asked(server: Flaky, times: int) -> list[list[list[float]]]:
    """Ask so many times over one client, one after the other."""

    async def run() -> list[list[list[float]]]:
        listening = await asyncio.start_server(server, "127.0.0.1", 0)
        client = PredictorClient(f"127.0.0.1:{listening.sockets[0].getsockname()[1]}", "mailtriage", "1", DIGEST)
        try:
            return [(await client.forward(IDS, IDS, 5.0, f"request-{n}"))["topic"].tolist() for n in range(times)]
        finally:
            await client.close()
            listening.close()

    return asyncio.run(run())


def test_requests_share_a_connection() -> None:
    server = Flaky(breaks=set())

    assert asked(server, 3) == [[[0.25, 0.75]]] * 3

    assert (server.requests, server.connections) == (3, 1)


def test_a_request_whose_connection_dies_is_sent_once_more() -> None:
    server = Flaky(breaks={2})

    assert asked(server, 2) == [[[0.25, 0.75]]] * 2

    assert (server.requests, server.connections) == (3, 2)


def test_one_whose_connection_dies_twice_is_refused_so_that_the_client_may_try_again() -> None:
    server = Flaky(breaks={1, 2})

    with pytest.raises(Refused) as refused:
        asked(server, 1)

    assert (refused.value.status, refused.value.code, refused.value.retry_after) == (503, "predictor_unavailable", 1)
    assert server.requests == 2
