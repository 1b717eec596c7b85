"""The registry in MLflow: who may serve. On SQLite and a folder, and once against a real MLflow server."""

import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from mailtriage import registry, tracking
from mailtriage.bundle import Bundle
from mailtriage.errors import BundleChecksumMismatch, RegistryError


def record(folder):
    return tracking.record(params={}, metrics={}, experiment="registry", folder=folder)


@pytest.fixture
def registered(bundle_path, mlflow_folder, request):
    """A fresh model name with one version of the bundle."""
    name = f"model-{abs(hash(request.node.name))}"
    run_id = record(mlflow_folder)
    metrics = {"overall": {"mean_macro_f1": 0.5}}
    version = registry.register(bundle_path, run_id, metrics, name, mlflow_folder)
    return name, version, run_id


def version_of(mlflow_folder, name, version):
    return tracking.client(mlflow_folder).get_model_version(name, version)


def test_registering_approves_nothing(registered, mlflow_folder, tmp_path):
    name, version, _ = registered
    assert version == "1"
    assert tracking.client(mlflow_folder).get_registered_model(name).aliases == {}
    with pytest.raises(RegistryError, match=f"could not fetch '{name}@champion'"):
        registry.fetch(f"{name}@champion", tmp_path / "bundle", mlflow_folder)


def test_version_says_what_it_is(registered, mlflow_folder, bundle_path, taxonomy):
    name, version, _ = registered
    tags = version_of(mlflow_folder, name, version).tags
    assert tags["taxonomy_version"] == taxonomy.version
    assert tags["mean_macro_f1"] == "0.5000"
    assert tags["bundle_digest"] == Bundle.open(bundle_path).digest


def test_what_is_approved_can_be_fetched_and_knows_its_version(registered, mlflow_folder, bundle_path, tmp_path):
    name, version, _ = registered
    registry.approve(version, "A. Approver", name, mlflow_folder)
    fetched = registry.fetch(f"{name}@champion", tmp_path / "bundle", mlflow_folder)
    assert fetched.path == tmp_path / "bundle"
    assert fetched.model_version == version
    assert fetched.digest == Bundle.open(bundle_path).digest
    assert Bundle.open(bundle_path).manifest["model_version"] is None


def test_a_champion_that_needs_another_cleaning_is_not_compared_with(registered, mlflow_folder, tmp_path, monkeypatch):
    name, version, _ = registered
    said = []
    assert registry.fetch_champion(tmp_path / "none", name, mlflow_folder, said.append) is None
    registry.approve(version, "A. Approver", name, mlflow_folder)
    assert registry.fetch_champion(tmp_path / "same", name, mlflow_folder, said.append) is not None
    monkeypatch.setattr("mailtriage.bundle.KNOWN_CLEANING_VERSIONS", frozenset({"999"}))
    assert registry.fetch_champion(tmp_path / "other", name, mlflow_folder, said.append) is None
    assert said[:2] == ["there is no champion yet", "compared with champion version 1"]
    assert "not compared with champion version 1" in said[2]
    assert "cleaning version" in said[2]


def test_approval_says_who_when_and_what_it_replaces(registered, mlflow_folder, bundle_path):
    name, first, _ = registered
    second = registry.register(bundle_path, record(mlflow_folder), None, name, mlflow_folder)
    registry.approve(first, "A. Approver", name, mlflow_folder)
    registry.approve(second, "B. Approver", name, mlflow_folder)
    tags = version_of(mlflow_folder, name, second).tags
    assert tags["approved_by"] == "B. Approver"
    assert tags["replaced_version"] == first
    assert tags["approved_at"].startswith("20")
    assert tracking.client(mlflow_folder).get_model_version_by_alias(name, "champion").version == int(second)


def test_a_run_has_one_version_however_often_it_is_registered(registered, mlflow_folder, bundle_path):
    name, version, run_id = registered
    assert registry.register(bundle_path, run_id, None, name, mlflow_folder) == version


