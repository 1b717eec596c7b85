"""The answers: V1 and V2 through the gateway."""

from __future__ import annotations

import asyncio
import struct
import threading

import httpx
import numpy as np
import orjson
import pytest

from mailtriage import inference
from mailtriage.bundle import Bundle
from mailtriage.decoding import Decoder
from mailtriage.engines import OnnxEngine
from mailtriage.features import MailTokenizer
from mailtriage.inference import Triage, predict
from mailtriage.mail import Email
from mailtriage.taxonomy import Taxonomy
from serving.dataplane import StrictDataPlane
from serving.transformer import Transformer, TransformerSettings

V2 = "/v2/models/mailtriage/infer"
# Dynamic int8 scales activations by the whole batch, so the neighbours of a mail move its confidence a little.
TOLERANCE = 0.03


def column(name, values, **fields):
    return {"name": name, "datatype": "BYTES", "shape": [len(values)], "data": values, **fields}


def v2_request(mails, **fields):
    names = ("id", "subject", "body", "custodian_bank")
    return {"inputs": [column(name, [mail.get(name, "") for mail in mails]) for name in names], **fields}


def test_v1_answers_in_order_with_labels_decision_and_versions(stack, bundle_path, records):
    bundle = Bundle.open(bundle_path)

    answers = stack.predict(records)

    assert [answer["id"] for answer in answers] == ["m-1", "m-2", "m-3", "m-4"]
    for answer in answers:
        assert set(answer) == {"id", "labels", "decision", "alternatives", "model_version", "taxonomy_version"}
        assert set(answer["labels"]) == set(answer["alternatives"]) == set(bundle.taxonomy.task_ids)
        assert bundle.taxonomy.is_valid({task: score["label"] for task, score in answer["labels"].items()})
        assert all(0 < score["confidence"] <= 1 for score in answer["labels"].values())
        assert answer["decision"] in ("route", "review")
        assert answer["model_version"] == bundle.model_version
        assert answer["taxonomy_version"] == bundle.taxonomy.version


def test_v1_answers_as_the_library_does(stack, bundle_path, records):
    bundle = Bundle.open(bundle_path)
    expected = predict(Triage.from_bundle(bundle), OnnxEngine(bundle, 1), [Email.from_record(mail) for mail in records])

    answers = stack.predict(records)

    for answer, prediction in zip(answers, expected, strict=True):
        for task, score in prediction.to_record()["labels"].items():
            assert answer["labels"][task]["confidence"] == pytest.approx(score["confidence"], abs=TOLERANCE)


def test_every_mail_of_a_large_request_gets_its_own_answer(stack, records):
    instances = [records[number % 4] | {"id": f"m-{number}"} for number in range(40)]
    alone = {number: stack.predict([records[number]])[0]["labels"] for number in range(4)}

    answers = stack.predict(instances)

    assert [answer["id"] for answer in answers] == [f"m-{number}" for number in range(40)]
    for number, answer in enumerate(answers):
        for task, score in alone[number % 4].items():
            assert answer["labels"][task]["confidence"] == pytest.approx(score["confidence"], abs=TOLERANCE)


def test_an_empty_mail_after_cleaning_is_for_review(stack):
    quoted = "Am 01.11.2026 um 09:30 schrieb Kundenservice <service@example.org>:\n> Guten Tag\n> Ihr Anliegen"

    answers = stack.predict([{"id": "e-1", "body": "<style>p {color: red}</style>"}, {"id": "e-2", "body": quoted}])

    assert [answer["decision"] for answer in answers] == ["review", "review"]
    assert [answer["id"] for answer in answers] == ["e-1", "e-2"]


def test_no_instances_no_predictions(stack):
    assert stack.predict([]) == []


def test_v2_answers_with_one_tensor_a_column(stack, bundle_path, records):
    tasks = Taxonomy.load(bundle_path / "taxonomy.yaml").task_ids
    bundle = Bundle.open(bundle_path)
    expected = stack.predict(records)

    with stack.client() as client:
        answer = client.post(V2, json=v2_request(records, id="request-1")).json()

    columns = {output["name"]: output["data"] for output in answer["outputs"]}
    assert answer["id"] == "request-1"
    assert answer["parameters"] == {
        "model_version": bundle.model_version,
        "taxonomy_version": bundle.taxonomy.version,
    }
    assert columns["id"] == ["m-1", "m-2", "m-3", "m-4"]
    assert columns["decision"] == [prediction["decision"] for prediction in expected]
    assert [orjson.loads(text)["id"] for text in columns["prediction"]] == columns["id"]
    for task in tasks:
        for number, prediction in enumerate(expected):
            confidence = prediction["labels"][task]["confidence"]
            assert columns[f"{task}_confidence"][number] == pytest.approx(confidence, abs=TOLERANCE)


