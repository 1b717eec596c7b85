"""One trace from the caller's `traceparent` through gateway and transformer to the predictor's forward pass."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from mailtriage.errors import ConfigError
from serving.tracing import collector_url

ROOT = Path(__file__).resolve().parents[2]
V1 = "/v1/models/mailtriage:predict"
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SPANS = {
    f"mailtriage-gateway POST {V1}",
    f"mailtriage-transformer POST {V1}",
    "mailtriage-transformer clean",
    "mailtriage-transformer tokenise",
    "mailtriage-transformer decode",
    "mailtriage-predictor POST /v2/models/mailtriage/infer",
    "mailtriage-predictor queue",
    "mailtriage-predictor forward",
}


def wait_for_trace(collector, wanted):
    for _ in range(100):
        found = collector.trace(TRACE)
        if wanted <= found.keys():
            return found
        time.sleep(0.1)
    raise AssertionError(f"{wanted - found.keys()} is missing")


def test_one_trace_spans_gateway_transformer_and_predictor(stack, collector, records):
    with stack.client(traceparent=f"00-{TRACE}-{CALLER}-01") as client:
        assert client.post(V1, json={"instances": records}).status_code == 200

    found = {name: spans[0] for name, spans in wait_for_trace(collector, SPANS).items()}

    gateway = found[f"mailtriage-gateway POST {V1}"]
    root = found[f"mailtriage-transformer POST {V1}"]
    inner = found["mailtriage-predictor POST /v2/models/mailtriage/infer"]
    assert gateway.parent_span_id.hex() == CALLER
    assert root.parent_span_id == gateway.span_id
    for name in ("clean", "tokenise", "decode"):
        assert found[f"mailtriage-transformer {name}"].parent_span_id == root.span_id
    assert inner.parent_span_id == root.span_id
    for name in ("queue", "forward"):
        assert found[f"mailtriage-predictor {name}"].parent_span_id == inner.span_id
    queue, forward = found["mailtriage-predictor queue"], found["mailtriage-predictor forward"]
    assert queue.end_time_unix_nano == forward.start_time_unix_nano
    assert root.start_time_unix_nano < queue.start_time_unix_nano < forward.end_time_unix_nano < root.end_time_unix_nano


def test_a_span_holds_no_text_of_a_mail(stack, collector):
    word = "Quittengelee"
    with stack.client(traceparent=f"00-{TRACE}-{CALLER}-01") as client:
        client.post(f"{V1}?note={word}", json={"instances": [{"id": "m-1", "subject": word, "body": word}]})
        client.get(f"/{word}")
        client.post(V1, content=f'{{"instances": "{word}"}}', headers={"content-type": "application/json"})

    time.sleep(2)  # all send their spans each second or sooner
    assert {"mailtriage-gateway", "mailtriage-transformer"} <= {service for service, _ in collector.spans}
    assert word not in str(collector.spans)


def test_the_log_names_the_trace(stack, records):
    with stack.client(traceparent=f"00-{TRACE}-{CALLER}-01", **{"x-request-id": "traced-request"}) as client:
        client.post(V1, json={"instances": records})

    lines = stack.logs_when("transformer", "traced-request").splitlines()
    assert any('"traced-request"' in line and f'"trace_id":"{TRACE}"' in line for line in lines)


def test_a_collector_without_a_scheme_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318")

    with pytest.raises(
        ConfigError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT .* http://collector:4318, found 'collector:4318'"
    ):
        collector_url()


def test_without_a_collector_nothing_of_opentelemetry_is_loaded():
    code = (
        "import sys; from serving import tracing; tracing.configure_tracing('predictor')\n"
        "with tracing.server_span('x', {'traceparent': 'y'}), tracing.measured('clean', mails=1): pass\n"
        "tracing.pass_on(headers := {}); assert not headers and tracing.current_context() is None\n"
        "sys.exit(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    )

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={}, check=False).returncode == 0
