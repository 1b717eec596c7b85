"""manifests/: the rendered base is current, every patch finds its target, and RayJobs keep the rules they need.

What the API server thinks of them is asked in tests/cluster.
"""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.utils.quantity import parse_quantity

import mailtriage
from components.training_places import manifest
from mailtriage.config import load_config

ROOT = Path(__file__).parent.parent
MANIFESTS = ROOT / "manifests"
OVERLAYS = sorted(path.parent for path in MANIFESTS.glob("overlays/*/kustomization.yaml"))

Object = dict[str, Any]


def documents(path: Path) -> list[Object]:
    return [item for item in yaml.safe_load_all(path.read_text(encoding="utf-8")) if item]


def base_objects() -> list[Object]:
    kustomization = documents(MANIFESTS / "base" / "kustomization.yaml")[0]
    return [item for name in kustomization["resources"] for item in documents(MANIFESTS / "base" / name)]


def ray_job() -> Object:
    return documents(MANIFESTS / "training" / "cpu" / "rayjob.yaml")[0]


def pod_templates(job: Object) -> dict[str, Object]:
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    return {
        "head": cluster["headGroupSpec"]["template"],
        "worker": workers["template"],
        "submitter": job["spec"]["submitterPodTemplate"],
    }


def worker_cpus(variant: str) -> int:
    resources = pod_templates(ray_job())["worker"]["spec"]["containers"][0]["resources"]
    if variant == "gpu":
        (resources,) = [
            patch["value"]
            for patch in documents(MANIFESTS / "training" / "gpu" / "workers.yaml")[0]
            if patch["path"].endswith("/resources")
        ]
    return int(resources["limits"]["cpu"])


def test_base_is_the_rendered_chart() -> None:
    spec = importlib.util.spec_from_file_location("render", MANIFESTS / "render.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    assert script.RENDERED.read_text(encoding="utf-8") == script.rendered(), "run: python manifests/render.py"


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_every_patch_of_an_overlay_finds_its_target(overlay: Path) -> None:
    known = [(item["kind"], item["metadata"]["name"]) for item in base_objects()]

    for patch in documents(overlay / "kustomization.yaml")[0]["patches"]:
        target = patch["target"]
        matching = [name for kind, name in known if kind == target["kind"] and re.fullmatch(target["name"], name)]
        assert matching, f"{overlay.name}: {patch['path']} patches nothing"
        assert (overlay / patch["path"]).is_file()


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_namespaces_enforce_pod_security_restricted(overlay: Path) -> None:
    (namespace,) = documents(overlay / "namespace.yaml")

    assert namespace["metadata"]["name"] == documents(overlay / "kustomization.yaml")[0]["namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_transformer_is_open_to_the_gateway_of_the_overlays_own_namespace(overlay: Path) -> None:
    (patch,) = documents(overlay / "gateway-namespace.yaml")[0]

    assert patch["value"] == documents(overlay / "kustomization.yaml")[0]["namespace"]


def test_pipeline_runner_may_make_follow_and_remove_ray_jobs() -> None:
    role, binding = documents(MANIFESTS / "base" / "pipeline-runner.yaml")
    may = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}

    assert may == {
        *(("rayjobs", verb) for verb in ("create", "get", "delete")),
        ("pods", "list"),
        ("events", "list"),
        ("pods/log", "get"),
    }
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "pipeline-runner", "namespace": "kubeflow"}]


def test_a_ray_job_ends_and_is_never_submitted_twice() -> None:
    spec = ray_job()["spec"]

    assert spec["submitterConfig"]["backoffLimit"] == spec["backoffLimit"] == 0
    assert spec["activeDeadlineSeconds"] > spec["preRunningDeadlineSeconds"] > 0
    assert spec["shutdownAfterJobFinishes"] is True


