"""The chart as the tests installed it."""

import secrets
from dataclasses import dataclass

import httpx
from kube import Namespace

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
