"""Envoy in front of a server that says what reached it: who gets in, as whom, how often, and what changes meanwhile."""

from __future__ import annotations

import datetime
import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from mailtriage.errors import ConfigError
from serving.gateway import GatewaySettings, envoy_config, envoy_path
from serving.gateway_files import (
    GatewayFiles,
    TlsFiles,
    TokenIssuer,
    followed_certificate,
    followed_keys,
    followed_tokens,
)
from serving.supervisor import answers, free_port

V1 = "/v1/models/mailtriage:predict"
ISSUER, AUDIENCE = "https://login.example.com", "mailtriage"
CRM = {"x-api-key": "crm-0123456789abcdef"}
RATE = 5


class Echo(BaseHTTPRequestHandler):
    """Answers with the headers that came, as the transformer would see them."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Door:
    """A running Envoy, the operator's files that it follows, and its log."""

    url: str
    files: GatewayFiles
    folder: Path
    process: subprocess.Popen[bytes]

    def post(self, headers: dict[str, str], path: str = V1, content: bytes = b"{}", **options: Any) -> httpx.Response:
        with httpx.Client(trust_env=False, **options) as client:
            return client.post(self.url + path, content=content, headers=headers)

    @property
    def log(self) -> str:
        return (self.folder / "envoy.log").read_text()


class Issuer:
    """Signs tokens; its public key as a JWKS file."""

    def __init__(self, file: Path) -> None:
        self._key = rsa.generate_private_key(65537, 2048)
        jwk = jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        file.write_text(json.dumps({"keys": [jwk | {"kid": "k", "alg": "RS256", "use": "sig"}]}))

    def token(self, **claims: Any) -> dict[str, str]:
        given = {"iss": ISSUER, "aud": AUDIENCE, "sub": "archive", "exp": int(time.time()) + 300} | claims
        kept = {name: value for name, value in given.items() if value is not None}
        return {"authorization": "Bearer " + jwt.encode(kept, self._key, "RS256", headers={"kid": "k"})}


def write_certificate(folder: Path, host: str) -> TlsFiles:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = built.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
    signed = built.not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
    files = TlsFiles(folder / "tls.crt", folder / "tls.key")
    files.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    files.key.write_bytes(private)
    return files


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def open_door(folder: Path, upstream: int, **access: Any) -> Door:
    """Start Envoy on a free port; `access` says what clients may have: `tokens`, `tls`, `rate_limit`."""
    keys = folder / "keys"
    keys.mkdir()
    (keys / "crm").write_text(CRM["x-api-key"])
    (keys / "archive").write_text("archive-0123456789abcdef")
    tokens, tls = access.pop("tokens", None), access.pop("tls", None)
    followed = [followed_keys(keys, {})]
    followed += [followed_tokens(tokens)] if tokens else []
    followed += [followed_certificate(tls)] if tls else []
    files = GatewayFiles(folder, followed)
    files.write()
    port, admin = free_port("127.0.0.1"), free_port("127.0.0.1")
    settings = GatewaySettings(
        "127.0.0.1", port, admin, upstream, folder, tokens=bool(tokens), tls=bool(tls), max_body=1000, **access
    )
    (folder / "envoy.json").write_text(json.dumps(envoy_config(settings)))
    command = [str(envoy_path()), "-c", str(folder / "envoy.json"), "--log-level", "warning", "--disable-hot-restart"]
    command += ["--concurrency", "1", "--file-flush-interval-msec", "50"]
    with (folder / "envoy.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    door = Door(f"{'https' if tls else 'http'}://127.0.0.1:{port}", files, folder, process)
    wait_until(lambda: reached(door), door)
    return door


def reached(door: Door) -> bool:
    assert door.process.poll() is None, door.log
    try:
        return door.post(CRM, verify=False).status_code == 200
    except httpx.TransportError:
        return False


def wait_until(condition: Callable[[], bool], door: Door) -> None:
    for _ in range(100):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(f"not within 10 s: {door.log[-3000:]}")


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.getbasetemp() / "jwks.json")


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory, upstream: int, issuer: Issuer) -> Iterator[Door]:
    """A gateway that takes keys and tokens, without a rate limit."""
    tokens = TokenIssuer(tmp_path_factory.getbasetemp() / "jwks.json", ISSUER, (AUDIENCE, "other"))
    opened = open_door(tmp_path_factory.mktemp("door"), upstream, tokens=tokens)
    yield opened
    opened.process.terminate()
    opened.process.wait(10)


