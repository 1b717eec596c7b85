"""What is wrong shows where docs/runbook.md says, and never by letting a request through."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import httpx
import pytest
from installation import CHART, chart_values
from kube import Namespace, wait_until

Install = Callable[..., str]


@pytest.fixture
def install(helm_config: helm.Config, serving_image: str) -> Iterator[Install]:
    """Installs a release that is expected not to work; it is gone after the test."""
    releases: list[str] = []

    def make(folder: str, **values: Any) -> str:
        name = f"fault-{folder}"
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
