"""Requests that cannot be answered, or only in part."""

from __future__ import annotations

import contextlib
import gzip
import json
import select
import socket
import time

import pytest

from serving.predictor import LEAST_BODY

EXPLAIN = "/v1/models/mailtriage:explain"
V1 = "/v1/models/mailtriage:predict"
V2 = "/v2/models/mailtriage/infer"
SECRET = "Geheimwort"
JSON = {"content_type": "application/json"}


def post(stack, path, body, **headers):
    with stack.client(**{name.replace("_", "-"): value for name, value in headers.items()}) as client:
        return client.post(path, content=body)


def refusal(answer):
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert SECRET not in answer.text
    return answer.status_code, error["code"]


@pytest.mark.parametrize("path", [V1, V2])
@pytest.mark.parametrize(
    "media_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/xml", "nonsense"]
)
def test_a_wrong_content_type_is_415(stack, path, media_type):
    headers = {"content_type": media_type} if media_type else {}

    assert refusal(post(stack, path, b'{"instances": []}', **headers)) == (415, "unsupported_media_type")


def test_another_charset_is_415(stack):
    answer = post(stack, V1, b'{"instances": []}', content_type="application/json; charset=latin-1")

    assert refusal(answer) == (415, "unsupported_media_type")


def test_json_may_name_its_charset(stack):
    assert post(stack, V1, b'{"instances": []}', content_type="Application/JSON; charset=UTF-8").status_code == 200


def test_a_compressed_body_is_415(stack):
    bomb = gzip.compress(b" " * 10_000_000)

    assert refusal(post(stack, V1, bomb, content_encoding="gzip", **JSON)) == (415, "unsupported_media_type")


