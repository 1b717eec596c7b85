"""A bundle from S3, through KServe's storage initializer; and a release that leaves nothing behind."""

import json
import os
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import helm_python as helm
import pytest
from conftest import restricted_namespace
from installation import API_KEY, CHART, chart_values
from kube import KubectlFailed, Namespace, kubectl, wait_until
from moto.core.authorization import enable_iam_authentication
from moto.server import ThreadedMotoServer

BUCKET = "models"
# What comes and goes by itself: kinds of the control plane, not of a release.
TRANSIENT = {"events", "events.events.k8s.io", "leases.coordination.k8s.io", "pods.metrics.k8s.io"}


READ = {"Effect": "Allow", "Action": ["s3:Get*", "s3:List*", "s3:Head*"], "Resource": "*"}


@dataclass(frozen=True)
class Store:
    """An S3 server's HOST:PORT, and the only account that it lets in, which may read."""

    address: str
    key: str
    secret: str


@pytest.fixture(scope="module")
def s3(bundle_path: Path) -> Iterator[Store]:
    """An S3 server on this machine that holds the bundle as s3://models/mailtriage/3 and asks who reads it."""
    address = os.environ.get("HOST_ADDRESS")
    if not address:
        pytest.skip("HOST_ADDRESS is not set: an address of this machine that pods reach")
    server = ThreadedMotoServer(ip_address=address, port=0)
    server.start()
    host, port = server.get_host_and_port()
    where = {
        "endpoint_url": f"http://{host}:{port}",
        "region_name": "eu-central-1",
        "aws_access_key_id": "owner",
        "aws_secret_access_key": "owner",
    }
    client, accounts = boto3.client("s3", **where), boto3.client("iam", **where)
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    for file in (file for file in bundle_path.rglob("*") if file.is_file()):
        client.upload_file(str(file), BUCKET, f"mailtriage/3/{file.relative_to(bundle_path)}")
    accounts.create_user(UserName="reader")
    policy = json.dumps({"Version": "2012-10-17", "Statement": [READ]})
    accounts.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=policy)
    account = accounts.create_access_key(UserName="reader")["AccessKey"]
    with enable_iam_authentication():
        yield Store(f"{host}:{port}", account["AccessKeyId"], account["SecretAccessKey"])
    server.stop()


def credentials(store: Store, name: str, secret: str) -> dict[str, Any]:
    """A Secret in KServe's form, with the store's account and this secret key."""
    annotations = {
        "s3-endpoint": store.address,
        "s3-usehttps": "0",
        "s3-region": "eu-central-1",
        "s3-usevirtualbucket": "0",
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "annotations": {f"serving.kserve.io/{key}": value for key, value in annotations.items()},
        },
        "stringData": {"AWS_ACCESS_KEY_ID": store.key, "AWS_SECRET_ACCESS_KEY": secret},
    }


def stored_values(image: str, store: Store, secret_name: str) -> dict[str, Any]:
    """The chart's values for the bundle in S3."""
    return chart_values(image, "unused") | {
        "bundle": {"storageUri": f"s3://{BUCKET}/mailtriage/3", "secretName": secret_name},
        "networkPolicy": {"bundlePorts": [urllib.parse.urlsplit(f"//{store.address}").port]},
    }


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
    own_namespace: Namespace, serving_image: str, s3: Store
) -> None:
    keys = {"metadata": {"name": "mailtriage-api-keys"}, "stringData": {"crm": API_KEY}}
    own_namespace.apply({"apiVersion": "v1", "kind": "Secret"} | keys, credentials(s3, "mailtriage-s3", s3.secret))
    before = objects_in(own_namespace)

    with helm.Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace=own_namespace.name) as config:
        config.install(CHART, "stored", stored_values(serving_image, s3, "mailtriage-s3"))
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


def test_a_wrong_secret_of_s3_shows_as_403_in_the_pods_message(
    own_namespace: Namespace, serving_image: str, s3: Store
) -> None:
    own_namespace.apply(credentials(s3, "wrong-s3", "not" + s3.secret))

    with helm.Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace=own_namespace.name) as config:
        config.install(CHART, "wrong", stored_values(serving_image, s3, "wrong-s3"))
        try:
            said = wait_until("the fetch fails", lambda: fetch_error(own_namespace), 90, own_namespace.report)
            servers = [item for pod in wrong_pods(own_namespace) for item in pod["status"]["containerStatuses"]]
        finally:
            config.uninstall("wrong")

    assert "S3 error [403]: Forbidden" in said
    assert s3.secret not in said
    assert not any(status["ready"] for status in servers)


def wrong_pods(namespace: Namespace) -> list[dict[str, Any]]:
    return namespace.list("pods", "serving.kserve.io/inferenceservice=wrong,component=predictor")


def fetch_error(namespace: Namespace) -> str:
    """The last words of the storage initializer, as `kubectl describe pod` shows them."""
    states = [
        state
        for pod in wrong_pods(namespace)
        for status in pod["status"].get("initContainerStatuses", [])
        for state in (status["state"], status["lastState"])
    ]
    return "".join(state["terminated"].get("message", "") for state in states if "terminated" in state)
