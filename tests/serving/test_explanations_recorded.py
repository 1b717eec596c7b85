"""Explanations hold labels and a decision: they are recorded as predictions are, and told apart from them."""

from __future__ import annotations

import time

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from serving.prediction_store import MIGRATIONS, PREDICTIONS, VERSION_TABLE, PredictionRecord, PredictionStore

RECORD = PredictionRecord(
    mail_id="m-1",
    request_id="r-1",
    client="crm",
    decision="route",
    labels={"topic": "dividend"},
    confidences={"topic": 0.5},
    model_version="3",
    bundle_digest="d" * 64,
    taxonomy_version="2026-11-01",
    cleaning_version="2",
    body_characters=12,
    cleaned_characters=8,
    tokens=4,
    latency_ms=4.5,
)
MAILS = [
    {"id": "explained-1", "subject": "Quittengelee", "body": "Bitte verkaufen Sie meine Aktien."},
    {"id": "unusable"},
    {"id": "explained-2", "body": "<style>p {}</style>"},
]


def rows(store):
    with store.engine.connect() as connection:
        return [dict(row._mapping) for row in connection.execute(sa.select(PREDICTIONS).order_by("mail_id"))]


def recorded(store, request_id, count):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = [row for row in rows(store) if row["request_id"] == request_id]
        if len(found) >= count:
            return found
        time.sleep(0.05)
    raise AssertionError("not within 20 s")


def test_each_explanation_is_recorded_without_its_words(stack):
    store = PredictionStore(f"sqlite:///{stack.work}/predictions.db")
    with stack.client(**{"x-request-id": "explained"}) as client:
        answers = client.post("/v1/models/mailtriage:explain", json={"instances": MAILS}).json()["explanations"]
    with stack.client(**{"x-request-id": "predicted"}) as client:
        client.post("/v1/models/mailtriage:predict", json={"instances": MAILS})

    first, second = recorded(store, "explained", 2)
    predicted, _ = recorded(store, "predicted", 2)

    assert (first["kind"], second["kind"], predicted["kind"]) == ("explain", "explain", "predict")
    assert (first["mail_id"], second["mail_id"]) == ("explained-1", "explained-2")
    assert first["decision"] == answers[0]["decision"]
    assert first["labels"] == {task: score["label"] for task, score in answers[0]["labels"].items()}
    for task, score in answers[0]["labels"].items():
        assert first["confidences"][task] == pytest.approx(score["confidence"], abs=1e-4)
    same = ("client", "model_version", "bundle_digest", "body_characters", "cleaned_characters", "tokens")
    assert [first[name] for name in same] == [predicted[name] for name in same]
    assert second["cleaned_characters"] == 0
    assert "Quittengelee" not in str(rows(store))
    assert "Aktien" not in str(rows(store))


@pytest.mark.parametrize("instances", [[], [{"id": "unusable"}]])
def test_nothing_to_explain_is_nothing_to_record(stack, instances):
    with stack.client() as client:
        answer = client.post("/v1/models/mailtriage:explain", json={"instances": instances})

    assert answer.status_code == 200
    assert len(answer.json()["explanations"]) == len(instances)


def test_what_an_earlier_release_recorded_was_predicted(tmp_path):
    store = PredictionStore(f"sqlite:///{tmp_path}/predictions.db")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with store.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        columns = {name: value for name, value in RECORD.to_row().items() if name != "kind"}
        connection.execute(sa.insert(PREDICTIONS).values(columns))

    store.prepare()

    assert [row["kind"] for row in rows(store)] == ["predict"]
    store.close()


def test_a_release_that_was_rolled_back_writes_into_the_later_ones_table(tmp_path):
    store = PredictionStore(f"sqlite:///{tmp_path}/predictions.db")
    store.prepare()
    with store.engine.begin() as connection:
        connection.execute(sa.text("alter table predictions add column later varchar not null default ''"))
        connection.execute(sa.text(f"update {VERSION_TABLE} set version_num = '9999'"))

    store.prepare()
    store.write([RECORD])

    assert [row["mail_id"] for row in rows(store)] == ["m-1"]
    store.close()