@pytest.mark.parametrize("path", [V1, V2])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"instances": [{"id": "1", "body": "Geheimwort',
        b"Geheimwort",
        b"\xff\xfe{}",
        b'{"instances": [{"id": "1", "body": "\xe4\xf6"}]}',
        b'{"instances": [NaN]}',
        b'{"instances": ' + b"[" * 100_000,
        b'{"\\ud800": ' + b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_json_is_400(stack, path, body):
    status, code = refusal(post(stack, path, body, **JSON))

    assert status == 400
    assert code in ("not_json", "wrong_type", "bad_request")


@pytest.mark.parametrize(
    "body",
    [{}, {"instances": None}, {"instances": "Geheimwort"}, {"instances": {"id": 1}}, {"inputs": []}, [], "x", 7, None],
)
def test_a_body_without_instances_is_400(stack, body):
    assert refusal(post(stack, V1, json.dumps(body).encode(), **JSON))[0] == 400


def test_a_batch_over_the_limit_is_413_with_the_limit(stack):
    instances = [{"id": str(number), "body": "Guten Tag"} for number in range(stack.max_batch + 1)]

    answer = post(stack, V1, json.dumps({"instances": instances}).encode(), **JSON)

    assert refusal(answer) == (413, "too_many_mails")
    assert answer.json()["error"]["limit"] == stack.max_batch


def test_a_body_over_the_limit_is_413_with_the_limit(stack):
    body = json.dumps({"instances": [{"id": "1", "body": SECRET * (stack.max_body // len(SECRET))}]}).encode()

    answer = post(stack, V1, body, **JSON)

    assert refusal(answer) == (413, "body_too_large")
    assert answer.json()["error"]["limit"] == stack.max_body


def test_records_that_cannot_be_used_get_an_error_in_their_place(stack):
    good = {"id": "good", "body": "Bitte ändern Sie meine Adresse."}
    instances = [
        good,
        {"id": "blank", "subject": " ", "body": "\n"},
        {"id": "none"},
        {"id": "number", "body": 12},
        {"id": "list", "body": [SECRET]},
        {"body": SECRET},
        SECRET,
        None,
        17,
        ["id", "body"],
        {"id": "time", "body": SECRET, "received_at": SECRET},
        good | {"id": 8},
    ]

    answers = stack.predict(instances)

    ids = ["good", "blank", "none", "number", "list", None, None, None, None, None, "time", "8"]
    assert [answer["id"] for answer in answers] == ids
    assert ["error" in answer for answer in answers] == [False] + [True] * 10 + [False]
    codes = [answer["error"]["code"] for answer in answers[1:-1]]
    assert codes == ["no_text"] * 2 + ["wrong_type"] * 8
    assert SECRET not in json.dumps(answers)


def test_text_that_is_odd_but_text_is_answered(stack):
    body = (
        b'{"instances": ['
        b'{"id": "half", "body": "abgeschnitten \\ud83d"},'
        b'{"id": "\\udc00", "subject": "\\ud800", "body": "Depot"},'
        b'{"id": "null", "body": "vor\\u0000nach"},'
        b'{"id": "twice", "body": "alt", "body": "Wo ist meine Dividende?"},'
        b'{"id": "extra", "body": "Zinsen", "labels": {"a": [1]}},'
        b'{"id": "marks", "body": "a\\u0301\\u200b\\ufeff\\u202e"}'
        b"]}"
    )

    answer = post(stack, V1, body, **JSON)

    assert answer.status_code == 200, answer.text
    predictions = answer.json()["predictions"]
    assert [p["id"] for p in predictions] == ["half", "?", "null", "twice", "extra", "marks"]
    assert not any("error" in prediction for prediction in predictions)


def v2(*columns, **fields):
    return json.dumps({"inputs": list(columns), **fields}).encode()


def column(name, data, shape=None, datatype="BYTES"):
    return {"name": name, "shape": [len(data)] if shape is None else shape, "datatype": datatype, "data": data}


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"inputs": []}',
        b'{"inputs": 3}',
        b'{"inputs": [{"name": "id"}]}',
        v2(column("id", ["1"])),
        v2(column("id", ["1"]), column("body", ["Geheimwort", "Geheimwort"])),
        v2(column("id", ["1"]), column("body", ["Geheimwort"], shape=[7])),
        v2(column("id", ["1"]), column("body", ["Geheimwort"], shape=[-1])),
        v2(column("id", ["1"]), column("body", [1.5], datatype="FP32")),
        v2(column("id", ["1"]), column("body", ["Geheimwort"]), column("body", ["Geheimwort"])),
        v2(column("id", ["1"]), column("body", ["Geheimwort"]), column("Geheimwort", ["x"])),
        v2(column("id", ["1"]), column("body", ["Geheimwort"]), outputs=[{"name": "Geheimwort"}]),
        v2(column("id", ["1"]), column("body", ["Geheimwort"]), parameters={"Geheimwort": ["Geheimwort"]}),
    ],
)
def test_a_v2_request_that_does_not_fit_is_400(stack, body):
    assert refusal(post(stack, V2, body, **JSON))[0] == 400


@pytest.mark.parametrize("length", ["", "x", "-1", "9999999"])
def test_a_binary_request_with_a_wrong_header_length_is_400(stack, length):
    headers = {"inference-header-content-length": length} if length else {}
    with stack.client(**{"content-type": "application/octet-stream"}, **headers) as client:
        answer = client.post(V2, content=b'{"inputs": []}Geheimwort')

    assert refusal(answer)[0] == 400


@pytest.mark.parametrize(
    ("size", "raw"),
    [(99, b"\x02\0\0\0ab"), (6, b"\xff\xff\xff\x7fab"), (3, b"\x01\0\0"), (-1, b""), ("x", b""), (None, b"")],
)
def test_a_binary_tensor_that_does_not_fit_is_400(stack, size, raw):
    head = v2({"name": "id", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": size}})
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}

    with stack.client(**headers) as client:
        answer = client.post(V2, content=head + raw)

    assert refusal(answer)[0] == 400


def test_a_v2_record_that_cannot_be_used_gets_an_error_in_its_place(stack):
    body = v2(column("id", ["1", "2"]), column("body", ["", "Bitte um Rückruf"]))

    answer = post(stack, V2, body, **JSON).json()

    columns = {output["name"]: output["data"] for output in answer["outputs"]}
    assert columns["decision"][0] == "error"
    assert columns["decision"][1] in ("route", "review")
    assert json.loads(columns["prediction"][0])["error"]["code"] == "no_text"


def test_too_many_v2_mails_are_413_with_the_limit(stack):
    count = stack.max_batch + 1
    body = v2(column("id", ["1"] * count), column("body", ["Hallo"] * count))

    answer = post(stack, V2, body, **JSON)

    assert refusal(answer) == (413, "too_many_mails")
    assert answer.json()["error"]["limit"] == stack.max_batch


@pytest.mark.parametrize("address", ["gateway", "transformer", "predictor"])
def test_ten_megabytes_are_413_at_every_door(stack, address):
    body = b'{"instances": ["' + SECRET.encode() * 1_000_000 + b'"]}'

    with socket.create_connection(split(getattr(stack, address)), timeout=20) as connection:
        connection.sendall(head(V1, stack, len(body)))
        with contextlib.suppress(OSError):  # refused before all of it was sent
            connection.sendall(body)
        answer = read_all(connection)

    assert answer.startswith(b"HTTP/1.1 413")
    assert b"body_too_large" in answer
    assert str(LEAST_BODY if address == "predictor" else stack.max_body).encode() in answer
    assert SECRET.encode() not in answer


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (V1, {"instances": [{"id": "1"}] * 10_000}),
        (V1, {"instances": [0] * 10_000}),
        (EXPLAIN, {"instances": [{}] * 10_000}),
        (V2, {"inputs": [column(name, ["x"] * 10_000) for name in ("id", "body")]}),
    ],
)
def test_ten_thousand_instances_are_413(stack, path, content):
    body = json.dumps(content).encode()

    assert len(body) < stack.max_body  # it is their number that is refused
    assert refusal(post(stack, path, body, **JSON)) == (413, "too_many_mails")


@pytest.mark.parametrize("path", [V1, V2, EXPLAIN])
@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": [{"id": ' + b"9" * 5_000 + b', "body": "x"}]}',
        b'{"instances": [{"id": "1", "body": Infinity}]}',
        b'{"instances": [{"id": "1", "body": -NaN}]}',
        b'{"instances": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
        b'{"instances": [' + b"[" * 50_000 + b"]" * 50_000 + b"]}",
        b"\x00" * 1_000,
        b'{"instances": [{"id": "1", "body": "Geheimwort\x00"}]}',
        b"\xef\xbb\xbf{}",
        gzip.compress(b'{"instances": []}'),
    ],
)
def test_hostile_json_is_refused_and_quickly(stack, path, body):
    began = time.monotonic()

    answer = post(stack, path, body, **JSON)

    assert answer.status_code in (200, 400, 413), answer.text
    assert SECRET not in answer.text
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "record",
    [
        {"id": "x" * 100_000, "body": "Depot"},
        {"id": "1", "body": "Depot", "custodian_bank": "Bank " * 20_000},
        {"id": "1", "subject": "Depot " * 20_000},
        {"id": "1", "body": "<div>" * 20_000},
        {"id": "1", "body": "> " * 50_000},
        {"id": "1", "body": "\u0300" * 50_000},
        {"id": "1", "body": "\u202e\u2066\ufffe\uffff\U000e0001 Depot"},
        {"id": -(2**62), "body": "Depot"},
    ],
)
def test_hostile_mails_are_answered(stack, record):
    (answer,) = stack.predict([record])

    assert answer["id"] == str(record["id"])
    assert "error" in answer or answer["decision"] in ("route", "review")


