"""The chart as the tests installed it."""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from kube import Namespace

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "charts" / "mailtriage"
API_KEY = secrets.token_hex(16)


@dataclass(frozen=True)
class Release:
    """A Helm release, and a client that talks to its Gateway without a key."""

    name: str
    namespace: Namespace
    gateway: httpx.Client

    @property
    def key(self) -> dict[str, str]:
        return {"x-api-key": API_KEY}


def chart_values(image: str, folder: str) -> dict[str, Any]:
    """Values for a small cluster and the bundle in this folder of the shared volume."""
    repository, tag = image.rsplit(":", 1)
    small = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
    return {
        "image": {"repository": repository, "tag": tag},
        "bundle": {"storageUri": f"pvc://mailtriage-shared/bundles/{folder}"},
        "predictor": {"resources": small},
        "transformer": {"resources": small},
        "test": {"client": "crm"},
    }
