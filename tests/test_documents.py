"""Documents: every link leads somewhere, and the README's commands exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8"))

    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert missing == []


def test_the_readme_names_files_that_exist() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("## What is where")[1]

    names = re.findall(r"\b(\w+\.py)\b", tree)
    assert len(names) > 8
    assert [name for name in names if not (ROOT / "mailtriage" / name).is_file()] == []


@pytest.mark.parametrize("module", ["mailtriage.cli", "pipelines", "serving", "demo"])
def test_every_command_of_the_readme_has_help(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_the_changelog_and_the_readme_open_as_they_should() -> None:
    assert (ROOT / "README.md").read_text(encoding="utf-8").startswith("# mailtriage\n\nmailtriage reads")
    assert (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").startswith("# Changelog")
