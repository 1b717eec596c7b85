"""Pods go, servers of the node restart: requests that were accepted are answered, and what is lost comes back."""

import json
import os
import subprocess

import pytest
from installation import Release
from kube import KubectlFailed, Namespace, kubectl, wait_until
from traffic import LOST, NOT_ACCEPTED, Traffic

DEPLOYMENTS = ("mailtriage-predictor", "mailtriage-transformer")


def traffic_to(release: Release) -> Traffic:
    return Traffic(f"{release.gateway.base_url}/v1/models/mailtriage:predict", release.key)


def pods_of(release: Release, component: str) -> list[str]:
    pods = release.namespace.list("pods", f"app=isvc.mailtriage-{component}")
    return [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def evict(namespace: Namespace, pod: str) -> None:
    """As a drain does; raises where a budget forbids it."""
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace.name}}
    path = f"/api/v1/namespaces/{namespace.name}/pods/{pod}/eviction"
    kubectl("create", "--raw", path, "--filename=-", text=json.dumps(eviction))


@pytest.mark.parametrize("component", ["predictor", "transformer"])
def test_a_deleted_pod_takes_no_request_with_it(release: Release, component: str) -> None:
    release.namespace.wait_for_deployments(*DEPLOYMENTS)

    with traffic_to(release) as traffic:
        release.namespace.kubectl("delete", "pod", pods_of(release, component)[0], "--wait=true")
        release.namespace.wait_for_deployments(*DEPLOYMENTS)

    assert traffic.outcomes.keys() == {"200"}, traffic.outcomes


def test_an_eviction_takes_one_pod_and_the_budget_keeps_the_other(release: Release) -> None:
    first, second = pods_of(release, "predictor")

    with traffic_to(release) as traffic:
        evict(release.namespace, first)
        with pytest.raises(KubectlFailed, match="disruption budget"):
            evict(release.namespace, second)
        release.namespace.wait_for_deployments(*DEPLOYMENTS)

    assert traffic.outcomes.keys() == {"200"}, traffic.outcomes
    assert second in pods_of(release, "predictor")


def test_a_deleted_proxy_is_replaced_and_loses_no_request_that_it_accepted(release: Release) -> None:
    owner = f"gateway.envoyproxy.io/owning-gateway-namespace={release.namespace.name}"
    selector = f"{owner},gateway.envoyproxy.io/owning-gateway-name=mailtriage"
    proxies = Namespace(
        release.namespace.get("networkpolicy", "mailtriage-transformer")["spec"]["ingress"][0]["from"][0][
            "namespaceSelector"
        ]["matchLabels"]["kubernetes.io/metadata.name"]
    )
    (before,) = proxies.list("pods", selector)

    with traffic_to(release) as traffic:
        proxies.kubectl("delete", "pod", before["metadata"]["name"], "--wait=false")
        wait_until("a new proxy is ready", lambda: ready_ones(proxies, selector) - {before["metadata"]["name"]}, 90)
        answered = traffic.outcomes["200"]
        wait_until("it answers", lambda: traffic.outcomes["200"] > answered + 5, 30)

    assert traffic.outcomes[LOST] == 0, traffic.outcomes
    assert traffic.outcomes.keys() <= {"200", NOT_ACCEPTED, LOST}, traffic.outcomes


def ready_ones(namespace: Namespace, selector: str) -> set[str]:
    return {
        pod["metadata"]["name"]
        for pod in namespace.list("pods", selector)
        if {"type": "Ready", "status": "True"}.items()
        <= {item["type"]: item for item in pod["status"].get("conditions", [])}.get("Ready", {}).items()
    }


@pytest.mark.parametrize("server", ["kube-apiserver", "kubelet", "containerd"])
def test_a_restarted_server_of_the_cluster_loses_no_request(release: Release, server: str) -> None:
    """A kubelet that comes back may take all pods for not ready for a moment: then a request is refused, not lost."""
    restarter = os.environ.get("RESTARTER")
    if not restarter:
        pytest.skip("RESTARTER is not set: a command that restarts one of the node's servers")

    with traffic_to(release) as traffic:
        subprocess.run([*restarter.split(), server], check=True, timeout=60)
        answered = traffic.outcomes["200"]
        wait_until("the API server answers", api_server_answers, 60)
        wait_until("requests are answered", lambda: traffic.outcomes["200"] > answered + 20, 60)
        release.namespace.wait_for_deployments(*DEPLOYMENTS)

    refused = {"503 predictor_unavailable", "503 unavailable", "503 not_ready"}
    assert traffic.outcomes.keys() <= {"200", *(refused if server != "kube-apiserver" else ())}, traffic.outcomes


def api_server_answers() -> bool:
    try:
        kubectl("get", "--raw", "/readyz", timeout=10)
    except (KubectlFailed, subprocess.TimeoutExpired):
        return False
    return True
