"""A transformer with more to do than it may: what it refuses, it refuses unread."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from serving.supervisor import free_port

ROOT = Path(__file__).resolve().parents[2]
PREDICT = "/v1/models/mailtriage:predict"
MAILS = 256


async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A predictor that takes requests and never answers."""
    while await reader.read(65536):
        pass
    writer.close()


async def wait_for(client: httpx.AsyncClient, metric: str, value: float) -> None:
    """Until the transformer is there and its metrics say so."""
    for _ in range(600):
        try:
            lines = (await client.get("/metrics")).text.splitlines()
        except httpx.TransportError:
            lines = []
        if f"{metric} {value}" in lines:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{metric} is not {value}")


async def until_refused(client: httpx.AsyncClient) -> httpx.Response:
    """The answer to what is no JSON, once the transformer has seen for a moment that nothing is finished."""
    headers = {"content-type": "application/json", "x-request-id": "late"}
    for _ in range(100):
        answer = await client.post(PREDICT, content=b"{no JSON", headers=headers)
        if answer.status_code != 400:
            break
        await asyncio.sleep(0.1)
    return answer


async def overload(bundle: Path) -> list[httpx.Response]:
    """A request's answer; while more is in work than may be, the same again, one that is no JSON, and health."""
    predictor = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = free_port("127.0.0.1")
    command = [sys.executable, "-m", "serving", "transformer", "--bundle", str(bundle), "--http-port", str(port)]
    command += ["--predictor-host", f"127.0.0.1:{predictor.sockets[0].getsockname()[1]}", "--request-timeout", "120"]
    transformer = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    held: list[asyncio.Task[Any]] = []
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
            await wait_for(client, "mailtriage_in_flight_mails", 0.0)
            empty = [{"id": "empty", "subject": "Re: ", "body": "<p>&nbsp;</p>"}]  # nothing for the predictor
            kept = {"json": {"instances": empty}, "headers": {"idempotency-key": "kept"}}
            first = await client.post(PREDICT, **kept)
            mails = [{"id": str(number), "body": "Bitte das Depot übertragen."} for number in range(MAILS)]
            held.append(asyncio.ensure_future(client.post(PREDICT, json={"instances": mails})))
            await wait_for(client, "mailtriage_in_flight_mails", float(MAILS))
            refused = await until_refused(client)
            return [first, await client.post(PREDICT, **kept), refused, await client.get("/v2/health/live")]
    finally:
        transformer.kill()
        transformer.wait()
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        predictor.close()
        await asyncio.sleep(0.1)  # its connections end with the transformer


def test_too_much_is_refused_before_it_is_parsed_and_kept_answers_are_still_given(bundle_path: Path) -> None:
    first, again, refused, live = asyncio.run(overload(bundle_path))

    assert first.status_code == again.status_code == live.status_code == 200
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["x-request-id"] == "late"
