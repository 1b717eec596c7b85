"""The compiled pipelines in manifests/pipelines: what is committed is what the code compiles to."""

from pathlib import Path

import pytest
import yaml

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


def test_steps_run_in_our_image_and_install_nothing(compiled):
    specification = next(yaml.safe_load_all((compiled / "training.yaml").read_text()))
    executors = specification["deploymentSpec"]["executors"]
    assert {name.removeprefix("exec-") for name in executors} == {
        "ingest",
        "clean",
        "split",
        "train",
        "evaluate",
        "register",
    }
    for executor in executors.values():
        assert executor["container"]["image"].startswith("docker.io/mailtriage/training:")
        assert "pip install" not in " ".join(executor["container"]["command"])


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
