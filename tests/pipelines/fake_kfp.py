"""An HTTP server with the part of the KFP API (v2beta1) that a run needs, and of the Kubernetes API that has its pods.

A run goes through the states that it is given.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

API = "/apis/v2beta1"


@dataclass
class FakeKfp:
    """What the server was asked, and what it answers: one state of run and steps for each look at the run."""

    states: Sequence[tuple[str, dict[str, str]]]
    address: str = ""
    submitted: dict[str, Any] = field(default_factory=dict)
    pods: list[dict[str, Any]] = field(default_factory=list)
    log: str = ""
    terminated: bool = False
    looks: int = 0

    def answer(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any] | str:  # noqa: PLR0911
        path, _, query = path.partition("?")
        path = path.removeprefix(API)
        if path == "/healthz":
            return {"multi_user": False}
        if path == "/experiments":
            return {"experiment_id": "e-1", "display_name": body.get("display_name")} if method == "POST" else {}
        if path == "/runs" and method == "POST":
            self.submitted = body
            return {"run_id": "r-1", "state": "PENDING"}
        if path == "/runs/r-1:terminate":
            self.terminated = True
            return {}
        if path == "/runs/r-1":
            state, steps = self.states[min(self.looks, len(self.states) - 1)]
            self.looks += 1
            details = [{"display_name": name, "state": value} for name, value in steps.items()]
            return {"run_id": "r-1", "state": state, "run_details": {"task_details": details}}
        if path == "/api/v1/namespaces/kubeflow/pods":
            assert "labelSelector=pipeline%2Frunid%3Dr-1" in query
            return {"kind": "PodList", "apiVersion": "v1", "items": self.pods}
        if path.startswith("/api/v1/namespaces/kubeflow/pods/") and path.endswith("/log"):
            return self.log
        raise LookupError(path)


@contextmanager
def fake_kfp(*states: tuple[str, dict[str, str]]) -> Iterator[FakeKfp]:
    """Serve on a free port of the loopback until the block ends."""
    fake = FakeKfp(states)

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                status, answer = 200, fake.answer(self.command, self.path, json.loads(body or b"{}"))
            except LookupError as error:
                status, answer = 404, {"message": f"not faked: {error}"}
            content = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    fake.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