@pytest.mark.parametrize("role", ["head", "worker", "submitter"])
def test_every_pod_of_a_ray_job_is_as_restricted_as_pod_security_asks(role: str) -> None:
    spec = pod_templates(ray_job())[role]["spec"]

    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for container in spec["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} <= container["resources"].keys()
    assert all(volume["emptyDir"]["sizeLimit"] for volume in spec["volumes"] if "emptyDir" in volume)


def test_head_and_workers_share_a_volume() -> None:
    """Ray's storage must be shared with more than one node, or checkpoints are lost."""
    templates = pod_templates(ray_job())
    claims = [
        {
            volume["persistentVolumeClaim"]["claimName"]
            for volume in templates[role]["spec"]["volumes"]
            if "persistentVolumeClaim" in volume
        }
        for role in ("head", "worker")
    ]

    assert claims[0] == claims[1] == {"mailtriage-shared"}


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_the_train_step_makes_the_job_of_the_manifests(variant: str) -> None:
    job = manifest(variant)
    resources = pod_templates(job)["worker"]["spec"]["containers"][0]["resources"]["limits"]

    assert int(resources["cpu"]) == worker_cpus(variant)
    assert ("nvidia.com/gpu" in resources) is (variant == "gpu")
    assert job["spec"]["activeDeadlineSeconds"] == {"cpu": 14400, "gpu": 7200}[variant]


def test_ray_of_the_job_is_the_ray_of_the_image() -> None:
    (locked,) = re.findall(
        r"^ray==(\S+)", (ROOT / "requirements" / "train.txt").read_text(encoding="utf-8"), re.MULTILINE
    )

    assert ray_job()["spec"]["rayClusterSpec"]["rayVersion"] == locked


def test_images_of_the_job_are_what_make_images_builds() -> None:
    images = {template["spec"]["containers"][0]["image"] for template in pod_templates(ray_job()).values()}

    assert images == {f"docker.io/mailtriage/training:{mailtriage.__version__}"}


def test_training_on_gpus_uses_the_production_configuration() -> None:
    mounted = load_config(MANIFESTS / "training" / "gpu" / "train.yaml")
    production = load_config(ROOT / "configs" / "production.yaml")

    assert mounted.model_copy(update={"taxonomy": production.taxonomy}) == production


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_training_configuration_fits_the_cluster_that_the_job_asks_for(variant: str) -> None:
    config = load_config(MANIFESTS / "training" / variant / "train.yaml")
    workers = ray_job()["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    cpus = worker_cpus(variant)

    assert config.workers == workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"]
    assert config.worker_cpus <= cpus
    assert config.storage is not None
    assert config.storage.startswith("/mnt/training/")
    assert config.gpus is (variant == "gpu")


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_a_namespaces_quota_has_room_for_a_roll_of_the_servers_beside_a_ray_job(overlay: Path) -> None:
    (quota,) = [item for item in documents(overlay / "quota.yaml") if item["kind"] == "ResourceQuota"]
    templates = pod_templates(ray_job())
    workers = ray_job()["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"]
    containers = [templates[role]["spec"]["containers"][0] for role in ("head", "submitter", *["worker"] * workers)]
    (service,) = [item for item in base_objects() if item["kind"] == "InferenceService"]
    patches = documents(overlay / "servers.yaml")[0]
    for name in ("predictor", "transformer"):
        given = {
            patch["path"].removeprefix(f"/spec/{name}/"): patch["value"] for patch in patches if name in patch["path"]
        }
        resources = given.get("containers/0/resources", service["spec"][name]["containers"][0]["resources"])
        pods = given.get("maxReplicas", service["spec"][name]["maxReplicas"]) + 1  # one more while a roll goes on
        containers += [{"resources": resources}] * pods

    for kind in ("requests", "limits"):
        for resource in ("cpu", "memory"):
            needed = sum(parse_quantity(container["resources"][kind][resource]) for container in containers)
            assert needed <= parse_quantity(quota["spec"]["hard"][f"{kind}.{resource}"]), (kind, resource, needed)
