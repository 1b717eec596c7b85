"""The train step as a RayJob of the training image: a verified bundle lands on the shared volume."""

import json
from pathlib import Path

import yaml
from kube import Namespace, kubectl, wait_until

from mailtriage.bundle import Bundle

SMALL = Path(__file__).parent / "training"


def test_a_ray_job_trains_a_bundle_onto_the_shared_volume(
    namespace: Namespace, training_data: Path, training_image: str, shared_folder: Path
) -> None:
    for name in ("data", "bundles", "ray", "huggingface"):
        (shared_folder / name).mkdir(exist_ok=True)
        (shared_folder / name).chmod(0o777)
    (shared_folder / "data" / "train.jsonl").write_bytes(training_data.read_bytes())
    objects = list(yaml.safe_load_all(kubectl("kustomize", str(SMALL))))
    assert all(training_image in json.dumps(item) for item in objects if item["kind"] == "RayJob")

    namespace.apply(*objects)

    status = wait_until("the RayJob ends", lambda: ended(namespace), 600, namespace.report)
    assert status["jobStatus"] == "SUCCEEDED", namespace.report()
    bundle = Bundle.open(shared_folder / "bundles" / "candidate", verify=True)
    assert bundle.model_version.startswith("unregistered-")
    wait_until("the Ray cluster is gone", lambda: not namespace.list("rayclusters"), 120, namespace.report)


def ended(namespace: Namespace) -> dict[str, str] | None:
    status: dict[str, str] = namespace.get("rayjob", "mailtriage-train").get("status", {})
    return status if status.get("jobDeploymentStatus") in ("Complete", "Failed") else None
