"""Tests against the cluster that KUBECONFIG names: KServe, Envoy Gateway and KubeRay must be there.

Without one they are skipped, with the reason. Where a skip must not happen (`MAILTRIAGE_NO_SKIPS=1`), it is a failure.
The images are built with BUILDER (`make images`) and brought into the cluster with the command LOADER, if one is given.
RESTARTER is a command that restarts one of the node's servers (`RESTARTER kubelet`), HOST_ADDRESS an address of this
machine that pods reach; tests that need them are skipped where they are not set.
The node must see this machine's folders, because the bundle and the training data lie on a hostPath volume.
"""

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import helm_python as helm
import httpx
import pytest
from installation import API_KEY, CHART, ROOT, Release, release_values
from kube import KubectlFailed, Namespace, kubectl, wait_until

import mailtriage
from mailtriage.mail import Email

NEEDED = (
    "inferenceservices.serving.kserve.io",
    "securitypolicies.gateway.envoyproxy.io",
    "httproutes.gateway.networking.k8s.io",
    "rayjobs.ray.io",
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if report.skipped and os.environ.get("MAILTRIAGE_NO_SKIPS") == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"skips are not allowed here: {reason}"
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("cluster")
            item.add_marker(pytest.mark.timeout(1800))  # the first one builds and loads the images
    # Last: the proxies of its many releases drain for a minute, and hold CPU that the others ask for.
    items.sort(key=lambda item: item.path.name == "test_faults.py")


@pytest.fixture(scope="session")
def cluster() -> None:
    """There is a cluster, and it has what we install on."""
    if "KUBECONFIG" not in os.environ:
        pytest.skip("no cluster: KUBECONFIG is not set")
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on PATH")
    try:
        kubectl("get", "--raw", "/readyz", timeout=30)
        kubectl("get", "customresourcedefinitions", *NEEDED, "--output=name")
    except (KubectlFailed, subprocess.TimeoutExpired) as failure:
        pytest.skip(f"no cluster that has KServe, Envoy Gateway and KubeRay: {failure}")


def build_and_load(stage: str) -> str:
    """Build a stage of the Dockerfile, bring it into the cluster, and return the image's name."""
    builder, image = os.environ.get("BUILDER", "docker"), f"docker.io/mailtriage/{stage}:{mailtriage.__version__}"
    if shutil.which(builder) is None:
        pytest.skip(f"the image builder '{builder}' is not there (BUILDER=PATH names another)")
    run("make", "images", f"STAGES={stage}", f"BUILDER={builder}")
    if loader := os.environ.get("LOADER"):
        run(*loader.split(), image)
    return image


def run(*command: str) -> None:
    """Run a command in the repository; what it said is shown only if it failed."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-8000:]}"


@pytest.fixture(scope="session")
def serving_image(cluster: None) -> str:
    return build_and_load("serving")


@pytest.fixture(scope="session")
def training_image(cluster: None) -> str:
    return build_and_load("training")


@pytest.fixture(scope="session")
def platform_image(cluster: None) -> str:
    return build_and_load("platform")


@contextmanager
def namespace_that_enforces(level: str) -> Iterator[Namespace]:
    """A new namespace that enforces this Pod Security level; gone after the block."""
    name = f"mailtriage-test-{secrets.token_hex(3)}"
    labels = {"pod-security.kubernetes.io/enforce": level}
    made = Namespace(name)
    made.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    try:
        yield made
    finally:
        kubectl("delete", "namespace", name, "--wait=true", "--timeout=120s", timeout=150)


def restricted_namespace() -> AbstractContextManager[Namespace]:
    return namespace_that_enforces("restricted")


@pytest.fixture(scope="session")
def namespace(cluster: None) -> Iterator[Namespace]:
    """The namespace of the release and of training, which enforces Pod Security `restricted`; gone after the tests."""
    with restricted_namespace() as made:
        yield made


@pytest.fixture(scope="session")
def empty_namespace(cluster: None) -> Iterator[Namespace]:
    """As `namespace`, for objects that the API server only checks."""
    with restricted_namespace() as made:
        yield made


@pytest.fixture(scope="session")
def shared_folder(namespace: Namespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of this machine that pods mount as the claim `mailtriage-shared`; any user may write into it."""
    folder = tmp_path_factory.mktemp("shared")
    folder.chmod(0o777)
    volume = f"{namespace.name}-shared"
    size, modes = {"storage": "10Gi"}, ["ReadWriteMany"]
    namespace.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {
                "capacity": size,
                "accessModes": modes,
                "storageClassName": "",
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {"namespace": namespace.name, "name": "mailtriage-shared"},
                "hostPath": {"path": str(folder), "type": "Directory"},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "mailtriage-shared"},
            "spec": {
                "accessModes": modes,
                "storageClassName": "",
                "volumeName": volume,
                "resources": {"requests": size},
            },
        },
    )
    yield folder
    kubectl("delete", "persistentvolume", volume, "--wait=false")


@pytest.fixture(scope="session")
def training_data(mails: list[Email], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled mails as rows of a file."""
    file = tmp_path_factory.mktemp("data") / "train.jsonl"
    file.write_text("".join(json.dumps(mail.to_record()) + "\n" for mail in mails), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def helm_config(namespace: Namespace) -> Iterator[helm.Config]:
    with helm.Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace=namespace.name) as config:
        yield config


@pytest.fixture(scope="session")
def served_folder(shared_folder: Path, bundle_path: Path) -> str:
    """Name of the folder of the shared volume that has a real bundle."""
    shutil.copytree(bundle_path, shared_folder / "bundles" / "current")
    subprocess.run(["chmod", "-R", "a+rX", str(shared_folder)], check=True)
    return "current"


@pytest.fixture(scope="session")
def release(
    namespace: Namespace, helm_config: helm.Config, serving_image: str, served_folder: str
) -> Iterator[Release]:
    """The chart, installed with a real bundle on a volume, two pods of each server, keys and tokens; all are ready."""
    namespace.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "mailtriage-api-keys"},
            "stringData": {"crm": API_KEY},
        }
    )
    helm_config.install(CHART, "mailtriage", release_values(serving_image, served_folder))
    # The InferenceService is Ready before its pods are.
    namespace.wait_for_deployments("mailtriage-predictor", "mailtriage-transformer")
    address = wait_until("the Gateway has an address", lambda: gateway_address(namespace), 120, namespace.report)
    with httpx.Client(base_url=f"http://{address}", timeout=60) as client:
        wait_until("the Gateway asks for a key", lambda: status_of(client) == 401, 60, namespace.report)
        yield Release("mailtriage", namespace, client)
    helm_config.uninstall("mailtriage")


def gateway_address(namespace: Namespace) -> str | None:
    addresses = namespace.get("gateway", "mailtriage").get("status", {}).get("addresses", [])
    return addresses[0]["value"] if addresses else None


def status_of(client: httpx.Client) -> int | None:
    try:
        return client.get("/v2/health/ready").status_code
    except httpx.TransportError:
        return None
