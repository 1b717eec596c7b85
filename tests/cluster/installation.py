"""The chart as the tests installed it."""

import json
import secrets
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from kube import Namespace

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "charts" / "mailtriage"
API_KEY = secrets.token_hex(16)
ISSUER = "https://login.example.com"


@dataclass(frozen=True)
class Release:
    """A Helm release, and a client that talks to its Gateway without a key."""

    name: str
    namespace: Namespace
    gateway: httpx.Client

    @property
    def key(self) -> dict[str, str]:
        return {"x-api-key": API_KEY}


@cache
def issuer_key() -> rsa.RSAPrivateKey:
    """What the token issuer of these tests signs with."""
    return rsa.generate_private_key(65537, 2048)


def token(**claims: Any) -> dict[str, str]:
    """A header with the issuer's token, for client `archive` unless the claims say otherwise; None leaves it out."""
    given = {"iss": ISSUER, "aud": "mailtriage", "sub": "archive", "exp": int(time.time()) + 600} | claims
    given = {name: value for name, value in given.items() if value is not None}
    return {"authorization": "Bearer " + jwt.encode(given, issuer_key(), "RS256", headers={"kid": "tests"})}


def issuer_values() -> dict[str, Any]:
    """The chart's values for tokens of these tests' issuer."""
    key = jwt.algorithms.RSAAlgorithm.to_jwk(issuer_key().public_key(), as_dict=True)
    keys = {"keys": [{**key, "kid": "tests", "alg": "RS256", "use": "sig"}]}
    return {"issuer": ISSUER, "audiences": ["mailtriage"], "jwks": json.dumps(keys)}


def chart_values(image: str, folder: str, replicas: int = 1) -> dict[str, Any]:
    """Values for a small cluster and the bundle in this folder of the shared volume."""
    repository, tag = image.rsplit(":", 1)
    small = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
    return {
        "image": {"repository": repository, "tag": tag},
        "bundle": {"storageUri": f"pvc://mailtriage-shared/bundles/{folder}"},
        "predictor": {"replicas": replicas, "resources": small},
        "transformer": {"replicas": replicas, "resources": small},
        "test": {"client": "crm"},
    }


def release_values(image: str, folder: str) -> dict[str, Any]:
    """Values of the release that most tests share."""
    return {**chart_values(image, folder, replicas=2), "jwt": issuer_values()}
