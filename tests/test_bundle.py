"""The bundle refuses whatever is not what was trained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mailtriage.bundle import Bundle, stamp_model_version
from mailtriage.errors import BundleChecksumMismatch, BundleError, BundleFileMissing, UnknownCleaningVersion


@pytest.fixture
def copy(bundle_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_path, tmp_path / "copy"))


def _change_manifest(bundle: Path, **changes: object) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(manifest | changes))


def test_a_whole_bundle_opens_with_all_its_parts(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)

    assert bundle.taxonomy.task_ids == ("line_of_business", "queue", "topic")
    assert bundle.onnx_path.is_file()
    assert set(bundle.decoder.temperatures) == set(bundle.taxonomy.task_ids)
    assert bundle.model_version.startswith("unregistered-")


def test_no_file_of_a_bundle_is_a_pickle(bundle_path: Path) -> None:
    kinds = {file.suffix for file in bundle_path.rglob("*") if file.is_file()}

    assert kinds <= {".json", ".yaml", ".md", ".safetensors", ".onnx", ".gz", ".txt"}  # .gz: JSON Lines


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "thresholds.json", "onnx/model.int8.onnx", "model/model.safetensors"]
)
def test_a_changed_file_is_named(copy: Path, name: str) -> None:
    name = name if (copy / name).exists() else "onnx/model.onnx"
    with (copy / name).open("ab") as stream:
        stream.write(b" ")

    with pytest.raises(BundleChecksumMismatch, match=name):
        Bundle.open(copy)


@pytest.mark.parametrize("name", ["tokenizer.json", "taxonomy.yaml", "manifest.json"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()

    with pytest.raises(BundleFileMissing, match=name):
        Bundle.open(copy)


@pytest.mark.parametrize("verify", [True, False])
def test_an_unknown_cleaning_version_is_refused(copy: Path, verify: bool) -> None:
    _change_manifest(copy, cleaning_version="999")

    with pytest.raises(UnknownCleaningVersion, match="'999'"):
        Bundle.open(copy, verify=verify)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: _change_manifest(path, format=99), "format 1, found 99"),
        (lambda path: (path / "manifest.json").write_text("{"), "no JSON"),
        (lambda path: (path / "manifest.json").write_text("{}"), "lacks"),
    ],
)
def test_a_broken_manifest_says_what_is_wrong(copy: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(copy)

    with pytest.raises(BundleError, match=message):
        Bundle.open(copy)


def test_a_file_that_the_manifest_does_not_know_is_refused(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["files"]["calibration.json"]
    (copy / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(BundleError, match=r"no checksum for 'calibration\.json'"):
        Bundle.open(copy)


def test_a_stamped_version_changes_the_name_and_not_the_content(copy: Path) -> None:
    before = Bundle.open(copy).digest

    stamp_model_version(copy, "7")

    assert Bundle.open(copy).model_version == "7"
    assert Bundle.open(copy).digest == before