def test_the_servers_learn_the_clients_name_and_neither_key_nor_token(door: Door, issuer: Issuer) -> None:
    forged = {"x-client-id": "somebody-else"}

    by_key = door.post(CRM | forged).json()
    by_token = door.post(issuer.token() | forged).json()

    assert by_key["x-client-id"] == "crm"
    assert by_token["x-client-id"] == "archive"
    assert not {"x-api-key", "authorization"} & (by_key.keys() | by_token.keys())


def test_a_request_is_judged_by_its_token_if_it_has_one_else_by_its_key(door: Door, issuer: Issuer) -> None:
    assert door.post(issuer.token() | {"x-api-key": "wrong"}).status_code == 200
    assert door.post(issuer.token(exp=1) | CRM).status_code == 401
    assert door.post(CRM | {"authorization": "Basic Y3JtOmNybQ=="}).status_code == 200


@pytest.mark.parametrize(
    ("claims", "status", "code"),
    [
        ({"iss": "https://elsewhere.example.com"}, 401, "unauthorized"),
        ({"exp": 1}, 401, "unauthorized"),
        ({"exp": None}, 401, "unauthorized"),
        ({"nbf": 4_000_000_000}, 401, "unauthorized"),
        ({"sub": None}, 401, "unauthorized"),
        ({"sub": "a name\twith blanks"}, 401, "unauthorized"),
        ({"aud": "billing"}, 403, "forbidden"),
        ({"aud": None}, 403, "forbidden"),
    ],
)
def test_tokens_that_are_not_for_us_are_refused(
    door: Door, issuer: Issuer, claims: dict[str, Any], status: int, code: str
) -> None:
    answer = door.post(issuer.token(**claims))

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_tokens_of_another_signer_are_refused(door: Door, tmp_path: Path) -> None:
    stranger = Issuer(tmp_path / "jwks.json").token()
    unsigned = {"authorization": "Bearer " + jwt.encode({"iss": ISSUER, "aud": AUDIENCE, "sub": "crm"}, "", "none")}

    for headers in (stranger, unsigned, {"authorization": "Bearer a.b.c"}):
        answer = door.post(headers)
        assert answer.status_code == 401
        assert "Bearer" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/", "/metrics", f"{V1}/", "/v2/repository/index"])
def test_undeclared_paths_do_not_exist_for_anybody(door: Door, issuer: Issuer, path: str) -> None:
    assert door.post(CRM, path).status_code == door.post(issuer.token(), path).status_code == 404
    assert door.post({}, path).status_code == door.post(issuer.token(exp=1), path).status_code == 401


def test_a_token_in_the_url_is_no_token(door: Door, issuer: Issuer) -> None:
    token = issuer.token()["authorization"].removeprefix("Bearer ")

    assert door.post({}, f"{V1}?access_token={token}").status_code == 401


def test_the_log_names_clients_and_holds_nothing_that_opens_the_door(door: Door, issuer: Issuer) -> None:
    right, wrong = issuer.token(), issuer.token(exp=1)
    for number, headers in enumerate([CRM, right, wrong, {"x-api-key": "guessed-key-0123456789"}]):
        forged = {"x-request-id": f"logged-{number}", "x-client-id": "forged"}
        door.post(headers | forged, f"{V1}?x-api-key=guessed-in-the-url")
    wait_until(lambda: "logged-3" in door.log, door)

    written = [json.loads(line) for line in door.log.splitlines() if line.startswith("{")]
    lines = {line["request_id"]: line for line in written}

    assert [lines[f"logged-{number}"]["client"] for number in range(4)] == ["crm", "archive", None, None]
    assert [lines[f"logged-{number}"]["status"] for number in range(4)] == [200, 200, 401, 401]
    for secret in (CRM["x-api-key"], right["authorization"][-40:], wrong["authorization"][-40:], "guessed", "forged"):
        assert secret not in door.log


def test_a_body_over_the_limit_is_413_and_names_the_limit(door: Door) -> None:
    answer = door.post(CRM, content=b"x" * 1001)

    assert answer.status_code == 413
    assert answer.json()["error"]["limit"] == 1000


