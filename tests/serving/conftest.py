"""The serving processes as a user runs them: `python -m serving up`, on free ports, stopped by their own pid."""

from __future__ import annotations

import contextlib
import re
import signal
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
import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_BATCH = 40
MAX_BODY = 256 * 1024
KEYS = {"crm": "crm-0123456789abcdef", "archive": "archive-0123456789abcdef"}
START_SECONDS = 180
SECRETS = ("Geheimwort", "Quittengelee")  # tests write them into mails; no process may write them anywhere


@dataclass
class Served:
    """A running stack."""

    process: subprocess.Popen[str]
    summary: str
    work: Path
    api_key: str
    max_batch: int = MAX_BATCH
    max_body: int = MAX_BODY
    secrets: tuple[str, ...] = SECRETS
    last_output: str = ""

    @property
    def gateway(self) -> str:
        return self._address(r"gateway\s+(\S+)")

    @property
    def transformer(self) -> str:
        return self._address(r"(\S+)/metrics \(transformer\)")

    @property
    def predictor(self) -> str:
        return self._address(r"(\S+)/metrics \(predictor\)")

    def _address(self, pattern: str) -> str:
        found = re.search(pattern, self.summary)
        assert found, self.summary
        return found[1]

    def client(self, **headers: str) -> httpx.Client:
        given = {"x-api-key": self.api_key} | headers
        return httpx.Client(base_url=self.gateway, headers=given, trust_env=False, timeout=30)

    def predict(self, instances: list[Any]) -> list[dict[str, Any]]:
        with self.client() as client:
            answer = client.post("/v1/models/mailtriage:predict", json={"instances": instances})
        assert answer.status_code == 200, answer.text
        predictions: list[dict[str, Any]] = answer.json()["predictions"]
        return predictions

    def part(self, name: str) -> psutil.Process:
        """The process of this name; waits for one that is being started."""
        for _ in range(100):
            for process in psutil.Process(self.process.pid).children():
                command = process.cmdline()
                if name in command or (name == "gateway" and any(word.endswith("/envoy") for word in command[:1])):
                    return process
            time.sleep(0.1)
        raise AssertionError(f"no process '{name}'")

    def logs(self) -> str:
        return "\n".join(file.read_text(errors="replace") for file in sorted(self.work.rglob("*.log")))

    def leaks(self) -> list[str]:
        """What holds text of a mail, of all that the stopped processes wrote: logs, records, settings, their output."""
        written = {str(file): file.read_bytes() for file in self.work.rglob("*") if file.is_file()}
        written["stdout"] = f"{self.summary}{self.last_output}".encode()
        return [name for name, content in written.items() for secret in self.secrets if secret.encode() in content]

    def logs_when(self, role: str, text: str) -> str:
        """All logs, once this role's log holds this text (Envoy writes its log with a delay)."""
        for _ in range(100):
            if any(text in file.read_text(errors="replace") for file in self.work.rglob(f"{role}.log")):
                return self.logs()
            time.sleep(0.1)
        raise AssertionError(f"the {role}'s log does not hold '{text}'")

    def wait_until_ready(self, seconds: float = 120) -> None:
        with self.client() as client:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                try:
                    if client.get("/v2/health/ready").status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
        raise AssertionError(f"not ready within {seconds} s:\n{self.logs()[-3000:]}")


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP and keeps the spans, each with the name of its service."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _CollectorHandler)
        self.spans: list[tuple[str, Any]] = []

    def trace(self, trace_id: str) -> dict[str, list[Any]]:
        """The spans of one trace, by `SERVICE NAME`."""
        found: dict[str, list[Any]] = {}
        for service, span in list(self.spans):
            if span.trace_id.hex() == trace_id:
                found.setdefault(f"{service} {span.name}", []).append(span)
        return found


