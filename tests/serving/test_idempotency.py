"""`Idempotency-Key`: the ASGI middleware by itself, and the servers."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from serving.guard import Guard
from serving.idempotency import Idempotency

V1 = "/v1/models/mailtriage:predict"
MAILS = {"instances": [{"id": "m-1", "body": "Wo ist meine Dividende?"}]}


class Counting:
    """An application that counts what it computes, and can be held or told to refuse."""

    def __init__(self) -> None:
        self.computed = 0
        self.status = 200
        self.gate = asyncio.Event()
        self.gate.set()

    async def answer(self, request):
        await request.body()
        self.computed += 1
        number = self.computed
        await self.gate.wait()
        return JSONResponse({"number": number}, self.status)


def run(scenario, **limits):
    async def main():
        counting = Counting()
        inner = Starlette(routes=[Route(V1, counting.answer, methods=["POST"])])
        app = Guard(Idempotency(inner, **limits), model="mailtriage", max_body=10**6, body_timeout=5, answer_headers={})
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await scenario(counting, lambda key, content=MAILS, **headers: post(client, key, content, headers))

    return asyncio.run(main())


def post(client, key, content, headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(V1, json=content, headers={"idempotency-key": key} | named)


def test_the_same_key_and_content_are_computed_once():
    async def scenario(counting, ask):
        return [await ask("k"), await ask("k", x_request_id="second"), await ask("other")], counting.computed

    (first, again, other), computed = run(scenario)

    assert first.json() == again.json() == {"number": 1}
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["x-request-id"] == "second"
    assert other.json() == {"number": 2}
    assert computed == 2


def test_another_content_under_the_same_key_is_422():
    async def scenario(counting, ask):
        await ask("k")
        return await ask("k", {"instances": []}), await ask("k")

    refused, again = run(scenario)

    assert refused.status_code == 422
    assert refused.json()["error"]["code"] == "idempotency_conflict"
    assert again.json() == {"number": 1}


def test_keys_of_two_clients_are_two_keys():
    async def scenario(counting, ask):
        return [(await ask("k", x_client_id=name)).json()["number"] for name in ("crm", "archive", "crm")]

    assert run(scenario) == [1, 2, 1]


def test_requests_that_come_together_share_one_computation():
    async def scenario(counting, ask):
        counting.gate.clear()
        waiting = [asyncio.ensure_future(ask("k")) for _ in range(5)]
        conflict = asyncio.ensure_future(ask("k", {"instances": []}))
        await asyncio.sleep(0.1)
        counting.gate.set()
        return [answer.json() for answer in await asyncio.gather(*waiting)], (await conflict).status_code

    assert run(scenario) == ([{"number": 1}] * 5, 422)


def test_a_waiting_request_takes_over_from_one_that_was_cancelled():
    async def scenario(counting, ask):
        counting.gate.clear()
        first = asyncio.ensure_future(ask("k"))
        await asyncio.sleep(0.05)
        second = asyncio.ensure_future(ask("k"))
        await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.sleep(0.05)
        counting.gate.set()
        return (await second).json()

    assert run(scenario) == {"number": 2}


def test_a_refusal_is_not_kept():
    async def scenario(counting, ask):
        counting.status = 503
        refused = await ask("k")
        counting.status = 200
        return refused.status_code, (await ask("k")).json()

    assert run(scenario) == (503, {"number": 2})


def test_an_answer_is_forgotten_after_its_time():
    async def scenario(counting, ask):
        await ask("k")
        await asyncio.sleep(0.1)
        return (await ask("k", {"instances": []})).json()

    assert run(scenario, keep_seconds=0.05) == {"number": 2}


def test_the_oldest_answers_go_when_all_of_them_take_too_much():
    async def scenario(counting, ask):
        first = [(await ask(f"k-{number}")).json()["number"] for number in range(10)]
        return first, [(await ask(f"k-{number}")).json()["number"] for number in (9, 8, 0)]

    first, again = run(scenario, keep_bytes=3 * 300)

    assert first == list(range(1, 11))
    assert again == [10, 9, 11]


@pytest.mark.parametrize("key", ["", "x" * 129, "Schlüssel".encode("latin-1")])
def test_a_key_that_is_no_key_is_400(key):
    async def scenario(counting, ask):
        return await ask(key)

    answer = run(scenario)

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "bad_idempotency_key"


def test_the_servers_answer_a_repeated_request_alike(stack):
    with stack.client(**{"idempotency-key": "case-1"}) as client:
        first, again = (client.post(V1, json=MAILS) for _ in range(2))
        conflict = client.post(V1, json={"instances": []})

    assert first.status_code == again.status_code == 200
    assert first.content == again.content
    assert again.headers["idempotency-replayed"] == "true"
    assert conflict.status_code == 422
