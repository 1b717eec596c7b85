"""Compiles pipelines to the two forms that a KFP back end takes: YAML for its API, and objects for its native mode."""

import hashlib
import tempfile
from pathlib import Path

from kfp import compiler

from pipelines import catalogue

DEFAULT_OUTPUT = Path("manifests/pipelines")


def compile_all(output: Path = DEFAULT_OUTPUT) -> list[Path]:
    """Write `NAME.yaml` and `NAME-objects.yaml` for every pipeline and return their paths."""
    output.mkdir(parents=True, exist_ok=True)
    return [file for name in catalogue.NAMES for file in (compile_yaml(name, output), compile_objects(name, output))]


def compile_yaml(name: str, output: Path) -> Path:
    """The intermediate representation, as `kfp.Client` and the KFP page take it."""
    file = output / f"{name}.yaml"
    compiler.Compiler().compile(catalogue.load(name), str(file))
    return file


def compile_objects(name: str, output: Path) -> Path:
    """A `Pipeline` and a `PipelineVersion` for `kubectl apply`.

    A version's specification cannot be changed, so its name holds a hash of it: new content is a new version.
    """
    file = output / f"{name}-objects.yaml"
    options = compiler.KubernetesManifestOptions(
        pipeline_name=name, pipeline_version_name=f"{name}-{content_hash(name)}", include_pipeline_manifest=True
    )
    compiler.Compiler().compile(
        catalogue.load(name), str(file), kubernetes_manifest_format=True, kubernetes_manifest_options=options
    )
    return file


def content_hash(name: str) -> str:
    """Twelve hex digits of the SHA-256 of a pipeline's YAML."""
    with tempfile.TemporaryDirectory() as folder:
        return hashlib.sha256(compile_yaml(name, Path(folder)).read_bytes()).hexdigest()[:12]
