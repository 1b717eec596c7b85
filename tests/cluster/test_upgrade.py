"""A release changes and goes back while clients send mails: none of their requests fails."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
from installation import CHART, Release, release_values
from kube import Namespace, wait_until
from traffic import Traffic

from mailtriage.bundle import stamp_model_version

COMPONENTS = ("predictor", "transformer")


def in_all_pods(namespace: Namespace, read: Callable[[dict[str, Any]], str]) -> set[str]:
    """What the servers' containers have, those of going pods included."""
    pods = [pod for component in COMPONENTS for pod in namespace.list("pods", f"app=isvc.mailtriage-{component}")]
    return {read(pod["spec"]) for pod in pods}


def wait_for_roll(namespace: Namespace, read: Callable[[dict[str, Any]], str], wanted: str) -> None:
    wait_until(f"all pods have {wanted}", lambda: in_all_pods(namespace, read) == {wanted}, 240, namespace.report)
    namespace.wait_for_deployments(*(f"mailtriage-{component}" for component in COMPONENTS))


def memory_limit(pod: dict[str, Any]) -> str:
    return str(pod["containers"][0]["resources"]["limits"]["memory"])


def bundle_folder(pod: dict[str, Any]) -> str:
    """The folder of the shared volume that KServe has mounted."""
    mounts = pod["containers"][0]["volumeMounts"]
    return next(str(mount["subPath"]) for mount in mounts if mount["mountPath"] == "/mnt/models")


@pytest.fixture(scope="module")
def other_bundle(shared_folder: Path, release: Release) -> str:
    """The bundle once more under another version, which makes it another one to both servers."""
    folder = shared_folder / "bundles" / "next"
    shutil.copytree(shared_folder / "bundles" / "current", folder)
    stamp_model_version(folder, "next")
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    return "next"


def traffic_to(release: Release) -> Traffic:
    return Traffic(f"{release.gateway.base_url}/v1/models/mailtriage:predict", release.key)


def test_changed_pods_lose_no_request(release: Release, helm_config: helm.Config, serving_image: str) -> None:
    values = release_values(serving_image, "current")
    changed = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "1100Mi"}}
    upgraded = values | {component: {"replicas": 2, "resources": changed} for component in COMPONENTS}

    with traffic_to(release) as traffic:
        helm_config.upgrade(CHART, release.name, upgraded)
        wait_for_roll(release.namespace, memory_limit, "1100Mi")

    assert traffic.outcomes.keys() == {"200"}, traffic.outcomes
    assert traffic.outcomes["200"] > 20


def test_a_new_bundle_and_the_way_back_lose_no_request(
    release: Release, helm_config: helm.Config, serving_image: str, other_bundle: str
) -> None:
    helm_config.upgrade(CHART, release.name, release_values(serving_image, "current"))
    wait_for_roll(release.namespace, memory_limit, "1Gi")

    with traffic_to(release) as traffic:
        helm_config.upgrade(CHART, release.name, release_values(serving_image, other_bundle))
        wait_for_roll(release.namespace, bundle_folder, f"bundles/{other_bundle}")
        answer = release.gateway.get("/v2/models/mailtriage", headers=release.key)
        helm_config.rollback(release.name)
        wait_for_roll(release.namespace, bundle_folder, "bundles/current")

    assert answer.headers["x-model-version"] == "next"
    assert traffic.outcomes.keys() == {"200"}, traffic.outcomes
    assert traffic.outcomes["200"] > 50
