"""The gateway: who gets in, to which routes, with how much."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import time
from pathlib import Path

import httpx
import psutil
import pytest

from mailtriage.errors import ConfigError
from serving.api_keys import load_api_keys, parse_api_keys, read_api_keys
from serving.gateway import CERTIFICATE, KEYS, TOKENS, GatewaySettings, envoy_config, envoy_path, resource_file
from serving.routes import public_routes

V1 = "/v1/models/mailtriage:predict"


@pytest.mark.parametrize(
    "headers",
    [{}, {"x-api-key": ""}, {"x-api-key": "crm-0123456789abcdeX"}, {"authorization": "Bearer crm-0123456789abcdef"}],
)
@pytest.mark.parametrize("path", [V1, "/v2/health/ready", "/nothing/here", "/"])
def test_without_a_key_nothing_is_answered(stack, headers, path):
    with httpx.Client(base_url=stack.gateway, trust_env=False) as client:
        answer = client.post(path, json={"instances": []}, headers=headers)

    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "unauthorized"


def test_each_client_has_a_key_and_its_name_reaches_the_logs_not_its_key(stack):
    for client_name, key in (("crm", "crm-0123456789abcdef"), ("archive", "archive-0123456789abcdef")):
        headers = {"x-api-key": key, "x-client-id": "somebody-else", "x-request-id": f"from-{client_name}"}
        with httpx.Client(base_url=stack.gateway, trust_env=False, headers=headers) as client:
            assert client.post(V1, json={"instances": []}).status_code == 200

    logs = stack.logs_when("gateway", "from-archive")

    assert '"client":"crm"' in logs
    assert '"client":"archive"' in logs
    assert "somebody-else" not in logs
    assert "0123456789abcdef" not in logs


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/metrics"),
        ("GET", "/docs"),
        ("GET", "/v1/models"),
        ("GET", "/v2"),
        ("POST", "/v1/models/other:predict"),
        ("POST", V1 + "/"),
        ("POST", "/v1//models/mailtriage:predict"),
        ("POST", "/v2/models/mailtriage/versions/3/infer"),
        ("POST", "/v2/repository/models/mailtriage/load"),
        ("POST", "/v2/repository/models/mailtriage/unload"),
    ],
)
def test_only_the_declared_routes_exist(stack, method, path):
    with stack.client() as client:
        answer = client.request(method, path, json={"instances": []})

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_routes_that_unload_the_model_do_not_exist_behind_the_gateway_either(stack):
    for address in (stack.transformer, stack.predictor):
        answer = httpx.post(f"{address}/v2/repository/models/mailtriage/unload", trust_env=False)
        assert answer.status_code == 404


def test_another_method_is_405_and_names_the_right_one(stack):
    with stack.client() as client:
        answer = client.get(V1)

    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"


def test_only_the_gateway_may_listen_elsewhere_than_on_loopback(stack):
    for name in ("predictor", "transformer", "gateway"):
        listening = [c for c in stack.part(name).connections("tcp") if c.status == psutil.CONN_LISTEN]
        assert listening
        assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}


def test_what_holds_keys_is_for_its_owner_only(stack):
    holding = [file for file in stack.work.rglob("*.json") if "0123456789abcdef" in file.read_text()]

    assert [file.name for file in holding] == ["api_key_auth.json"]
    assert stat.S_IMODE(holding[0].stat().st_mode) == 0o600


def test_keys_change_without_a_restart(stack):
    """The old key is out and the new one in, while the processes run on and other clients notice nothing."""
    file, envoy = stack.work / "keys.yaml", stack.part("gateway").pid
    before = file.read_text()

    def status(key: str) -> int:
        return httpx.get(f"{stack.gateway}/v2/health/ready", headers={"x-api-key": key}, trust_env=False).status_code

    file.write_text(before.replace("archive-0123456789abcdef", "archive-fedcba9876543210"))
    wait_until(lambda: status("archive-fedcba9876543210") == 200)
    assert status("archive-0123456789abcdef") == 401
    assert status("crm-0123456789abcdef") == 200

    file.write_text("archive: short")
    wait_until(lambda: "kept the API keys as before" in (stack.work / "up.stderr").read_text())
    assert status("archive-fedcba9876543210") == 200

    file.write_text(before)
    wait_until(lambda: status("archive-0123456789abcdef") == 200)
    assert stack.part("gateway").pid == envoy


def wait_until(condition):
    for _ in range(100):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("not within 10 s")


@pytest.mark.parametrize(
    "traces", ["", "http://collector.example:4318/v1/traces", "https://collector.example/v1/traces"]
)
def test_envoy_accepts_the_configuration(tmp_path, traces):
    settings = GatewaySettings(
        "127.0.0.1", 8080, 9901, 8081, tmp_path, tokens=True, tls=True, rate_limit=5, traces=traces
    )
    file = tmp_path / "envoy.json"
    file.write_text(json.dumps(envoy_config(settings)))
    for resource in (KEYS, TOKENS, CERTIFICATE):
        resource_file(tmp_path, resource).touch()  # followed, and read only when Envoy runs

    done = subprocess.run([envoy_path(), "--mode", "validate", "-c", file], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_the_configuration_routes_exactly_the_public_routes(tmp_path):
    config = envoy_config(GatewaySettings("127.0.0.1", 8080, 9901, 8081, tmp_path))

    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    *declared, last = manager["route_config"]["virtual_hosts"][0]["routes"]

    assert [route["match"] for route in declared] == [{"path": route.path} for route in public_routes()]
    assert last["direct_response"] == {"status": 404}


def test_a_key_is_made_once_for_its_owner_only(tmp_path):
    default = tmp_path / "state" / "api-keys.yaml"

    first, source = load_api_keys(None, default, {})
    second, _ = load_api_keys(None, default, {})

    assert first == second
    assert source == str(default)
    assert len(first["local"]) >= 32
    assert stat.S_IMODE(default.stat().st_mode) == 0o600


def test_keys_come_from_a_file_before_the_environment(tmp_path):
    file = tmp_path / "keys.yaml"
    file.write_text("crm: 0123456789abcdef\n")
    environment = {"MAILTRIAGE_API_KEYS": "other: fedcba9876543210"}

    assert load_api_keys(file, tmp_path / "none", environment) == ({"crm": "0123456789abcdef"}, str(file))
    assert load_api_keys(None, tmp_path / "none", environment)[0] == {"other": "fedcba9876543210"}
    assert not os.path.exists(tmp_path / "none")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "crm",
        "- a\n- b",
        "crm: short-secret",
        "crm: 1234567890123456",
        "c r m: secret-0123456789",
        "crm: [",
        "a: secret-0123456789\nb: secret-0123456789",
    ],
)
def test_keys_that_cannot_be_used_are_refused_without_being_shown(text):
    with pytest.raises(ConfigError) as refused:
        parse_api_keys(text, "keys.yaml")

    assert "keys.yaml" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_folder_with_a_file_a_client_is_what_a_mounted_secret_looks_like(tmp_path):
    mounted = tmp_path / "..2026_11_24"
    mounted.mkdir()
    (mounted / "crm").write_text("0123456789abcdef\n")
    (tmp_path / "..data").symlink_to(mounted.name)
    (tmp_path / "crm").symlink_to("..data/crm")

    assert read_api_keys(tmp_path) == {"crm": "0123456789abcdef"}


def test_a_folder_without_keys_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="a file a client"):
        read_api_keys(tmp_path)


def test_a_missing_key_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_api_keys(Path("nowhere.yaml"), tmp_path / "none", {})
