"""The only routes there are: what the servers answer, what the gateway lets through, and the headers that matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MODEL_NAME = "mailtriage"
JSON = "application/json"
BINARY = "application/octet-stream"

GRPC_INFER = "grpc ModelInfer"  # as logs, metrics and traces name it

API_KEY = "x-api-key"
CLIENT = "x-client-id"  # set by the gateway from the key; what a client sends under this name is overwritten
REQUEST_ID = "x-request-id"
JSON_LENGTH = "inference-header-content-length"  # of the protocol's binary tensor data extension
MODEL_VERSION = "x-model-version"
BUNDLE_DIGEST = "x-bundle-digest"  # with a request: the bundle that must answer it
IDEMPOTENCY_KEY = "idempotency-key"
REPLAYED = "idempotency-replayed"

# What an id of a request may be, for gateway and servers alike; another one is replaced by a fresh one.
REQUEST_ID_CHARACTERS, REQUEST_ID_LENGTH = "[A-Za-z0-9._:=/+-]", 128

CHUNK_MAILS = 16  # of one request from the transformer to its predictor


@dataclass(frozen=True, slots=True)
class Route:
    """One method on one exact path. `media_types` are what a body may be; `public` routes pass the gateway."""

    method: Literal["GET", "POST"]
    path: str
    media_types: tuple[str, ...] = ()
    public: bool = True


def routes(model: str = MODEL_NAME) -> tuple[Route, ...]:
    """Every route of predictor and transformer, for a model of this name."""
    return (
        Route("POST", f"/v1/models/{model}:predict", (JSON,)),
        Route("POST", f"/v1/models/{model}:explain", (JSON,)),
        Route("POST", f"/v2/models/{model}/infer", (JSON, BINARY)),
        Route("GET", f"/v1/models/{model}"),
        Route("GET", f"/v2/models/{model}"),
        Route("GET", f"/v2/models/{model}/ready"),
        Route("GET", "/v2/health/live"),
        Route("GET", "/v2/health/ready"),
        Route("GET", "/v1/models", public=False),
        Route("GET", "/v2", public=False),
        Route("GET", "/", public=False),
        Route("GET", "/metrics", public=False),
    )


def public_routes(model: str = MODEL_NAME) -> tuple[Route, ...]:
    """What the gateway lets through."""
    return tuple(route for route in routes(model) if route.public)
