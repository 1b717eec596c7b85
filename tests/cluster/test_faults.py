"""What is wrong shows where docs/runbook.md says, and never by letting a request through."""

import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import httpx
import pytest
from certificates import HOST, certificate
from conftest import restricted_namespace
from installation import CHART, Release, chart_values, release_values
from kube import Namespace, wait_until

Install = Callable[..., str]


@pytest.fixture
def install(helm_config: helm.Config, serving_image: str) -> Iterator[Install]:
    """Installs a release that is expected not to work; it is gone after the test."""
    releases: list[str] = []

    def make(folder: str, name: str = "", **values: Any) -> str:
        name = f"fault-{name or folder}"
        releases.append(name)
        helm_config.install(CHART, name, chart_values(serving_image, folder) | values)
        return name

    yield make
    for name in releases:
        helm_config.uninstall(name)


def last_words(namespace: Namespace, release: str, component: str) -> str:
    """What a container that went said last."""
    pods = namespace.list("pods", f"serving.kserve.io/inferenceservice={release},component={component}")
    states = [status for pod in pods for status in pod["status"].get("containerStatuses", [])]
    ends = [
        state["terminated"] for item in states for state in (item["state"], item["lastState"]) if "terminated" in state
    ]
    return "".join(end.get("message", "") for end in ends)


def damaged_copy(bundle: Path, folder: Path) -> Path:
    shutil.copytree(bundle, folder)
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    return folder


def test_a_changed_bundle_is_refused_by_both_servers_with_the_files_name(
    install: Install, namespace: Namespace, shared_folder: Path, bundle_path: Path
) -> None:
    with (damaged_copy(bundle_path, shared_folder / "bundles" / "changed") / "tokenizer.json").open("a") as file:
        file.write(" ")

    release = install("changed")

    for component in ("predictor", "transformer"):
        said = wait_until(
            f"{component} refuses the bundle",
            lambda component=component: last_words(namespace, release, component),  # type: ignore[misc]
            120,
            namespace.report,
        )
        assert "tokenizer.json" in said
        assert "SHA-256" in said


def test_a_bundle_without_a_file_is_refused_with_the_files_name(
    install: Install, namespace: Namespace, shared_folder: Path, bundle_path: Path
) -> None:
    (damaged_copy(bundle_path, shared_folder / "bundles" / "incomplete") / "calibration.json").unlink()

    release = install("incomplete")

    said = wait_until(
        "the bundle is refused", lambda: last_words(namespace, release, "predictor"), 120, namespace.report
    )
    assert "lacks 'calibration.json'" in said


def test_without_the_secret_of_the_keys_nobody_gets_in(
    install: Install, namespace: Namespace, shared_folder: Path, bundle_path: Path
) -> None:
    damaged_copy(bundle_path, shared_folder / "bundles" / "keyless")

    release = install("keyless", apiKeys={"secretName": "not-there"})

    def accepted() -> str | None:
        return namespace.conditions("securitypolicy", release).get("Accepted")

    def address() -> str | None:
        addresses = namespace.get("gateway", release).get("status", {}).get("addresses", [])
        return addresses[0]["value"] if addresses else None

    wait_until("the policy is judged", lambda: accepted() == "False", 60, namespace.report)
    namespace.wait_for_deployments(f"{release}-predictor", f"{release}-transformer")
    url = f"http://{wait_until('the Gateway has an address', address, 60)}/v2/health/ready"
    answer = wait_until("the Gateway answers", lambda: reached(url), 60, namespace.report)
    assert answer.status_code == 500


def reached(url: str) -> httpx.Response | None:
    try:
        return httpx.get(url, headers={"x-api-key": "anything"}, timeout=10)
    except httpx.TransportError:
        return None


def container_state(namespace: Namespace, release: str) -> str:
    """Why the predictor's container waits."""
    pods = namespace.list("pods", f"serving.kserve.io/inferenceservice={release},component=predictor")
    statuses = [status for pod in pods for status in pod["status"].get("containerStatuses", [])]
    return "".join(status["state"].get("waiting", {}).get("reason", "") for status in statuses)


def events_of(namespace: Namespace) -> str:
    return "\n".join(event.get("message", "") for event in namespace.list("events"))


def test_a_folder_without_a_bundle_is_refused(install: Install, namespace: Namespace, shared_folder: Path) -> None:
    (shared_folder / "bundles" / "empty").mkdir()

    release = install("empty")

    said = wait_until(
        "the folder is refused", lambda: last_words(namespace, release, "predictor"), 120, namespace.report
    )
    assert "found no manifest.json there" in said