def test_v2_names_the_outputs_that_are_wanted(stack, records):
    with stack.client() as client:
        answer = client.post(V2, json=v2_request(records, outputs=[{"name": "decision"}])).json()

    assert [output["name"] for output in answer["outputs"]] == ["decision"]


def test_v2_takes_binary_tensors(stack):
    texts = {"id": ["m-1", "m-2"], "body": ["Wo ist mein Geld?", "Bitte schließen Sie mein Depot: €"]}
    raw = {name: b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in ts) for name, ts in texts.items()}
    head = orjson.dumps(
        {
            "inputs": [
                {"name": name, "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(data)}}
                for name, data in raw.items()
            ]
        }
    )
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}

    with stack.client(**headers) as client:
        answer = client.post(V2, content=head + b"".join(raw.values()))

    assert answer.status_code == 200, answer.text
    assert next(o["data"] for o in answer.json()["outputs"] if o["name"] == "id") == ["m-1", "m-2"]


def test_metadata_names_version_inputs_and_outputs(stack, bundle_path):
    bundle = Bundle.open(bundle_path)

    with stack.client() as client:
        metadata = client.get("/v2/models/mailtriage").json()

    assert metadata["versions"] == [bundle.model_version]
    assert {"id", "subject", "body", "custodian_bank"} <= {tensor["name"] for tensor in metadata["inputs"]}
    assert {"decision", *bundle.taxonomy.task_ids} <= {tensor["name"] for tensor in metadata["outputs"]}


@pytest.mark.parametrize(
    "path", ["/v2/health/live", "/v2/health/ready", "/v1/models/mailtriage", "/v2/models/mailtriage/ready"]
)
def test_health_and_readiness(stack, path):
    with stack.client() as client:
        assert client.get(path).status_code == 200


def test_a_request_id_goes_through_all_processes(stack, records):
    with stack.client(**{"x-request-id": "trace-me-4711"}) as client:
        answer = client.post("/v1/models/mailtriage:predict", json={"instances": records})

    assert answer.headers["x-request-id"] == "trace-me-4711"
    for role in ("transformer", "predictor"):
        assert any("trace-me-4711" in log.read_text() for log in stack.work.rglob(f"{role}.log"))


def test_metrics_show_each_stage_and_the_decisions(stack, records):
    stack.predict(records)

    transformer = httpx.get(f"{stack.transformer}/metrics", trust_env=False).text
    predictor = httpx.get(f"{stack.predictor}/metrics", trust_env=False).text

    for stage in ("clean", "tokenise", "decode"):
        assert f'mailtriage_stage_seconds_count{{stage="{stage}"}}' in transformer
    for stage in ("queue", "forward"):
        assert f'mailtriage_stage_seconds_count{{stage="{stage}"}}' in predictor
    assert "mailtriage_decisions_total{" in transformer
    assert "mailtriage_batch_mails_bucket" in predictor
    assert "mailtriage_queue_mails 0.0" in predictor


class Zeros:
    """A predictor that finds every label as likely as any other."""

    def __init__(self, taxonomy):
        self.labels = {task.id: len(task.labels) for task in taxonomy.tasks}

    async def forward(self, input_ids, *_):
        return {task: np.zeros((len(input_ids), labels), np.float32) for task, labels in self.labels.items()}


@pytest.mark.parametrize(("owner", "name"), [(inference, "clean"), (MailTokenizer, "encode"), (Decoder, "decode")])
def test_long_work_on_a_mail_keeps_nobody_else_waiting(bundle_path, monkeypatch, owner, name):
    """It is held until others had their turn: on the event loop, they would wait for it for ever."""
    bundle = Bundle.open(bundle_path)
    transformer = Transformer("mailtriage", bundle, Zeros(bundle.taxonomy), TransformerSettings())
    begun, let_go, workers = threading.Event(), threading.Event(), []
    work = getattr(owner, name)

    def held(*arguments):
        workers.append(threading.current_thread())
        begun.set()
        assert let_go.wait(10)
        return work(*arguments)

    async def live_meanwhile():
        given = await transformer.preprocess({"instances": [{"id": "1", "body": "Wo ist meine Dividende?"}]})
        answer = asyncio.ensure_future(transformer.predict(given))
        while not (begun.is_set() or answer.done()):
            await asyncio.sleep(0.01)
        live = await StrictDataPlane(model_registry=None).live()
        waiting = not answer.done()
        let_go.set()
        return live, waiting, await answer

    monkeypatch.setattr(owner, name, held)
    live, waiting, answer = asyncio.run(live_meanwhile())

    assert live["status"] == "alive"
    assert waiting
    assert answer["predictions"][0]["id"] == "1"
    assert threading.main_thread() not in workers