@pytest.mark.parametrize(("version", "approver", "message"), [("99", "A. Approver", "99"), ("1", " ", "found none")])
def test_nothing_is_approved_without_version_and_approver(registered, mlflow_folder, version, approver, message):
    name, _, _ = registered
    with pytest.raises(RegistryError, match=message):
        registry.approve(version, approver, name, mlflow_folder)
    assert tracking.client(mlflow_folder).get_registered_model(name).aliases == {}


def test_a_damaged_bundle_is_not_registered(bundle_path, mlflow_folder, tmp_path):
    damaged = tmp_path / "bundle"
    shutil.copytree(bundle_path, damaged)
    (damaged / "thresholds.json").write_text("{}")
    with pytest.raises(BundleChecksumMismatch, match=r"thresholds\.json"):
        registry.register(damaged, record(mlflow_folder), None, "damaged", mlflow_folder)


def artifact_folder(mlflow_folder, run_id):
    uri = tracking.client(mlflow_folder).get_run(run_id).info.artifact_uri
    return uri.removeprefix("file://") + "/bundle"


def test_a_file_changed_in_the_store_is_refused_and_nothing_is_left(registered, mlflow_folder, tmp_path):
    name, version, run_id = registered
    with open(f"{artifact_folder(mlflow_folder, run_id)}/calibration.json", "a") as file:
        file.write(" ")
    with pytest.raises(BundleChecksumMismatch, match=r"calibration\.json"):
        registry.fetch(f"{name}/{version}", tmp_path / "bundle", mlflow_folder)
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_changed_with_its_file_is_refused(registered, mlflow_folder, tmp_path):
    name, version, run_id = registered
    path = f"{artifact_folder(mlflow_folder, run_id)}/manifest.json"
    with open(path) as file:
        manifest = json.load(file)
    manifest["max_tokens"] = 9
    with open(path, "w") as file:
        json.dump(manifest, file)
    with pytest.raises(BundleChecksumMismatch, match=r"manifest\.json.*not the one that was registered"):
        registry.fetch(f"{name}/{version}", tmp_path / "bundle", mlflow_folder)


def test_fetching_replaces_a_bundle_and_nothing_else(registered, mlflow_folder, bundle_path, tmp_path):
    name, version, _ = registered
    old = tmp_path / "bundle"
    shutil.copytree(bundle_path, old)
    assert registry.fetch(f"{name}/{version}", old, mlflow_folder).model_version == version
    other = tmp_path / "documents"
    other.mkdir()
    (other / "letter.txt").write_text("keep me")
    with pytest.raises(RegistryError, match="neither empty nor a bundle"):
        registry.fetch(f"{name}/{version}", other, mlflow_folder)
    assert (other / "letter.txt").exists()


@pytest.mark.parametrize("model", ["mailtriage", "mailtriage/latest", "mailtriage:3"])
def test_a_model_that_is_not_named_well(mlflow_folder, tmp_path, model):
    with pytest.raises(RegistryError, match="expected a model such as 'mailtriage@champion'"):
        registry.fetch(model, tmp_path / "bundle", mlflow_folder)


@pytest.fixture
def mlflow_server(mlflow_folder, tmp_path, monkeypatch):
    """A real MLflow server on the loopback that keeps the artifacts itself, as on a cluster."""
    log = tmp_path / "server.log"
    with tracking.page(mlflow_folder, "--artifacts-destination", str(tmp_path / "artifacts"), log=log) as address:
        wait_until_healthy(address, log)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        yield address
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{address}/health", timeout=5)


def wait_until_healthy(address, log, seconds=240):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def test_the_whole_way_over_a_server(mlflow_server, bundle_path, tmp_path):
    run_id = record(tmp_path)
    version = registry.register(bundle_path, run_id, None, "over-http")
    registry.approve(version, "A. Approver", "over-http")
    fetched = registry.fetch("over-http@champion", tmp_path / "bundle")
    assert fetched.model_version == version
    assert not (tmp_path / "mlflow.db").exists()


def test_importing_the_registry_does_not_import_mlflow():
    code = "import sys, mailtriage.registry, mailtriage.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