@pytest.mark.parametrize("address", ["gateway", "transformer"])
def test_a_client_that_sends_too_slowly_is_let_go_and_harms_no_other(slow_stack, address):
    connections = []
    for _ in range(20):
        connections.append(socket.create_connection(split(getattr(slow_stack, address)), timeout=20))
        connections[-1].sendall(head(V1, slow_stack, 1_000) + b'{"instances": ["Geheimwort')
    began = time.monotonic()

    predictions = slow_stack.predict([{"id": "quick", "body": "Wo ist meine Dividende?"}])
    quick = time.monotonic() - began
    answers = [read_all(connection) for connection in connections]
    took = time.monotonic() - began

    for connection in connections:
        connection.close()
    assert predictions[0]["id"] == "quick"
    assert quick < 2
    assert took < 10
    assert {answer.split(b" ", 2)[1] for answer in answers} == {b"408"}
    assert not any(SECRET.encode() in answer for answer in answers)


def test_a_client_that_sends_its_headers_too_slowly_is_let_go_and_harms_no_other(stack):
    """Envoy gives them 10 s of the 30 s of a request: a byte now and then gains no time."""
    lines = head(V1, stack, 1_000)
    connections = [socket.create_connection(split(stack.gateway), timeout=20) for _ in range(20)]
    began = time.monotonic()

    with contextlib.ExitStack() as opened:
        for connection in connections:
            opened.enter_context(connection)
        for position in range(60):
            for connection in connections:
                with contextlib.suppress(OSError):  # let go
                    connection.send(lines[position : position + 1])
            if position == 4:
                asked = time.monotonic()
                predictions = stack.predict([{"id": "quick", "body": "Wo ist meine Dividende?"}])
                quick = time.monotonic() - asked
            if select.select(connections, [], [], 0.25)[0]:
                break
        took = time.monotonic() - began
        answers = [read_all(connection) for connection in connections]

    assert predictions[0]["id"] == "quick"
    assert quick < 2
    assert 5 < took < 13
    assert {answer.split(b" ", 2)[1] for answer in answers} == {b"408"}


