"""What docs/api.md and serving/openapi.yaml say is what the servers do, and so does the stand-in."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from jsonschema import Draft202012Validator

from serving.mail_requests import EXPLAINED_MAILS
from serving.routes import public_routes
from serving.supervisor import free_port
from serving.transformer import TransformerSettings

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs/api.md").read_text(encoding="utf-8")
OPENAPI = yaml.safe_load((ROOT / "serving/openapi.yaml").read_text(encoding="utf-8"))
V1 = "/v1/models/mailtriage:predict"
V2 = "/v2/models/mailtriage/infer"
EXPLAIN = "/v1/models/mailtriage:explain"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def mock_started():
    """A stand-in's address, and how many seconds of a processor its start has taken."""
    port = free_port("127.0.0.1")
    command = [sys.executable, "-m", "serving", "mock", "--port", str(port), "--max-batch", "40"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(address)
            used = psutil.Process(process.pid).cpu_times()
            yield address, used.user + used.system
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def mock(mock_started):
    return mock_started[0]


def wait_for(address):
    for _ in range(300):
        try:
            if httpx.get(f"{address}/v2/health/ready", headers={"x-api-key": "x"}, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"{address} does not answer")


@pytest.fixture(params=["servers", "stand-in"])
def service(request):
    """Address and key of the real servers, and of the stand-in."""
    if request.param == "servers":
        stack = request.getfixturevalue("stack")
        return stack.gateway, stack.api_key
    return request.getfixturevalue("mock"), "any-key"


def environment(service):
    return os.environ | {"MAILTRIAGE_URL": service[0], "MAILTRIAGE_API_KEY": service[1], "NO_PROXY": "127.0.0.1"}


def post(service, path, content, **headers):
    given = {"x-api-key": service[1], "content-type": "application/json"} | headers
    return httpx.post(service[0] + path, json=content, headers=given, trust_env=False, timeout=60)


def check(name, content):
    schema = {"$ref": f"#/components/schemas/{name}", "components": OPENAPI["components"]}
    Draft202012Validator(schema).validate(content)


def test_the_curl_examples_run(service):
    examples = blocks("bash")
    assert len(examples) == 3

    for example in examples:
        done = subprocess.run(
            ["bash", "-c", example], env=environment(service), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr + done.stdout
        assert '"m-1"' in done.stdout


def test_the_python_example_runs(service):
    (example,) = blocks("python")

    done = subprocess.run(
        [sys.executable, "-c", example], env=environment(service), capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.split()[0] == "m-1"
    assert second == "m-2 cannot be used: no_text"


class Busy(BaseHTTPRequestHandler):
    """A service that is asked too often, then away, and then answers."""

    answers = ((429, {}), (503, {}), (200, {"predictions": [{"id": "m-1", "error": {"code": "no_text"}}]}))
    asked = 0

    def do_POST(self):
        status, content = self.answers[type(self).asked]
        type(self).asked += 1
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("retry-after", "0")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_the_python_example_waits_and_asks_again(monkeypatch):
    monkeypatch.setattr(Busy, "asked", 0)
    (example,) = blocks("python")
    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        done = subprocess.run(
            [sys.executable, "-c", example],
            env=environment((address, "any-key")),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        server.shutdown()

    assert done.returncode == 0, done.stderr
    assert done.stdout == "m-1 cannot be used: no_text\n"
    assert Busy.asked == len(Busy.answers)


@pytest.mark.parametrize("example", blocks("json"))
def test_the_shown_answers_fit_the_schema(example):
    content = json.loads(example)
    check("ExplainResponse" if "explanations" in content else "PredictResponse", content)


def test_the_openapi_document_has_the_gateways_routes():
    described = {(method.upper(), path) for path, methods in OPENAPI["paths"].items() for method in methods}

    assert described == {(route.method, route.path) for route in public_routes()}


def test_answers_fit_the_schema(service, records):
    answer = post(service, V1, {"instances": [*records, {"id": "x"}, 7]})

    assert answer.status_code == 200
    check("PredictResponse", answer.json())


def test_v2_answers_fit_the_schema(service):
    columns = {"id": ["1", "2"], "body": ["Depot", ""]}
    inputs = [{"name": name, "datatype": "BYTES", "shape": [2], "data": data} for name, data in columns.items()]

    answer = post(service, V2, {"inputs": inputs})

    assert answer.status_code == 200, answer.text
    check("InferResponse", answer.json())


def test_answers_have_the_documented_headers_and_media_types(service, request):
    mail, key = {"id": "1", "body": "Depot"}, {"idempotency-key": request.node.name}
    texts = [{"name": name, "datatype": "BYTES", "shape": [1], "data": ["Depot"]} for name in ("id", "body")]
    answers = {
        V1: [post(service, V1, {"instances": [mail]}, **key) for _ in range(2)],
        EXPLAIN: [post(service, EXPLAIN, {"instances": [mail]}, **key) for _ in range(2)],
        V2: [
            post(service, V2, {"inputs": texts, "parameters": {"binary_data_output": binary}})
            for binary in (False, True)
        ],
    }

    for path, found in answers.items():
        documented = OPENAPI["paths"][path]["post"]["responses"]["200"]
        names = {name: header_of(declared) for name, declared in documented["headers"].items()}
        for answer in found:
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"] in documented["content"]
            assert {name for name, declared in names.items() if declared.get("required")} <= answer.headers.keys()
            framing = {"content-length", "transfer-encoding", "date", "server"}
            own = answer.headers.keys() - framing - {"content-type"}
            assert own - names.keys() <= {"x-envoy-upstream-service-time"}
            for name in names.keys() & answer.headers.keys():
                Draft202012Validator(names[name]["schema"]).validate(answer.headers[name])
    for first, again in (answers[V1], answers[EXPLAIN]):
        assert "idempotency-replayed" not in first.headers
        assert again.headers["idempotency-replayed"] == "true"
    assert [answer.headers["content-type"] for answer in answers[V2]] == list(
        OPENAPI["paths"][V2]["post"]["responses"]["200"]["content"]
    )


def header_of(declared):
    name = declared.get("$ref", "").rpartition("/")[2]
    return OPENAPI["components"]["headers"][name] if name else declared


def test_the_limit_of_a_request_is_the_documented_one():
    schemas = OPENAPI["components"]["schemas"]
    limits = [schemas[name]["properties"]["instances"]["maxItems"] for name in ("PredictRequest", "ExplainRequest")]

    assert limits == [TransformerSettings().max_mails, EXPLAINED_MAILS]


def test_each_route_documents_what_the_gateway_may_answer():
    for path, methods in OPENAPI["paths"].items():
        for method, operation in methods.items():
            wanted = {"200", "400", "401", "403", "429", "431", "500", "503"}
            wanted |= {"408", "413", "415", "422"} if method == "post" else set()
            assert operation["responses"].keys() == wanted, path


@pytest.mark.parametrize(
    ("path", "content", "headers", "status"),
    [
        (V1, {}, {}, 400),
        (V2, {"inputs": 1}, {}, 400),
        (V1, {"instances": []}, {"x-api-key": ""}, 401),
        ("/v3", {}, {}, 404),
        ("/v2/health/live", {}, {}, 405),
        (V1, {"instances": [{"id": "1", "body": "x"}] * 41}, {}, 413),
        (V1, {"instances": []}, {"content-type": "text/plain"}, 415),
    ],
)
def test_refusals_fit_the_schema_and_are_documented(service, path, content, headers, status):
    answer = post(service, path, content, **headers)

    assert answer.status_code == status
    check("Refusal", answer.json())
    row = next(line for line in DOCUMENT.splitlines() if line.startswith(f"| {status} |"))
    assert f"`{answer.json()['error']['code']}`" in row


def test_every_code_in_the_source_is_documented():
    source = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "serving").glob("*.py"))
    codes = set(re.findall(r'(?:bad_request|unavailable)\(\s*"([a-z_]+)"', source))
    codes |= set(re.findall(r'error_body\("([a-z_]+)"', source))
    codes |= set(re.findall(r'Refused\(\s*HTTPStatus\.[A-Z_]+,\s*"([a-z_]+)"', source))
    internal = {"unknown_token", "wrong_mask"}  # between our own processes

    assert codes
    assert {code for code in codes - internal if f"`{code}`" not in DOCUMENT} == set()


def test_the_stand_in_starts_in_two_seconds(mock_started):
    """Of a processor: what its start takes by the clock on a machine with nothing else to do."""
    assert mock_started[1] <= 2


def test_the_stand_in_answers_the_same_mail_the_same_way(mock, taxonomy):
    service = (mock, "any-key")
    mail = {"body": "Wo ist meine Dividende?"}

    first, again = post(service, V1, {"instances": [mail | {"id": "1"}, mail | {"id": "2"}]}).json()["predictions"]

    assert first["labels"] == again["labels"]
    assert taxonomy.is_valid({task: score["label"] for task, score in first["labels"].items()})


def test_the_stand_in_reviews_a_mail_of_which_nothing_is_left(mock):
    answer = post((mock, "any-key"), V1, {"instances": [{"id": "1", "body": "<style>p {color: red}</style>"}]})

    assert answer.json()["predictions"][0]["decision"] == "review"
