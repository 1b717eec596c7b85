"""Submitting to a KFP back end. The API is faked as an HTTP server; no KFP back end runs in any test."""

import socket

import pytest
import yaml

from pipelines import catalogue, cluster_runs
from tests.pipelines.fake_kfp import fake_kfp

ARGUMENTS = {"data": "s3://mails/october.jsonl", "taxonomy": "version: '1'", "config": "epochs: 1"}


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))


def submit(fake, said, **settings):
    return cluster_runs.run(
        catalogue.load("training"),
        ARGUMENTS,
        fake.address,
        **({"timeout": 30, "say": said.append, "poll_seconds": 0.01} | settings),
    )


def test_submits_the_same_definition_and_waits_until_it_succeeded():
    said = []
    states = (
        ("PENDING", {}),
        ("RUNNING", {"ingest": "RUNNING"}),
        ("RUNNING", {"ingest": "SUCCEEDED", "clean": "RUNNING"}),
        ("SUCCEEDED", {"ingest": "SUCCEEDED", "clean": "SUCCEEDED"}),
    )
    with fake_kfp(*states) as fake:
        assert submit(fake, said) == "r-1"
        assert fake.submitted["runtime_config"]["parameters"] == ARGUMENTS
        specification = fake.submitted["pipeline_spec"]
        assert set(specification["pipeline_spec"]["root"]["dag"]["tasks"]) >= {"ingest", "train", "register"}
        assert "platform_spec" in specification
    assert [line for line in said if ": " in line and "run " not in line] == [
        "ingest: running",
        "ingest: succeeded",
        "clean: running",
        "clean: succeeded",
    ]


def test_a_failed_step_is_named_with_the_place_of_its_log():
    said = []
    with (
        fake_kfp(("RUNNING", {"train": "RUNNING"}), ("FAILED", {"train": "FAILED"})) as fake,
        pytest.raises(cluster_runs.ClusterRunFailed, match=r"ended as FAILED in train; .*kubectl .*runid=r-1"),
    ):
        submit(fake, said)
    assert "the steps' logs are out of reach from here" in said


def test_a_run_that_never_starts_is_stopped_at_the_deadline():
    said = []
    with fake_kfp(("RUNNING", {})) as fake:
        with pytest.raises(cluster_runs.ClusterRunFailed, match="still RUNNING after 0 s and was stopped"):
            submit(fake, said, timeout=0.05)
        assert fake.terminated
    assert any("waits" in line for line in said)


@pytest.fixture
def kubeconfig(monkeypatch, tmp_path):
    """Makes a server's address the cluster of the kubeconfig."""

    def point_to(address):
        file = tmp_path / "kubeconfig"
        named = {"cluster": {"server": address}}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", **named}],
            "users": [{"name": "fake", "user": {}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        }
        file.write_text(yaml.safe_dump(content))
        monkeypatch.setenv("KUBECONFIG", str(file))

    return point_to


def test_a_pod_that_cannot_start_says_why(kubeconfig):
    said = []
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    pod = {
        "metadata": {"name": "training-x-train"},
        "status": {
            "phase": "Pending",
            "containerStatuses": [
                {
                    "name": "main",
                    "ready": False,
                    "restartCount": 0,
                    "image": "i",
                    "imageID": "",
                    "state": {"waiting": waiting},
                }
            ],
        },
    }
    with fake_kfp(("RUNNING", {})) as fake:
        fake.pods = [pod]
        kubeconfig(fake.address)
        with pytest.raises(cluster_runs.ClusterRunFailed):
            submit(fake, said, timeout=0.05)
    assert "pod training-x-train, container main waits: ImagePullBackOff: no such image" in said


def test_the_log_of_a_failed_step_is_shown(kubeconfig):
    said = []
    with fake_kfp(("FAILED", {"train": "FAILED"})) as fake:
        fake.pods = [{"metadata": {"name": "training-x-train"}, "status": {"phase": "Failed"}}]
        fake.log = "Traceback (most recent call last):\nValueError: too few mails"
        kubeconfig(fake.address)
        with pytest.raises(cluster_runs.ClusterRunFailed):
            submit(fake, said)
    assert "ValueError: too few mails" in said


def test_an_address_where_nobody_answers():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(cluster_runs.ClusterRunFailed, match="no KFP API answers at"):
            cluster_runs.run(catalogue.load("training"), ARGUMENTS, address, timeout=1, say=lambda line: None)