def test_a_client_that_does_not_read_its_answer_is_let_go_and_harms_no_other(slow_stack):
    """A request has 3 s, the route 5 s more; an answer of 15 MB fits in no buffer on the way."""
    ids = ["7" * 190_000] * 40  # they come back, twice
    body = v2(column("id", ids), column("body", ["Wo ist meine Dividende?"] * len(ids)))
    with contextlib.ExitStack() as opened:
        connections = [opened.enter_context(unread(slow_stack)) for _ in range(3)]
        for connection in connections:
            connection.sendall(head(V2, slow_stack, len(body)) + body)
        ports = {connection.getsockname()[1] for connection in connections}
        for connection in connections:  # it has begun, and goes on for more than is read
            connection.recv(1)
        began = time.monotonic()

        predictions = slow_stack.predict([{"id": "quick", "body": "Wo ist meine Dividende?"}])
        quick = time.monotonic() - began
        held = ports & gateways_clients(slow_stack)
        while ports & gateways_clients(slow_stack) and time.monotonic() < began + 20:
            time.sleep(0.2)
        took = time.monotonic() - began
        rest = [read_rest(connection) for connection in connections]

    assert predictions[0]["id"] == "quick"
    assert quick < 2
    assert held == ports
    assert took < 13
    assert all(0 < size < len(body) for size in rest)  # what was on its way, not the whole answer
    assert slow_stack.predict([{"id": "later", "body": "Depot"}])[0]["id"] == "later"


def unread(served):
    """A connection that takes in as little as the system allows."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect(split(served.gateway))
    return connection


def read_rest(connection):
    """Bytes until the other side ends."""
    size = 0
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            size += len(data)
    return size


def gateways_clients(served):
    """Ports of the clients that are connected to the gateway."""
    return {connection.raddr.port for connection in served.part("gateway").connections() if connection.raddr}


def head(path, served, length):
    fields = f"host: x\r\nx-api-key: {served.api_key}\r\ncontent-type: application/json\r\ncontent-length: {length}"
    return f"POST {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode()


def split(address):
    host, _, port = address.removeprefix("http://").rpartition(":")
    return host, int(port)


def read_all(connection):
    """Until the other side ends or has sent one whole JSON answer."""
    received = b""
    with contextlib.suppress(OSError):
        while not received.rstrip().endswith(b"}}") and (data := connection.recv(65536)):
            received += data
    return received


def test_no_text_of_a_mail_reaches_a_log(stack):
    word = "Quittengelee"
    record = {"id": "m-1", "subject": word, "body": f"<p>{word}</p>", "custodian_bank": word}
    stack.predict([record, record | {"body": {"x": word}}, word])
    post(stack, V1, f'{{"instances": [{{"id": "1", "body": "{word}'.encode(), **JSON)
    post(stack, V1, word.encode(), content_type="text/plain")
    post(stack, V2, v2(column("id", ["1"]), column("body", [word], shape=[3])), **JSON)
    post(stack, V2, f'{{"inputs": "{word}"}}'.encode(), **JSON)
    post(stack, V1 + f"?text={word}", b'{"instances": []}', **JSON)
    post(stack, f"/v1/models/{word}:predict", b'{"instances": []}', **JSON)
    post(stack, V1, b'{"instances": []}', x_request_id="the-last-of-these", **JSON)

    logs = stack.logs_when("gateway", "the-last-of-these")

    assert '"ids":["m-1"]' in logs
    assert word not in logs
    assert {word, SECRET} <= set(stack.secrets)  # which are looked for once more when the stack has stopped
