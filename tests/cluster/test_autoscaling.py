"""KServe's autoscalers scale by what a metrics API says; the API is this test's, the controllers are real."""

import json
import os
import ssl
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
from certificates import certificate
from installation import API_KEY, CHART, chart_values
from kube import Namespace, kubectl, wait_until

GROUP = "metrics.k8s.io/v1beta1"
REQUEST = 50  # millicores, as the tests' values ask for


class Metrics(ThreadingHTTPServer):
    """`metrics.k8s.io`, as a metrics server gives it: what each pod of a selector uses is said in `millicores`."""

    def __init__(self, address: str) -> None:
        super().__init__((address, 0), _Handler)
        self.millicores = {"predictor": 1, "transformer": 1}
        public, private = certificate()
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "tls").write_text(public + private, encoding="utf-8")
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(Path(folder) / "tls")
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def answer(self, path: str) -> dict[str, Any]:
        url = urllib.parse.urlsplit(path)
        parts = url.path.split("/")
        if "namespaces" not in parts:
            resource = {"name": "pods", "singularName": "", "namespaced": True, "kind": "PodMetrics", "verbs": ["list"]}
            return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GROUP, "resources": [resource]}
        (selector,) = urllib.parse.parse_qs(url.query).get("labelSelector", [""])
        pods = Namespace(parts[parts.index("namespaces") + 1]).list("pods", selector)
        return {"kind": "PodMetricsList", "apiVersion": GROUP, "items": [self._used(pod["metadata"]) for pod in pods]}

    def _used(self, pod: dict[str, Any]) -> dict[str, Any]:
        cpu = self.millicores[pod["labels"]["component"]]
        used = {"name": "kserve-container", "usage": {"cpu": f"{cpu}m", "memory": "64Mi"}}
        when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"metadata": pod, "timestamp": when, "window": "1s", "containers": [used]}


class _Handler(BaseHTTPRequestHandler):
    server: Metrics

    def do_GET(self) -> None:
        body = json.dumps(self.server.answer(self.path)).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the API server asks every few seconds."""


@pytest.fixture
def metrics(namespace: Namespace) -> Iterator[Metrics]:
    address = os.environ.get("HOST_ADDRESS")
    if not address:
        pytest.skip("HOST_ADDRESS is not set: an address of this machine that the cluster reaches")
    name = "v1beta1.metrics.k8s.io"
    if kubectl("get", "apiservice", name, "--ignore-not-found", "--output=name").strip():
        pytest.skip("the cluster has a metrics server of its own")
    with Metrics(address) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        namespace.apply(*registration(namespace.name, address, server.server_port))
        try:
            kubectl("wait", "--for=condition=Available", f"apiservice/{name}", "--timeout=60s")
            yield server
        finally:
            kubectl("delete", "apiservice", name)  # left behind, it would keep every namespace from being deleted
            server.shutdown()


def registration(namespace: str, address: str, port: int) -> list[dict[str, Any]]:
    """What makes the API server ask this machine."""
    service = {"metadata": {"name": "metrics"}, "spec": {"ports": [{"name": "https", "port": 443, "targetPort": port}]}}
    subset = {"addresses": [{"ip": address}], "ports": [{"name": "https", "port": port}]}
    group, version = GROUP.split("/")
    spec = {
        "group": group,
        "version": version,
        "service": {"name": "metrics", "namespace": namespace},
        "insecureSkipTLSVerify": True,
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
    }
    return [
        {"apiVersion": "v1", "kind": "Service"} | service,
        {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "metrics"}, "subsets": [subset]},
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"{version}.{group}"},
            "spec": spec,
        },
    ]


@contextmanager
def scaled_release(namespace: Namespace, config: helm.Config, image: str, folder: str) -> Iterator[str]:
    keys = {"metadata": {"name": "scaled-keys"}, "stringData": {"crm": API_KEY}}
    namespace.apply({"apiVersion": "v1", "kind": "Secret"} | keys)
    values = chart_values(image, folder) | {
        "apiKeys": {"secretName": "scaled-keys"},
        "autoscaling": {"enabled": True, "maxReplicas": 2, "targetCpuPercent": 70},
    }
    config.install(CHART, "scaled", values)
    try:
        yield "scaled"
    finally:
        config.uninstall("scaled")


def test_a_busy_transformer_gets_a_second_pod_and_an_idle_predictor_does_not(
    namespace: Namespace, helm_config: helm.Config, serving_image: str, served_folder: str, metrics: Metrics
) -> None:
    with scaled_release(namespace, helm_config, serving_image, served_folder) as release:
        namespace.wait_for_deployments(f"{release}-predictor", f"{release}-transformer")
        scaler = namespace.get("horizontalpodautoscaler", f"{release}-transformer")["spec"]

        metrics.millicores["transformer"] = 2 * REQUEST
        wait_until(
            "the transformer has two pods",
            lambda: ready_pods(namespace, f"{release}-transformer") == 2,
            120,
            lambda: namespace.kubectl("describe", "horizontalpodautoscalers") + namespace.report(),
        )
        metrics.millicores["transformer"] = 1
        wait_until(
            "the load that went is waited for", lambda: scaling_reason(namespace, release) == "ScaleDownStabilized", 60
        )
        predictors = ready_pods(namespace, f"{release}-predictor")

    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (1, 2)
    assert scaler["scaleTargetRef"]["name"] == f"{release}-transformer"
    (metric,) = scaler["metrics"]
    assert metric["resource"] == {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}
    assert predictors == 1


def ready_pods(namespace: Namespace, deployment: str) -> int:
    return int(namespace.get("deployment", deployment)["status"].get("readyReplicas", 0))


def scaling_reason(namespace: Namespace, release: str) -> str:
    status = namespace.get("horizontalpodautoscaler", f"{release}-transformer")["status"]
    return next((item["reason"] for item in status["conditions"] if item["type"] == "AbleToScale"), "")