def test_an_image_that_does_not_exist_shows_as_image_pull_back_off(install: Install, namespace: Namespace) -> None:
    release = install("current", name="image", image={"repository": "docker.io/mailtriage/serving", "tag": "not-there"})

    reasons = {"ErrImagePull", "ImagePullBackOff"}
    wait_until("the pull fails", lambda: container_state(namespace, release) in reasons, 90, namespace.report)


def listener(namespace: Namespace, release: str) -> dict[str, dict[str, str]]:
    """Conditions of the Gateway's listener, by type."""
    listeners = namespace.get("gateway", release).get("status", {}).get("listeners", [])
    return {condition["type"]: condition for item in listeners for condition in item["conditions"]}


def https(namespace: Namespace, name: str, public: str, private: str) -> dict[str, Any]:
    """Values for a release with this certificate in a Secret of this name."""
    secret = {"metadata": {"name": name}, "stringData": {"tls.crt": public, "tls.key": private}}
    namespace.apply({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls"} | secret)
    return {"gateway": {"hostname": HOST, "port": 443, "tlsSecretName": name}}


@pytest.mark.parametrize("fault", ["missing", "no-certificate"])
def test_a_tls_secret_that_is_none_is_named_by_the_listener(install: Install, namespace: Namespace, fault: str) -> None:
    if fault == "missing":
        values = {"gateway": {"hostname": HOST, "port": 443, "tlsSecretName": "not-there"}}
    else:
        values = https(namespace, "tls-none", "no certificate", "no key")

    release = install("current", name=f"tls-{fault}", **values)

    def refused() -> bool:
        return listener(namespace, release).get("ResolvedRefs", {}).get("status") == "False"

    wait_until("the listener refuses it", refused, 60, namespace.report)
    assert listener(namespace, release)["ResolvedRefs"]["reason"] == "InvalidCertificateRef"
    assert listener(namespace, release)["Programmed"]["status"] == "False"


def test_an_expired_certificate_is_what_clients_complain_of(install: Install, namespace: Namespace) -> None:
    public, private = certificate(days=-1)
    release = install("current", name="expired", **https(namespace, "tls-expired", public, private))

    def said() -> str:
        found = listener(namespace, release).get("ResolvedRefs", {})
        if found.get("status") == "False":
            return found["message"]
        addresses = namespace.get("gateway", release).get("status", {}).get("addresses", [])
        if not addresses:
            return ""
        try:
            context = ssl.create_default_context(cadata=public)
            with socket.create_connection((addresses[0]["value"], 443), timeout=5) as plain:
                context.wrap_socket(plain, server_hostname=HOST)
        except ssl.SSLCertVerificationError as error:
            return str(error)
        except OSError:
            return ""
        return "accepted"

    assert "expired" in wait_until("somebody complains", said, 90, namespace.report)


def test_a_quota_that_is_used_up_shows_as_an_event(serving_image: str, cluster: None) -> None:
    with restricted_namespace() as full:
        full.apply(
            {
                "apiVersion": "v1",
                "kind": "ResourceQuota",
                "metadata": {"name": "full"},
                "spec": {"hard": {"pods": "0"}},
            }
        )
        with helm.Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace=full.name) as config:
            config.install(CHART, "quota", chart_values(serving_image, "current"))
            wait_until("the quota is named", lambda: "exceeded quota: full" in events_of(full), 60, full.report)
            failures = full.conditions("deployment", "quota-predictor")
            config.uninstall("quota")

    assert failures["ReplicaFailure"] == "True"


def test_without_kserves_webhook_nothing_changes_and_everything_goes_on(
    release: Release, helm_config: helm.Config, serving_image: str
) -> None:
    controller = Namespace("kserve")
    controller.kubectl("scale", "deployment/kserve-controller-manager", "--replicas=0")
    try:
        wait_until(
            "the webhook is gone", lambda: not controller.list("pods", "control-plane=kserve-controller-manager"), 60
        )
        values = release_values(serving_image, "current") | {"extraLabels": {"changed": "yes"}}
        with pytest.raises(helm.HelmError, match="failed calling webhook"):
            helm_config.upgrade(CHART, release.name, values)
        answer = release.gateway.get("/v2/health/ready", headers=release.key)
    finally:
        controller.kubectl("scale", "deployment/kserve-controller-manager", "--replicas=1")
        controller.wait_for_deployments("kserve-controller-manager")

    assert answer.status_code == 200
    wait_until("an upgrade goes through", lambda: upgraded(helm_config, release.name, serving_image), 60)


def upgraded(helm_config: helm.Config, name: str, image: str) -> bool:
    try:
        helm_config.upgrade(CHART, name, release_values(image, "current"))
    except helm.HelmError:
        return False
    return True