class _CollectorHandler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        for resource in ExportTraceServiceRequest.FromString(self._body()).resource_spans:
            names = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            spans = [span for scope in resource.scope_spans for span in scope.spans]
            self.server.spans += [(names["service.name"], span) for span in spans]
        self.send_response(200)
        self.end_headers()

    def _body(self) -> bytes:
        """With a length, as OpenTelemetry's exporter sends it, or in chunks, as Envoy does."""
        if "content-length" in self.headers:
            return self.rfile.read(int(self.headers["content-length"]))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def start_stack(bundle: Path, work: Path, *options: str) -> Served:
    keys = work / "keys.yaml"
    keys.parent.mkdir(parents=True, exist_ok=True)
    keys.write_text("".join(f"{client}: {key}\n" for client, key in KEYS.items()))
    command = [sys.executable, "-m", "serving", "up", "--bundle", str(bundle), "--port", "0", "--work", str(work)]
    command += ["--api-keys", str(keys), "--start-timeout", str(START_SECONDS), *options]
    errors = (work / "up.stderr").open("w")
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
    errors.close()
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "content-type" in line:
            return Served(process, "".join(lines), work, KEYS["crm"])
    process.wait()
    raise AssertionError((work / "up.stderr").read_text())


def stop_stack(served: Served) -> None:
    """Stop it, and see that no text of a mail is in what it leaves behind."""
    if served.process.poll() is None:
        served.process.send_signal(signal.SIGTERM)
        try:
            served.process.wait(40)
        except subprocess.TimeoutExpired:
            served.process.kill()
    if served.process.stdout is not None:
        served.last_output = served.process.stdout.read()
        served.process.stdout.close()
    names = {Path(name).name for name in map(str, served.work.rglob("*"))}
    assert {"gateway.log", "transformer.log", "predictor.log", "up.stderr"} <= names
    assert not served.leaks()


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """A collector of traces, to which the shared stack sends its own."""
    collector = Collector()
    thread = threading.Thread(target=collector.serve_forever, daemon=True)
    thread.start()
    yield collector
    collector.shutdown()
    collector.server_close()


@pytest.fixture(scope="session")
def stack(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Served]:
    """One stack that all tests share which leave it as they found it."""
    limits = ("--max-batch", str(MAX_BATCH), "--max-body", str(MAX_BODY))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        served = start_stack(bundle_path, tmp_path_factory.mktemp("serving"), *limits)
    yield served
    stop_stack(served)


@pytest.fixture(scope="module")
def hurt_stack(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A stack whose processes are killed; each test leaves it ready again."""
    served = start_stack(bundle_path, tmp_path_factory.mktemp("hurt"))
    yield served
    stop_stack(served)


@pytest.fixture(scope="module")
def slow_stack(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A stack in which a request has three seconds."""
    served = start_stack(bundle_path, tmp_path_factory.mktemp("slow"), "--request-timeout", "3")
    yield served
    stop_stack(served)


@pytest.fixture
def own_stack(bundle_path: Path, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts stacks of the test's own, for those who break them."""
    started: list[Served] = []

    def start(*options: str) -> Served:
        started.append(start_stack(bundle_path, tmp_path, *options))
        return started[-1]

    yield start
    with contextlib.ExitStack() as stops:  # each is stopped, whatever is wrong with another
        for served in started:
            stops.callback(stop_stack, served)


@pytest.fixture
def records() -> list[dict[str, str]]:
    """Mails as a CRM sends them, of very different lengths."""
    return [
        {"id": "m-1", "subject": "Depotübertrag", "body": "Bitte übertragen Sie mein Depot zur Beispielbank."},
        {"id": "m-2", "subject": "", "body": "<html><body><p>Wann kommt die <b>Dividende</b>?</p></body></html>"},
        {
            "id": "m-3",
            "subject": "Password",
            "body": "I cannot log in to the app. " * 40,
            "custodian_bank": "Musterbank",
        },
        {"id": "m-4", "subject": "Kündigung", "body": "Hiermit kuendige ich mein Konto.\n\n-- \nErika Mustermann"},
    ]
