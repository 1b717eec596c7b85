"""Image and bundle from a registry: pushed by `make images-push`, named by digest, pulled by the node."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python as helm
import httpx
import pytest
from conftest import namespace_that_enforces, run
from installation import API_KEY, CHART, ROOT, chart_values
from kube import Namespace, wait_until

import mailtriage
from serving.supervisor import free_port

SERVER = Path(__file__).parent / "registry"
PUSH_SECONDS = 300
# What KServe runs of a bundle's image is a shell: an image with nothing but the bundle would not start.
BUNDLE_IMAGE = "FROM docker.io/library/debian:bookworm-slim\nCOPY --chown=0:0 bundle /models\n"


@dataclass(frozen=True)
class Registry:
    """A registry on the node: `host` for this machine, and `localhost` with the same port for the node itself."""

    host: str
    on_node: str
    settings: dict[str, str]  # environment of the builder: this registry has no certificate

    def push(self, *command: str) -> str:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | self.settings,
            capture_output=True,
            text=True,
            check=False,
            timeout=PUSH_SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def digest(self, repository: str, tag: str) -> str:
        manifests = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
        answer = httpx.head(f"http://{self.host}/v2/{repository}/manifests/{tag}", headers={"accept": manifests})
        return str(answer.raise_for_status().headers["docker-content-digest"])


@pytest.fixture(scope="module")
def registry(cluster: None, serving_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    if shutil.which("go") is None:
        pytest.skip("the registry comes as a Go module, and there is no go")
    folder = tmp_path_factory.mktemp("registry")
    build = ["go", "build", "-o", str(folder / "registry"), "."]
    environment = os.environ | {"CGO_ENABLED": "0"}
    done = subprocess.run(build, cwd=SERVER, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder.chmod(0o755)
    port = free_port("127.0.0.1")
    insecure = folder / "registries.conf"
    with namespace_that_enforces("privileged") as own:
        own.apply(registry_pod(serving_image, folder, port))
        own.kubectl("wait", "--for=condition=Ready", "pod/registry", "--timeout=60s")
        host = f"{own.get('pod', 'registry')['status']['hostIP']}:{port}"
        insecure.write_text(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n', encoding="utf-8")
        wait_until("the registry answers", lambda: answers(host), 30, own.report)
        yield Registry(host, f"localhost:{port}", {"CONTAINERS_REGISTRIES_CONF": str(insecure)})


def registry_pod(image: str, folder: Path, port: int) -> dict[str, Any]:
    """The registry in the node's own network: a container engine pulls from its `localhost` without a certificate."""
    mount = {"name": "program", "mountPath": "/registry", "readOnly": True}
    container = {
        "name": "registry",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/registry/registry", str(port)],
        "volumeMounts": [mount],
    }
    volume = {"name": "program", "hostPath": {"path": str(folder), "type": "Directory"}}
    spec = {"hostNetwork": True, "containers": [container], "volumes": [volume], "terminationGracePeriodSeconds": 0}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "registry"}, "spec": spec}


def answers(host: str) -> bool:
    try:
        return httpx.get(f"http://{host}/v2/").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def pushed_image(registry: Registry) -> Iterator[dict[str, str]]:
    """`image` of the chart's values: repository and digest, as `make images-push` says them."""
    builder = os.environ.get("BUILDER", "docker")
    place = f"{registry.host}/mailtriage"

    said = registry.push("make", "images-push", f"REGISTRY={place}", "STAGES=serving", f"BUILDER={builder}")

    (digest,) = re.findall(rf"^pushed {place}/serving@(sha256:[0-9a-f]{{64}})$", said, re.MULTILINE)
    yield {"repository": f"{registry.on_node}/mailtriage/serving", "digest": digest}
    run(builder, "rmi", f"{place}/serving:{mailtriage.__version__}")


@pytest.fixture(scope="module")
def pushed_bundle(registry: Registry, bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """`oci://` URI of an image with the bundle."""
    builder, image = os.environ.get("BUILDER", "docker"), f"{registry.host}/mailtriage/bundle:3"
    folder = tmp_path_factory.mktemp("bundle-image")
    shutil.copytree(bundle_path, folder / "bundle")
    subprocess.run(["chmod", "-R", "a+rX", str(folder / "bundle")], check=True)
    (folder / "Dockerfile").write_text(BUNDLE_IMAGE, encoding="utf-8")
    run(builder, "bud" if "buildah" in builder else "build", "--tag", image, str(folder))
    registry.push(builder, "push", image)
    run(builder, "rmi", image)
    return f"oci://{image.replace(registry.host, registry.on_node)}"


@contextmanager
def installed(namespace: Namespace, name: str, **values: Any) -> Iterator[helm.Config]:
    keys = {"metadata": {"name": "mailtriage-api-keys"}, "stringData": {"crm": API_KEY}}
    namespace.apply({"apiVersion": "v1", "kind": "Secret"} | keys)
    with helm.Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace=namespace.name) as config:
        config.install(CHART, name, chart_values("unused:0", "unused") | values)
        try:
            yield config
        finally:
            config.uninstall(name)


def test_the_pushed_digest_is_the_registrys_and_a_release_runs_by_it_with_a_bundle_from_the_registry(
    registry: Registry, pushed_image: dict[str, str], pushed_bundle: str
) -> None:
    assert registry.digest("mailtriage/serving", mailtriage.__version__) == pushed_image["digest"]

    with (
        namespace_that_enforces("baseline") as own,
        installed(own, "pulled", image=pushed_image, bundle={"storageUri": pushed_bundle}) as config,
    ):
        own.wait_for_deployments("pulled-predictor", "pulled-transformer")
        pods = own.list("pods", "serving.kserve.io/inferenceservice=pulled")
        said = config.test("pulled", timeout=120, logs=True)["logs"]

    running = [
        status for pod in pods for status in pod["status"]["containerStatuses"] if status["name"] == "kserve-container"
    ]
    assert {status["imageID"].partition("@")[2] for status in running} == {pushed_image["digest"]}
    named = {pod["spec"]["containers"][0]["image"] for pod in pods}
    assert named == {f"{pushed_image['repository']}@{pushed_image['digest']}"}
    assert "with a key:" in said


def test_pod_security_restricted_refuses_kserves_containers_for_a_bundle_as_an_image(
    pushed_image: dict[str, str], pushed_bundle: str
) -> None:
    """KServe gives them no securityContext; the day it does, the documents may say so."""
    with (
        namespace_that_enforces("restricted") as own,
        installed(own, "refused", image=pushed_image, bundle={"storageUri": pushed_bundle}),
    ):
        refused = "violates PodSecurity"
        wait_until("the pods are refused", lambda: refused in messages(own), 60, own.report)
        said = next(message for message in messages(own).splitlines() if refused in message)

    assert "modelcar" in said


def messages(namespace: Namespace) -> str:
    return "\n".join(event.get("message", "") for event in namespace.list("events"))
