"""A bundle from S3, through KServe's storage initializer; and a release that leaves nothing behind."""

import os
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import boto3
import helm_python as helm
import pytest
from conftest import restricted_namespace
from installation import API_KEY, CHART, chart_values
from kube import KubectlFailed, Namespace, kubectl, wait_until
from moto.server import ThreadedMotoServer

BUCKET = "models"
# What comes and goes by itself: kinds of the control plane, not of a release.
TRANSIENT = {"events", "events.events.k8s.io", "leases.coordination.k8s.io", "pods.metrics.k8s.io"}


@pytest.fixture(scope="module")
def s3(bundle_path: Path) -> Iterator[str]:
    """HOST:PORT of an S3 server on this machine that holds the bundle as s3://models/mailtriage/3."""
    address = os.environ.get("HOST_ADDRESS")
    if not address:
        pytest.skip("HOST_ADDRESS is not set: an address of this machine that pods reach")
    server = ThreadedMotoServer(ip_address=address, port=0)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="eu-central-1",
        aws_access_key_id="tests",
        aws_secret_access_key="tests",
    )
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    for file in (file for file in bundle_path.rglob("*") if file.is_file()):
        client.upload_file(str(file), BUCKET, f"mailtriage/3/{file.relative_to(bundle_path)}")
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def own_namespace(cluster: None) -> Iterator[Namespace]:
    with restricted_namespace() as made:
        yield made


def objects_in(namespace: Namespace) -> set[str]:
    """Every object there is, as KIND/NAME."""
    kinds = kubectl("api-resources", "--namespaced", "--verbs=list", "--output=name").split()
    listed = ",".join(sorted(set(kinds) - TRANSIENT))
    try:
        return set(namespace.kubectl("get", listed, "--output=name", "--ignore-not-found").split())
    except KubectlFailed:  # a kind went while it was listed
        return {"unknown"}


def test_a_bundle_comes_from_s3_and_uninstall_leaves_what_the_user_made(
    own_namespace: Namespace, serving_image: str, s3: str
) -> None:
    endpoint = urllib.parse.urlsplit(f"//{s3}")
    annotations = {"s3-endpoint": s3, "s3-usehttps": "0", "s3-region": "eu-central-1", "s3-usevirtualbucket": "0"}
    credentials = {
        "metadata": {
            "name": "mailtriage-s3",
            "annotations": {f"serving.kserve.io/{key}": value for key, value in annotations.items()},
        },
        "stringData": {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests"},
    }
    keys = {"metadata": {"name": "mailtriage-api-keys"}, "stringData": {"crm": API_KEY}}
    own_namespace.apply(*({"apiVersion": "v1", "kind": "Secret"} | secret for secret in (credentials, keys)))
    values = chart_values(serving_image, "unused") | {
        "bundle": {"storageUri": f"s3://{BUCKET}/mailtriage/3", "secretName": "mailtriage-s3"},
        "networkPolicy": {"bundlePorts": [endpoint.port]},
    }
    before = objects_in(own_namespace)

    with helm.Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace=own_namespace.name) as config:
        config.install(CHART, "stored", values)
        own_namespace.wait_for_deployments("stored-predictor", "stored-transformer")
        (pod,) = own_namespace.list("pods", "app=isvc.stored-predictor")
        said = config.test("stored", timeout=120, logs=True)["logs"]
        config.uninstall("stored")

    (initializer,) = pod["spec"]["initContainers"]
    (fetched,) = pod["status"]["initContainerStatuses"]
    assert f"s3://{BUCKET}/mailtriage/3" in initializer["args"]
    assert fetched["state"]["terminated"]["exitCode"] == 0
    assert "with a key:" in said
    wait_until(
        "nothing is left", lambda: objects_in(own_namespace) <= before, 90, lambda: str(objects_in(own_namespace))
    )
