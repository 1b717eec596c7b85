"""The code's version: the same wherever it lies, another after each edit, and written into every bundle."""

import shutil
from pathlib import Path

from mailtriage.bundle import Bundle
from mailtriage.code_version import PACKAGE, code_version


def test_a_copy_has_the_same_version_and_an_edited_one_another(tmp_path: Path) -> None:
    copies = [tmp_path / name for name in ("same", "edited", "renamed", "longer", "other")]
    for copy in copies:
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    same, edited, renamed, longer, other = copies
    (same / "notes.txt").write_text("no code")
    with (edited / "sample" / "generator.py").open("a") as file:
        file.write("#")
    (renamed / "bundle.py").rename(renamed / "bundles.py")
    (longer / "empty.py").touch()
    (other / "embedded.json").write_text("{}")

    versions = [code_version(copy) for copy in (*copies, PACKAGE)]

    assert len(versions[0]) == 12
    assert versions[0] == versions[4] == versions[5] == code_version()
    assert len(set(versions)) == 4


def test_a_bundle_says_which_code_made_it(bundle_path: Path) -> None:
    assert Bundle.open(bundle_path).manifest["code"] == code_version()
    assert f"code `{code_version()}`" in (bundle_path / "MODEL_CARD.md").read_text(encoding="utf-8")
