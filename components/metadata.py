"""What every data set that a step writes says about itself, for lineage and for people who look at a run."""

from pathlib import Path
from typing import Any

from mailtriage.bundle import sha256


def describe(file: str, rows: int, taxonomy_version: str) -> dict[str, Any]:
    """Metadata of a file of mails."""
    return {"rows": rows, "sha256": sha256(Path(file)), "taxonomy_version": taxonomy_version}
