"""What `/metrics` shows besides KServe's own figures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from mailtriage.inference import Prediction

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

STAGE_SECONDS = Histogram(
    "mailtriage_stage_seconds",
    "Time of one stage: clean, tokenise, queue, forward, decode",
    ["stage"],
    buckets=_SECONDS,
)
REQUEST_SECONDS = Histogram(
    "mailtriage_request_seconds",
    "Time from the first byte of a request to the end of its answer",
    ["route"],
    buckets=_SECONDS,
)
REQUESTS = Counter("mailtriage_requests_total", "Requests by route and status", ["route", "status"])
REQUEST_MAILS = Histogram(
    "mailtriage_request_mails", "Mails of one request", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
)
BATCH_MAILS = Histogram(
    "mailtriage_batch_mails", "Mails of one forward pass", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
BATCH_TOKENS = Histogram(
    "mailtriage_batch_tokens",
    "Tokens of one forward pass, padding included",
    buckets=[2**power for power in range(4, 15)],
)
QUEUE_MAILS = Gauge("mailtriage_queue_mails", "Mails that wait for a forward pass")
IN_FLIGHT_MAILS = Gauge("mailtriage_in_flight_mails", "Mails that the transformer has accepted and not answered")
DECISIONS = Counter("mailtriage_decisions_total", "Decisions by label", ["task", "label", "decision"])
MAILS = Counter(
    "mailtriage_mails_total", "Mails by decision; 'error' counts records that could not be used", ["decision"]
)
REFUSED_RECORDS = Counter("mailtriage_refused_records_total", "Records that could not be used", ["code"])
IDEMPOTENT_REPLAYS = Counter(
    "mailtriage_idempotent_replays_total", "Requests answered with the kept answer of an earlier one"
)
EXPLANATIONS = Counter("mailtriage_explanations_total", "Mails of which the deciding words were asked for")
BUNDLE_RETRIES = Counter(
    "mailtriage_bundle_retries_total", "Requests sent again because a connection led to a predictor of another bundle"
)
PREDICTIONS_RECORDED = Counter("mailtriage_predictions_recorded_total", "Predictions written to the database")
PREDICTIONS_DROPPED = Counter(
    "mailtriage_predictions_dropped_total", "Predictions that no database holds: full, refused, stopping", ["reason"]
)
PREDICTIONS_BUFFERED = Gauge("mailtriage_predictions_buffered", "Predictions that wait to be written")
BUNDLE = Gauge(
    "mailtriage_bundle", "Always 1; its labels say what is served", ["model_version", "taxonomy_version", "digest"]
)


def stage(name: str) -> Histogram:
    """The histogram of one stage; `with stage("clean").time(): ...`."""
    return STAGE_SECONDS.labels(name)


def count_predictions(predictions: Iterable[Prediction]) -> None:
    """Count decisions, over all and by label."""
    for prediction in predictions:
        decision = prediction.decoded.decision
        MAILS.labels(decision).inc()
        for task, score in prediction.decoded.labels.items():
            DECISIONS.labels(task, score.label, decision).inc()
