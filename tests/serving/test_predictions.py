"""Predictions are recorded, and no answer waits for the database or fails with it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from mailtriage.bundle import Bundle
from mailtriage.errors import ConfigError
from serving.metrics import PREDICTIONS_DROPPED
from serving.prediction_recorder import PredictionRecorder
from serving.prediction_store import METADATA, PREDICTIONS, VERSION_TABLE, PredictionRecord, PredictionStore
from serving.supervisor import free_port

POSTGRES = shutil.which("postgres")
MAIL = {"id": "m-1", "subject": "Quittengelee", "body": "Bitte verkaufen Sie meine Aktien."}


def record(number: int = 1, **fields):
    given = {
        "mail_id": f"m-{number}",
        "request_id": "r-1",
        "client": "crm",
        "decision": "route",
        "labels": {"queue": "custody", "topic": "dividend"},
        "confidences": {"queue": 0.75, "topic": 0.5},
        "model_version": "3",
        "bundle_digest": "d" * 64,
        "taxonomy_version": "2026-11-01",
        "cleaning_version": "2",
        "body_characters": 120,
        "cleaned_characters": 80,
        "tokens": 17,
        "latency_ms": 4.5,
    }
    return PredictionRecord(**given | fields)


def rows(url):
    with sa.create_engine(PredictionStore(url).engine.url).connect() as connection:
        return [dict(row._mapping) for row in connection.execute(sa.select(PREDICTIONS).order_by("mail_id"))]


def dropped(reason):
    return PREDICTIONS_DROPPED.labels(reason)._value.get()


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """A real PostgreSQL server, stopped by its own pid."""
    if POSTGRES is None:
        pytest.skip("there is no PostgreSQL on this machine")
    programs = Path(POSTGRES).resolve().parent
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    user = {}
    if os.getuid() == 0:  # PostgreSQL does not run as root
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    data, port = str(folder / "data"), free_port("127.0.0.1")
    try:
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "triage", "-E", "UTF8", "--no-sync"],
            check=True,
            capture_output=True,
            cwd="/",
            **user,
        )
        command = [programs / "postgres", "-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1"]
        command += ["-k", str(folder), "-c", "fsync=off"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd="/", **user) as server:
            url = f"postgresql://triage:unseen-password@127.0.0.1:{port}/postgres"
            try:
                wait_for(lambda: answers(url))
                yield url
            finally:
                server.send_signal(signal.SIGINT)  # at once; SIGTERM would wait for clients that were killed
                server.wait(20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def answers(url):
    engine = sa.create_engine(PredictionStore(url).engine.url)
    try:
        with engine.connect():
            return True
    except sa.exc.OperationalError:
        return False
    finally:
        engine.dispose()


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/deep/predictions.db"
    return request.getfixturevalue("postgres")


def test_the_migrations_make_the_table_that_the_code_writes(url):
    store = PredictionStore(url)
    store.prepare()

    with store.engine.connect() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        differences = compare_metadata(MigrationContext.configure(connection, opts=options), METADATA)
    store.close()

    assert differences == []


def test_what_was_added_is_there_after_closing(url):
    written = [record(number, mail_id=f"close-{number:04}") for number in range(1200)]
    recorder = PredictionRecorder(PredictionStore(url))

    recorder.add(written)
    recorder.close()

    found = [row for row in rows(url) if row["mail_id"].startswith("close-")]
    assert [row["mail_id"] for row in found] == [one.mail_id for one in written]
    first, given = found[0], written[0].to_row()
    assert first.pop("predicted_at").replace(tzinfo=None) == given.pop("predicted_at").replace(tzinfo=None)
    assert first == given


def test_a_batch_that_is_written_twice_is_there_once(url):
    store = PredictionStore(url)
    store.prepare()
    twice = [record(mail_id="twice")]

    store.write(twice)
    store.prepare()
    store.write([*twice, record(mail_id="once")])

    assert [row["mail_id"] for row in rows(url) if row["mail_id"] in ("once", "twice")] == ["once", "twice"]


def test_a_record_that_the_database_refuses_does_not_keep_out_the_others(postgres):
    before = dropped("refused")
    recorder = PredictionRecorder(PredictionStore(postgres))

    recorder.add([record(mail_id="good-1"), record(request_id="x" * 200), record(mail_id="good\0-2")])
    recorder.close()

    assert {"good-1", "good�-2"} <= {row["mail_id"] for row in rows(postgres)}
    assert dropped("refused") == before + 1


def test_a_locked_database_delays_nobody_and_loses_nothing(tmp_path):
    file = tmp_path / "predictions.db"
    PredictionStore(f"sqlite:///{file}").prepare()
    recorder = PredictionRecorder(PredictionStore(f"sqlite:///{file}"))

    with sqlite3.connect(file, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        began = time.perf_counter()
        for number in range(500):
            recorder.add([record(number)])
            time.sleep(0.001)
        waited = time.perf_counter() - began - 0.5
        other.execute("COMMIT")
    recorder.close()

    assert waited < 0.5
    assert len(rows(f"sqlite:///{file}")) == 500


def test_a_database_that_is_away_costs_only_what_the_buffer_does_not_hold():
    before = dropped("full"), dropped("stopping")
    store = PredictionStore(f"postgresql://triage@127.0.0.1:{free_port('127.0.0.1')}/none")
    recorder = PredictionRecorder(store, capacity=100)

    began = time.perf_counter()
    recorder.add(record(number) for number in range(130))
    took = time.perf_counter() - began
    recorder.close(5)

    assert took < 0.1
    assert dropped("full") == before[0] + 30
    assert dropped("stopping") == before[1] + 100


@pytest.mark.parametrize("url", ["mysql://root:unseen-password@localhost/x", "predictions.db", ""])
def test_another_kind_of_database_is_refused_without_its_password(url):
    with pytest.raises(ConfigError, match="sqlite:///FILE or postgresql://") as refused:
        PredictionStore(url)

    assert "unseen-password" not in str(refused.value)


def test_the_servers_record_each_prediction_without_its_text(stack, bundle_path):
    bundle = Bundle.open(bundle_path)
    store = f"sqlite:///{stack.work}/predictions.db"
    mails = [
        MAIL | {"id": "recorded-1"},
        {"id": "unusable"},
        MAIL | {"id": "recorded-2", "body": "<style>p {}</style>"},
    ]

    with stack.client(**{"x-request-id": "recorded"}) as client:
        predictions = client.post("/v1/models/mailtriage:predict", json={"instances": mails}).json()["predictions"]

    wait_for(lambda: len([row for row in rows(store) if row["request_id"] == "recorded"]) == 2)
    first, second = (row for row in rows(store) if row["request_id"] == "recorded")
    assert first["mail_id"] == "recorded-1"
    assert first["client"] == "crm"
    assert first["decision"] == predictions[0]["decision"]
    assert first["labels"] == {task: score["label"] for task, score in predictions[0]["labels"].items()}
    for task, score in predictions[0]["labels"].items():
        assert first["confidences"][task] == pytest.approx(score["confidence"], abs=1e-4)
    assert first["model_version"] == bundle.model_version
    assert first["bundle_digest"] == bundle.digest
    assert first["taxonomy_version"] == bundle.taxonomy.version
    assert first["cleaning_version"] == bundle.manifest["cleaning_version"]
    assert first["body_characters"] == len(MAIL["body"])
    assert 0 < first["tokens"] <= 96
    assert first["latency_ms"] > 0
    assert second["cleaned_characters"] == 0
    assert "Quittengelee" not in str(rows(store))
    assert b"Quittengelee" not in b"".join(file.read_bytes() for file in stack.work.glob("predictions.db*"))


def test_answers_come_while_the_database_is_locked(stack):
    store = f"sqlite:///{stack.work}/predictions.db"
    with sqlite3.connect(stack.work / "predictions.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        began = time.perf_counter()
        for number in range(10):
            assert "error" not in stack.predict([MAIL | {"id": f"locked-{number}"}])[0]
        took = time.perf_counter() - began
        other.execute("COMMIT")

    assert took < 4  # the writer waits 5 s for the lock
    wait_for(lambda: sum(row["mail_id"].startswith("locked-") for row in rows(store)) == 10)


def test_what_was_committed_survives_a_killed_transformer(hurt_stack):
    store = f"sqlite:///{hurt_stack.work}/predictions.db"
    hurt_stack.predict([MAIL | {"id": "before"}])
    wait_for(lambda: any(row["mail_id"] == "before" for row in rows(store)))

    hurt_stack.part("transformer").kill()
    hurt_stack.wait_until_ready()
    hurt_stack.predict([MAIL | {"id": "after"}])

    wait_for(lambda: {"before", "after"} <= {row["mail_id"] for row in rows(store)})
