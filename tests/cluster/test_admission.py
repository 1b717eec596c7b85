"""Every object that we publish is accepted by the API server, the webhooks and Pod Security, without unknown fields."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml
from installation import CHART, ROOT
from kube import KubectlFailed, Namespace, kubectl

from components.training_places import manifest

PROMETHEUS = "github.com/prometheus-operator/prometheus-operator"
SCHEMAS = (  # Go module, file
    ("istio.io/api", "kubernetes/customresourcedefinitions.gen.yaml"),
    (PROMETHEUS, "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml"),
    (PROMETHEUS, "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"),
)
CI_VALUES = sorted((CHART / "ci").glob("*-values.yaml"))


def rendered(values: dict[str, Any], namespace: Namespace) -> list[dict[str, Any]]:
    with helm.Chart.load(CHART) as chart:
        manifests = chart.render(values, name="dry-run", namespace=namespace.name)
    texts = [text for path, text in manifests.items() if path.endswith(".yaml")]
    return [item for text in texts for item in yaml.safe_load_all(text) if item]


@pytest.fixture(scope="module")
def published_schemas(cluster: None) -> Iterator[None]:
    """What Istio and the Prometheus operator define, as their Go modules carry it; no controller of theirs is there."""
    if shutil.which("go") is None:
        pytest.skip("the schemas of Istio and the Prometheus operator come with `go mod download`, and there is no go")
    command = ["go", "mod", "download", "-json", *{module for module, _ in SCHEMAS}]
    done = subprocess.run(command, cwd=Path(__file__).parent / "schemas", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folders = {found["Path"]: Path(found["Dir"]) for found in json_objects(done.stdout)}
    files = [f"--filename={folders[module] / file}" for module, file in SCHEMAS]
    kubectl("create", *files)
    kubectl("wait", "--for=condition=Established", "--timeout=60s", *files)
    yield
    kubectl("delete", "--wait=false", *files)


def json_objects(text: str) -> Iterator[dict[str, str]]:
    """The objects of a text that holds one after the other."""
    decoder = json.JSONDecoder()
    while text := text.strip():
        found, end = decoder.raw_decode(text)
        yield found
        text = text[end:]


@pytest.mark.parametrize("path", CI_VALUES, ids=lambda path: path.stem)
def test_objects_of_the_chart_are_accepted(empty_namespace: Namespace, published_schemas: None, path: Path) -> None:
    objects = rendered(yaml.safe_load(path.read_text(encoding="utf-8")), empty_namespace)
    for item in objects:
        if item["kind"] == "Pod":  # its own ServiceAccount is not there in a dry run
            item["spec"]["serviceAccountName"] = "default"

    empty_namespace.apply(*objects, dry_run=True)


def test_an_unknown_field_would_be_refused(empty_namespace: Namespace) -> None:
    (service,) = [
        item
        for item in rendered({"bundle": {"storageUri": "s3://m/3"}}, empty_namespace)
        if item["kind"] == "InferenceService"
    ]
    service["spec"]["predictor"]["minReplica"] = 1

    with pytest.raises(KubectlFailed, match="minReplica"):
        empty_namespace.apply(service, dry_run=True)


@pytest.mark.parametrize("overlay", ["dev", "prod"])
def test_objects_of_an_overlay_are_accepted(empty_namespace: Namespace, overlay: str) -> None:
    objects = list(yaml.safe_load_all(kubectl("kustomize", str(ROOT / "manifests" / "overlays" / overlay))))
    assert {item["metadata"]["namespace"] for item in objects if item["kind"] != "Namespace"} == {
        f"mailtriage-{overlay}"
    }

    for item in objects:
        if item["kind"] != "Namespace":
            item["metadata"]["namespace"] = empty_namespace.name

    empty_namespace.apply(*objects, dry_run=True)


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_ray_jobs_are_accepted(empty_namespace: Namespace, variant: str) -> None:
    objects = list(yaml.safe_load_all(kubectl("kustomize", str(ROOT / "manifests" / "training" / variant))))
    (job,) = [item for item in objects if item["kind"] == "RayJob"]

    empty_namespace.apply(*objects, dry_run=True)
    assert manifest(variant) == job  # what the train step makes is what `kubectl apply -k` makes


@pytest.mark.parametrize("role", ["head", "worker", "submitter"])
def test_pods_of_a_ray_job_pass_pod_security(empty_namespace: Namespace, role: str) -> None:
    """The RayJob itself is no pod: a forbidden one would only show as a cluster that never starts."""
    (job,) = [
        item
        for item in yaml.safe_load_all(kubectl("kustomize", str(ROOT / "manifests" / "training" / "cpu")))
        if item["kind"] == "RayJob"
    ]
    cluster = job["spec"]["rayClusterSpec"]
    template = {
        "head": cluster["headGroupSpec"]["template"],
        "worker": cluster["workerGroupSpecs"][0]["template"],
        "submitter": job["spec"]["submitterPodTemplate"],
    }[role]

    empty_namespace.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"dry-run-{role}"}, "spec": template["spec"]},
        dry_run=True,
    )


def test_pipeline_runner_may_do_what_the_train_step_does_and_nothing_else(empty_namespace: Namespace) -> None:
    objects = [
        item
        for item in yaml.safe_load_all(
            (ROOT / "manifests" / "base" / "pipeline-runner.yaml").read_text(encoding="utf-8")
        )
        if item
    ]
    empty_namespace.apply(*objects)

    def may(verb: str, resource: str) -> bool:
        kind, _, subresource = resource.partition("/")
        options = ["--as=system:serviceaccount:kubeflow:pipeline-runner", f"--subresource={subresource}"]
        try:
            return empty_namespace.kubectl("auth", "can-i", verb, kind, *options).strip() == "yes"
        except KubectlFailed:  # `no` exits with 1
            return False

    wanted = {("rayjobs.ray.io", verb) for verb in ("create", "get", "delete")}
    wanted |= {("pods", "list"), ("events", "list"), ("pods/log", "get")}
    resources = (
        "rayjobs.ray.io",
        "rayclusters.ray.io",
        "pods",
        "pods/log",
        "events",
        "pods/exec",
        "secrets",
        "configmaps",
    )
    verbs = ("get", "list", "watch", "create", "delete", "update", "patch")

    assert {(resource, verb) for resource in resources for verb in verbs if may(verb, resource)} == wanted


def test_helm_tests_account_may_read_its_gateway_and_nothing_else(empty_namespace: Namespace) -> None:
    objects = rendered({"bundle": {"storageUri": "s3://m/3"}}, empty_namespace)
    empty_namespace.apply(*(item for item in objects if item["kind"] in ("ServiceAccount", "Role", "RoleBinding")))
    who = f"--as=system:serviceaccount:{empty_namespace.name}:dry-run-test"

    said = empty_namespace.kubectl("auth", "can-i", "--list", "--no-headers", who)

    # Resource, URLs, names, verbs; what every account may do has no name in it.
    rights = [line for line in said.splitlines() if not line.startswith(" ") and "k8s.io" in line.split()[0]]
    own = [
        line.split() for line in rights if "authorization.k8s.io" not in line and "authentication.k8s.io" not in line
    ]
    assert own == [["gateways.gateway.networking.k8s.io", "[]", "[dry-run]", "[get]"]]
    assert not [line for line in said.splitlines() if line.split()[0] in ("secrets", "pods", "configmaps", "*.*")]
