"""An upgrade: one address, behind it predictors of two bundles, and a transformer that needs one of them."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from mailtriage.bundle import Bundle, sha256, stamp_model_version
from serving.supervisor import free_port

ROOT = Path(__file__).resolve().parents[2]
V1 = "/v1/models/mailtriage:predict"
MAIL = {"id": "m-1", "body": "Bitte verkaufen Sie meine Aktien."}


class Balancer:
    """Sends each new TCP connection to the next of its targets, as kube-proxy does for a Service."""

    def __init__(self, targets) -> None:
        self.targets = list(targets)
        self.connections = 0
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """End every connection that there is."""
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ends.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            target = self.targets[self.connections % len(self.targets)]
            self.connections += 1
            server = socket.create_connection(("127.0.0.1", target))
            self._ends += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def other_bundle(bundle_path, tmp_path_factory):
    """The same model under another version and digest."""
    folder = tmp_path_factory.mktemp("other") / "bundle"
    shutil.copytree(bundle_path, folder)
    (folder / "MODEL_CARD.md").write_text("another model")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {name: sha256(folder / name) for name in manifest["files"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    stamp_model_version(folder, "77")
    return folder


@pytest.fixture(scope="module")
def servers(stack, bundle_path, other_bundle, tmp_path_factory):
    """The shared stack's predictor and one of the other bundle, behind a balancer, and a transformer before it."""
    logs = tmp_path_factory.mktemp("logs")
    ours, other, port = int(stack.predictor.rpartition(":")[2]), free_port("127.0.0.1"), free_port("127.0.0.1")
    balancer = Balancer([ours, other])
    commands = {
        "predictor": ["--bundle", str(other_bundle), "--http-port", str(other)],
        "transformer": ["--bundle", str(bundle_path), "--http-port", str(port), "--predictor-host", balancer.address],
    }
    processes = []
    try:
        for role, options in commands.items():
            with (logs / role).open("w") as log:
                processes.append(
                    subprocess.Popen([sys.executable, "-m", "serving", role, *options], cwd=ROOT, stderr=log)
                )
        for number in (other, port):
            wait_for(f"http://127.0.0.1:{number}/v2/health/live")
        yield f"http://127.0.0.1:{port}", balancer, ours, other
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(40)
        balancer.close()


def wait_for(url, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"{url} does not answer")


def ask(address, name):
    answer = httpx.post(address + V1, json={"instances": [MAIL | {"id": name}]}, trust_env=False, timeout=30)
    return answer.status_code, answer.json()


def test_no_request_fails_while_predictors_of_two_bundles_serve(servers, bundle_path):
    address, balancer, ours, other = servers
    balancer.targets = [ours, other]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: ask(address, f"m-{number}"), range(200)))
    connections = balancer.connections
    for number in range(20):
        ask(address, str(number))

    assert {status for status, _ in answers} == {200}
    assert [answer["predictions"][0]["id"] for _, answer in answers] == [f"m-{number}" for number in range(200)]
    version = Bundle.open(bundle_path).model_version
    assert {answer["predictions"][0]["model_version"] for _, answer in answers} == {version}
    assert balancer.connections <= connections + 1  # those to the right predictor are kept, the others are not
    assert httpx.get(f"{address}/v2/health/ready", trust_env=False).status_code == 200
    assert "mailtriage_bundle_retries_total 0.0" not in httpx.get(f"{address}/metrics", trust_env=False).text


def test_a_request_waits_for_a_predictor_of_its_bundle(servers):
    address, balancer, ours, other = servers
    balancer.targets = [other]
    balancer.cut()

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, address, "patient")
        time.sleep(1)
        balancer.targets = [other, ours]

        assert answer.result()[0] == 200


def test_without_a_predictor_of_its_bundle_it_says_so_and_soon_at_once(servers):
    address, balancer, ours, other = servers
    balancer.targets = [other]
    balancer.cut()

    began = time.monotonic()
    status, answer = ask(address, "m-1")
    first = time.monotonic() - began
    ready = httpx.get(f"{address}/v2/health/ready", trust_env=False)
    again_began = time.monotonic()
    again, _ = ask(address, "m-2")
    second = time.monotonic() - again_began

    assert status == again == 503
    assert answer["error"]["code"] == "bundle_mismatch"
    assert "model 77" in answer["error"]["message"]
    assert first < 8
    assert second < 2
    assert ready.status_code == 503
    balancer.targets = [ours]
    assert ask(address, "m-3")[0] == 200
