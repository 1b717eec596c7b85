"""OpenTelemetry traces from the gateway's `traceparent` to the forward pass.

Off, and then almost without cost, unless `OTEL_EXPORTER_OTLP_ENDPOINT` names a collector (OTLP over HTTP). A span holds
sizes, versions and ids of requests; never the text of a mail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mailtriage.errors import ConfigError
from serving.metrics import stage

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

_provider: TracerProvider | None = None


def configure_tracing(role: str) -> None:
    """Switch tracing on where the environment names a collector; `role` becomes a part of the service's name."""
    global _provider  # noqa: PLW0603 - one a process, as OpenTelemetry's own
    if not collector_url():
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME", f"mailtriage-{role}")
    _provider = TracerProvider(resource=Resource.create({"service.name": name}))
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))


def collector_url() -> str:
    """Where spans are sent, as the environment says; empty where tracing is off.

    Raises:
        ConfigError: it is no http(s) address.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return ""
    exact, base = map(os.environ.get, ENDPOINTS)
    url = exact or (f"{base.rstrip('/')}/v1/traces" if base else "")
    parts = urlsplit(url)
    if url and not (parts.scheme in ("http", "https") and parts.hostname):
        named = ENDPOINTS[0] if exact else ENDPOINTS[1]
        raise ConfigError(f"expected {named} to be an address such as http://collector:4318, found '{exact or base}'")
    return url


def close_tracing() -> None:
    """Send what is left."""
    if _provider is not None:
        _provider.shutdown()


def span(name: str, **attributes: Any) -> AbstractContextManager[Any]:
    """A span within the current one."""
    if _provider is None:
        return _NOTHING
    return _provider.get_tracer("mailtriage").start_as_current_span(name, attributes=attributes)


@contextmanager
def measured(name: str, **attributes: Any) -> Iterator[None]:
    """One stage: its histogram and its span."""
    with stage(name).time(), span(name, **attributes):
        yield


@contextmanager
def server_span(name: str, headers: Mapping[str, str], **attributes: Any) -> Iterator[None]:
    """The span of a request, within the trace that its headers name (W3C `traceparent`)."""
    if _provider is None:
        yield
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract(headers)
    tracer = _provider.get_tracer("mailtriage")
    # The message of an exception may quote a request, so neither event nor status takes it.
    with tracer.start_as_current_span(
        name, context, SpanKind.SERVER, attributes, record_exception=False, set_status_on_exception=False
    ):
        yield


def pass_on(headers: MutableMapping[str, str]) -> None:
    """Put the current span into the headers of a request to another process."""
    if _provider is not None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(headers)


def trace_id() -> str:
    """The current trace, for logs; empty where there is none."""
    if _provider is None:
        return ""
    from opentelemetry import trace

    return f"{trace.get_current_span().get_span_context().trace_id:032x}"


def current_context() -> Context | None:
    """What another thread needs for `add_span`; None where tracing is off."""
    if _provider is None:
        return None
    from opentelemetry.context import get_current

    return get_current()


def add_span(name: str, context: Context | None, start_ns: int, end_ns: int, **attributes: Any) -> None:
    """A span that is over already, in nanoseconds since the epoch."""
    if _provider is not None and context is not None:
        started = _provider.get_tracer("mailtriage").start_span(
            name, context, attributes=attributes, start_time=start_ns
        )
        started.end(end_ns)


_NOTHING: AbstractContextManager[Any] = nullcontext()
