"""Training as a RayJob of the training image: applied by hand, and made by the compiled pipeline's train step."""

import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import yaml
from installation import ROOT
from kube import Namespace, kubectl, wait_until

from mailtriage.bundle import Bundle
from mailtriage.config import TrainingConfig
from mailtriage.examples import Example, write_examples
from mailtriage.fitting import fit, prepare
from mailtriage.ray_jobs import JOB
from mailtriage.taxonomy import Taxonomy

SLOW = TrainingConfig(  # epochs of some seconds, and nothing that chance decides
    encoder="embedded",
    encoder_layers=1,
    max_tokens=64,
    epochs=5,
    freeze_embeddings=True,
    dropout=0.0,
    batch_tokens=256,
    learning_rate=2e-4,
    head_learning_rate=5e-3,
    precision="fp32",
    export_tolerance=1.0,
)
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


@pytest.fixture
def split_mails(training_volume: Path, examples: list[Example]) -> tuple[Path, Path]:
    """What the step `split` would hand to `train`, on the volume."""
    folder = training_volume / "steps"
    folder.mkdir(exist_ok=True)
    files = folder / "train.jsonl", folder / "validation.jsonl"
    for file, part in zip(files, (examples[:320], examples[320:]), strict=True):
        write_examples(file, part)
    folder.chmod(0o777)
    (training_volume / "runs").mkdir(exist_ok=True)
    (training_volume / "runs").chmod(0o777)
    return files


def train_step(image: str, ray_job: str, mails: tuple[Path, Path]) -> dict[str, Any]:
    """The pod of the compiled pipeline's train step, as KFP makes it."""
    compiled, platform = yaml.safe_load_all((ROOT / "manifests" / "pipelines" / "training.yaml").read_text())
    container = compiled["deploymentSpec"]["executors"]["exec-train"]["container"]
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]
    assert container["image"] == image
    (claim,), (variable,) = settings["pvcMount"], settings["fieldPathAsEnv"]
    shared = claim["mountPath"]
    inputs = {
        name: artifact(name, "Dataset", f"{shared}/steps/{file.name}")
        for name, file in zip(("train_mails", "validation_mails"), mails, strict=True)
    }
    parameters = {
        "config": SLOW.model_copy(update={"workers": 1}).model_dump_json(),
        "taxonomy": (ROOT / "taxonomy.yaml").read_text(encoding="utf-8"),
        "train_as": "ray-job",
        "ray_job": ray_job,
        "ray_namespace": "",
    }
    task = {
        "inputs": {"parameterValues": parameters, "artifacts": inputs},
        "outputs": {
            "parameters": {"Output": {"outputFile": f"{shared}/steps/score"}},
            "artifacts": {"bundle": artifact("bundle", "Model", f"{shared}/steps/bundle")},
            "outputFile": f"{shared}/steps/output.json",
        },
    }
    user = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "train-step", "labels": {"pipeline/runid": "run-1"}},
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": "pipeline-runner",
            "securityContext": user,
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "command": container["command"],
                    "args": [argument.replace("{{$}}", json.dumps(task)) for argument in container["args"]],
                    "env": [
                        {"name": variable["name"], "valueFrom": {"fieldRef": {"fieldPath": variable["fieldPath"]}}},
                        {"name": "PYTHONUNBUFFERED", "value": "1"},
                    ],
                    "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "shared", "mountPath": shared}],
                }
            ],
            "volumes": [
                {
                    "name": "shared",
                    "persistentVolumeClaim": {"claimName": claim["pvcNameParameter"]["runtimeValue"]["constant"]},
                }
            ],
        },
    }


def artifact(name: str, kind: str, uri: str) -> dict[str, Any]:
    schema = {"schemaTitle": f"system.{kind}", "schemaVersion": "0.0.1"}
    return {"artifacts": [{"name": name, "uri": uri, "type": schema, "metadata": {"sha256": "ab" * 32}}]}


def may_run_ray_jobs(namespace: Namespace) -> None:
    """Give the service account of pipeline steps the Role of manifests/base, in the namespace of the test."""
    objects = list(yaml.safe_load_all((ROOT / "manifests" / "base" / "pipeline-runner.yaml").read_text()))
    for item in objects:
        for subject in item.get("subjects", []):
            subject["namespace"] = namespace.name
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "pipeline-runner"}}
    namespace.apply(account, *objects)


def test_the_train_step_loses_a_worker_in_an_epoch_and_ends_with_the_same_quality(
    namespace: Namespace,
    training_volume: Path,
    split_mails: tuple[Path, Path],
    training_image: str,
    platform_image: str,
    taxonomy: Taxonomy,
    examples: list[Example],
    tmp_path: Path,
) -> None:
    may_run_ray_jobs(namespace)
    rendered = yaml.safe_load_all(kubectl("kustomize", str(SMALL)))
    (job,) = [item for item in rendered if item["kind"] == "RayJob"]
    namespace.apply(train_step(platform_image, yaml.safe_dump(job), split_mails))

    def log() -> str:
        return namespace.kubectl("logs", "train-step", "--tail=-1")

    def phase() -> str:
        return str(namespace.get("pod", "train-step")["status"]["phase"])

    def trains() -> bool:
        assert phase() != "Failed", log()
        return phase() == "Running" and "epoch 1/5  loss" in log()

    wait_until("an epoch is over", trains, 300, namespace.report)
    (worker,) = namespace.list("pods", f"{JOB},ray.io/node-type=worker")
    namespace.kubectl("delete", "pod", worker["metadata"]["name"], "--grace-period=0", "--force")
    assert "epoch 5/5  loss" not in log()
    undisturbed = fit(*prepare(SLOW, taxonomy, examples[:320], examples[320:], tmp_path), SLOW)
    wait_until("the step ends", lambda: phase() in ("Succeeded", "Failed"), 300, log)

    said = log()
    assert phase() == "Succeeded", said
    group = worker["metadata"]["name"].rpartition("-")[0]
    workers = {event["involvedObject"]["name"] for event in namespace.list("events") if event["reason"] == "Scheduled"}
    assert len([name for name in workers if name.startswith(group)]) == 2  # it was replaced, so it was needed
    times = sorted(said.count(f"epoch {epoch}/5  loss") for epoch in range(1, 6))
    # It went on from the checkpoint: at most the epoch was done again that was said and not yet saved.
    assert times in ([1] * 5, [1, 1, 1, 1, 2]), said
    trained = Bundle.open(training_volume / "steps" / "bundle")
    metrics = trained.read_json("metrics.json")
    losses = [epoch["loss"] for epoch in metrics["history"]]
    assert losses == pytest.approx([epoch.loss for epoch in undisturbed], rel=1e-3)
    encoder = mean(metrics["validation_macro_f1_by_part"]["encoder"].values())
    assert encoder == pytest.approx(max(epoch.macro_f1 for epoch in undisturbed), abs=0.02)
    output = json.loads((training_volume / "steps" / "output.json").read_text())
    assert output["parameterValues"]["Output"] == pytest.approx(metrics["validation_macro_f1"])
    assert output["artifacts"]["bundle"]["artifacts"][0]["metadata"]["digest"] == trained.digest
    assert not list((training_volume / "runs").iterdir())
    assert not namespace.list("pods", JOB)
    assert not [job for job in namespace.list("rayjobs") if job["metadata"]["name"].startswith("mailtriage-train-")]
