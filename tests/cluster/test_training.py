"""The train step as a RayJob of the training image: a verified bundle lands on the shared volume."""

import json
from pathlib import Path

import pytest
import yaml
from kube import Namespace, kubectl, wait_until

from mailtriage.bundle import Bundle

SMALL = Path(__file__).parent / "training"


def apply_job(namespace: Namespace, image: str, name: str, entrypoint_changes: dict[str, str]) -> None:
    """Start the small RayJob under this name, with changes in its command."""
    objects = list(yaml.safe_load_all(kubectl("kustomize", str(SMALL))))
    (job,) = [item for item in objects if item["kind"] == "RayJob"]
    assert image in json.dumps(job)
    job["metadata"]["name"] = name
    for old, new in entrypoint_changes.items():
        assert old in job["spec"]["entrypoint"]
        job["spec"]["entrypoint"] = job["spec"]["entrypoint"].replace(old, new)
    namespace.apply(*objects)


def end_of(namespace: Namespace, name: str) -> dict[str, str]:
    """Status of a RayJob that has ended."""

    def ended() -> dict[str, str] | None:
        status: dict[str, str] = namespace.get("rayjob", name).get("status", {})
        return status if status.get("jobDeploymentStatus") in ("Complete", "Failed") else None

    status: dict[str, str] = wait_until(f"RayJob {name} ends", ended, 600, namespace.report)
    return status


@pytest.fixture
def training_volume(shared_folder: Path, training_data: Path) -> Path:
    """The shared volume with mails to train on, writable for the pods' user."""
    for name in ("data", "bundles", "ray", "huggingface"):
        (shared_folder / name).mkdir(exist_ok=True)
        (shared_folder / name).chmod(0o777)
    (shared_folder / "data" / "train.jsonl").write_bytes(training_data.read_bytes())
    return shared_folder


def test_a_ray_job_trains_a_bundle_onto_the_shared_volume(
    namespace: Namespace, training_volume: Path, training_image: str
) -> None:
    apply_job(namespace, training_image, "mailtriage-train", {})

    status = end_of(namespace, "mailtriage-train")

    assert status["jobStatus"] == "SUCCEEDED", namespace.report()
    bundle = Bundle.open(training_volume / "bundles" / "candidate", verify=True)
    assert bundle.model_version.startswith("unregistered-")
    wait_until("the Ray cluster is gone", lambda: not namespace.list("rayclusters"), 120, namespace.report)


def test_a_ray_job_that_cannot_train_ends_as_failed_and_says_why(
    namespace: Namespace, training_volume: Path, training_image: str
) -> None:
    apply_job(namespace, training_image, "mailtriage-fails", {"train.jsonl": "missing.jsonl", "candidate": "none"})

    status = end_of(namespace, "mailtriage-fails")

    assert status["jobStatus"] == "FAILED"
    assert "missing.jsonl" in namespace.kubectl("logs", "--selector=job-name=mailtriage-fails", "--tail=-1")
    assert len(namespace.list("pods", "job-name=mailtriage-fails")) == 1  # submitted once
    assert not (training_volume / "bundles" / "none").exists()
