"""The compiled pipelines in manifests/pipelines: what is committed is what the code compiles to."""

import re
from pathlib import Path

import pytest
import yaml

import mailtriage
from components.training_places import manifest
from mailtriage.ray_jobs import pod_templates
from pipelines import catalogue, compiling

ROOT = Path(__file__).parent.parent.parent
COMMITTED = ROOT / "manifests" / "pipelines"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    compiling.compile_all(folder)
    return folder


@pytest.mark.parametrize("name", catalogue.NAMES)
@pytest.mark.parametrize("suffix", ["", "-objects"])
def test_committed_files_are_up_to_date(compiled, name, suffix):
    file = f"{name}{suffix}.yaml"
    hint = "run: python -m pipelines compile"
    assert (COMMITTED / file).read_text() == (compiled / file).read_text(), hint


def test_nothing_else_is_committed(compiled):
    assert {file.name for file in COMMITTED.iterdir()} == {file.name for file in compiled.iterdir()}


def test_objects_are_a_pipeline_and_a_version_named_by_its_content(compiled):
    pipeline, version = yaml.safe_load_all((compiled / "training-objects.yaml").read_text())
    assert (pipeline["kind"], pipeline["metadata"]["name"]) == ("Pipeline", "training")
    assert version["kind"] == "PipelineVersion"
    assert version["metadata"]["name"] == f"training-{compiling.content_hash('training')}"
    assert version["spec"]["pipelineName"] == "training"
    assert pipeline["apiVersion"] == version["apiVersion"] == "pipelines.kubeflow.org/v2beta1"


def test_steps_run_in_images_that_make_images_builds_and_install_nothing(compiled):
    stages = re.search(r"^STAGES \?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    specification = next(yaml.safe_load_all((compiled / "training.yaml").read_text()))
    containers = {
        name.removeprefix("exec-"): executor["container"]
        for name, executor in specification["deploymentSpec"]["executors"].items()
    }
    images = {name: container["image"] for name, container in containers.items()}
    steps = dict.fromkeys(("ingest", "clean", "split", "train", "evaluate", "register"), "platform")
    assert images == {
        name: f"docker.io/mailtriage/{image}:{mailtriage.__version__}"
        for name, image in (steps | {"clean": "training"}).items()  # it may clean on a Ray cluster
    }
    assert {image.split("/")[2].split(":")[0] for image in images.values()} <= set(stages)
    for container in containers.values():
        assert "pip install" not in " ".join(container["command"])


def test_the_train_step_mounts_the_volume_of_the_ray_job_and_knows_its_run(compiled):
    _, platform = yaml.safe_load_all((compiled / "training.yaml").read_text())
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]
    (mount,) = settings["pvcMount"]
    (volume,) = [
        volume
        for volume in pod_templates(manifest("cpu"))["head"]["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    ]
    (container,) = pod_templates(manifest("cpu"))["head"]["spec"]["containers"]
    assert mount["constant"] == volume["persistentVolumeClaim"]["claimName"]
    assert mount["mountPath"] in [item["mountPath"] for item in container["volumeMounts"]]
    assert settings["fieldPathAsEnv"] == [{"name": "KFP_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}]


def test_what_depends_on_the_world_outside_is_never_cached(compiled):
    specification = next(yaml.safe_load_all((compiled / "training.yaml").read_text()))
    cached = {name for name, task in specification["root"]["dag"]["tasks"].items() if task["cachingOptions"]}
    assert cached == {"clean", "split", "train"}  # the champion that `evaluate` compares with changes


def test_no_path_of_a_machine_is_compiled_in(compiled):
    for file in compiled.iterdir():
        assert str(ROOT) not in file.read_text()


def test_an_unknown_pipeline_names_the_nearest():
    with pytest.raises(Exception, match="no pipeline 'trainin', did you mean 'training'"):
        catalogue.load("trainin")
