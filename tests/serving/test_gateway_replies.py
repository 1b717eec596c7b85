"""What the gateway refuses before a server sees it, by its documented code; and the ids of requests."""

from __future__ import annotations

import json
import re
import socket
import uuid

import httpx
import pytest

V1 = "/v1/models/mailtriage:predict"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
MAIL = {"id": "m-1", "body": "Wo ist meine Dividende?"}


def test_a_slow_body_is_408_by_the_code_of_the_document(slow_stack):
    address = httpx.URL(slow_stack.gateway)
    with socket.create_connection((address.host, address.port), timeout=20) as connection:
        connection.sendall(
            f"POST {V1} HTTP/1.1\r\nhost: mailtriage\r\nx-api-key: {slow_stack.api_key}\r\n"
            f'content-type: application/json\r\ncontent-length: 1000\r\n\r\n{{"instances": ["Geheimwort'.encode()
        )
        answer = b""
        while b"}}" not in answer and (part := connection.recv(65536)):
            answer += part

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == b"408"
    assert json.loads(body)["error"] == {"code": "slow_body", "message": "the body did not arrive within 3 s"}


def test_what_is_no_request_for_this_service_is_400_and_bad_request(slow_stack):
    with slow_stack.client() as client:
        answers = [client.get("/v1/models%2Fmailtriage"), client.get("/v2/health/ready", headers={"under_score": "1"})]

    for answer in answers:
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "bad_request"


def test_headers_that_are_too_large_are_431(slow_stack):
    with slow_stack.client() as client:
        answer = client.get("/v2/health/ready", headers={"x-much": "a" * 20_000})

    assert answer.status_code == 431
    assert answer.json()["error"]["code"] == "headers_too_large"


def ask(stack, request_id):
    headers = {} if request_id is None else {"x-request-id": request_id}
    with stack.client(**headers) as client:
        answer = client.post(V1, json={"instances": [MAIL]})
    assert answer.status_code == 200
    return answer.headers["x-request-id"]


@pytest.mark.parametrize("request_id", ["crm-7/2026:a=b+c.d_e", "x" * 128, str(uuid.uuid4())])
def test_a_clients_id_stands_in_the_answer_and_whole_in_the_gateways_and_the_servers_logs(stack, request_id):
    """A UUID, too: Envoy would mark it as traced, and the stack of this test is."""
    assert ask(stack, request_id) == request_id
    for role in ("gateway", "transformer", "predictor"):
        stack.logs_when(role, f'"request_id":"{request_id}"')


@pytest.mark.parametrize("request_id", [None, "", "two words", "x" * 129, "Größe".encode(), 'quoted"', "a,b"])
def test_an_id_that_no_server_takes_is_replaced_at_the_gateway(stack, request_id):
    found = ask(stack, request_id)

    assert UUID.fullmatch(found)
    for role in ("gateway", "transformer", "predictor"):
        logs = stack.logs_when(role, f'"request_id":"{found}"')
    assert "two words" not in logs
    assert "x" * 129 not in logs