def test_an_issuers_new_keys_are_taken_up_while_it_runs(door: Door, issuer: Issuer, tmp_path_factory: Any) -> None:
    file = tmp_path_factory.getbasetemp() / "jwks.json"
    before = file.read_text()

    fresh = Issuer(file)
    assert door.files.refresh() == ["took up the changed token issuer's keys"]
    wait_until(lambda: door.post(fresh.token()).status_code == 200, door)
    assert door.post(issuer.token()).status_code == 401

    file.write_text('{"keys": []}')
    (said,) = door.files.refresh()
    assert "kept the token issuer's keys as before" in said
    assert door.post(fresh.token()).status_code == 200

    file.write_text(before)
    door.files.refresh()
    wait_until(lambda: door.post(issuer.token()).status_code == 200, door)


def test_a_client_that_asks_too_often_is_429_and_others_are_not(tmp_path: Path, upstream: int) -> None:
    door = open_door(tmp_path, upstream, rate_limit=RATE)
    archive = {"x-api-key": "archive-0123456789abcdef"}
    try:
        given = [door.post(CRM | {"x-client-id": f"forged-{number}"}) for number in range(4 * RATE)]
        other = door.post(archive)
    finally:
        door.process.terminate()
        door.process.wait(10)

    refused = [answer for answer in given if answer.status_code == 429]
    assert {answer.status_code for answer in given} == {200, 429}
    assert refused[0].json()["error"]["code"] == "rate_limited"
    assert refused[0].headers["retry-after"] == "1"
    assert refused[0].headers["x-ratelimit-remaining"] == "0"
    assert refused[0].headers["x-ratelimit-limit"].split(",")[0] == str(RATE)
    assert int(refused[0].headers["x-ratelimit-reset"]) <= 1
    assert other.status_code == 200
    assert other.headers["x-ratelimit-remaining"] == str(RATE - 1)


def test_https_only_with_a_certificate_that_changes_while_it_runs(tmp_path: Path, upstream: int) -> None:
    files = write_certificate(tmp_path, "first.example.com")
    door = open_door(tmp_path, upstream, tls=files)
    address = ("127.0.0.1", int(door.url.rpartition(":")[2]))
    try:
        trusted = ssl.create_default_context(cafile=files.certificate)
        trusted.check_hostname = False
        assert door.post(CRM, verify=trusted).status_code == 200
        assert answers(f"{door.url}/v2/health/ready", CRM["x-api-key"])  # how the supervisor asks
        with pytest.raises(httpx.TransportError):
            httpx.get(door.url.replace("https", "http"), trust_env=False)

        files.key.write_text("no key")
        assert "kept the TLS certificate as before" in door.files.refresh()[0]
        write_certificate(tmp_path, "second.example.com")
        assert door.files.refresh() == ["took up the changed TLS certificate"]
        wait_until(lambda: ssl.get_server_certificate(address) == files.certificate.read_text(), door)
        assert door.post(CRM, verify=False).status_code == 200
    finally:
        door.process.terminate()
        door.process.wait(10)


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"keys": [{}]}', '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', '{"keys": [{"kty": "RSA", "d": "c"}]}'],
)
def test_keys_of_an_issuer_that_are_none_or_secret_are_refused_at_once(tmp_path: Path, text: str) -> None:
    (tmp_path / "jwks.json").write_text(text)
    files = GatewayFiles(tmp_path, [followed_tokens(TokenIssuer(tmp_path / "jwks.json", ISSUER, (AUDIENCE,)))])

    with pytest.raises(ConfigError, match=r"in .*jwks\.json"):
        files.write()


def test_files_with_secrets_go_with_the_gateway(tmp_path: Path) -> None:
    files = GatewayFiles(tmp_path, [followed_keys(None, {"crm": CRM["x-api-key"]})])
    files.write()
    assert files.refresh() == []

    files.remove()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [["--tls-cert", "a.pem"], ["--jwks", "jwks.json"], ["--jwt-issuer", "x"]])
def test_options_that_belong_together_are_named(tmp_path: Path, options: list[str]) -> None:
    command = [sys.executable, "-m", "serving", "up", "--bundle", str(tmp_path), *options]

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 1
    assert "belong together" in done.stderr
