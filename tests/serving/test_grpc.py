"""V2 over gRPC on the transformer: mails in, answers out; refused, logged and counted as over REST."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import grpc
import httpx
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from mailtriage.bundle import Bundle
from serving.supervisor import free_port

ROOT = Path(__file__).resolve().parents[2]
SECRET = "Quittengelee"


class Transformer:
    """A transformer with gRPC: its stub, its metrics and its log."""

    def __init__(self, stub, rest, log) -> None:
        self.stub, self.rest, self.log = stub, rest, log

    def requests(self, status):
        """How many calls were answered with this status."""
        text = httpx.get(f"http://127.0.0.1:{self.rest}/metrics", trust_env=False).text
        name = f'mailtriage_requests_total{{route="grpc ModelInfer",status="{status}"}} '
        return sum(float(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name))

    def lines(self):
        """The access log's lines about calls."""
        lines = (json.loads(line) for line in self.log.read_text().splitlines())
        return [line for line in lines if line["logger"] == "serving.access" and line["route"] == "grpc ModelInfer"]


@pytest.fixture(scope="module")
def transformer(stack, bundle_path, tmp_path_factory):
    """Before the shared stack's predictor."""
    log = tmp_path_factory.mktemp("grpc") / "log"
    rest, port = free_port("127.0.0.1"), free_port("127.0.0.1")
    command = [sys.executable, "-m", "serving", "transformer", "--bundle", str(bundle_path), "--max-batch", "40"]
    command += ["--predictor-host", stack.predictor.removeprefix("http://")]
    command += ["--http-port", str(rest), "--grpc-port", str(port)]
    with log.open("w") as stream, subprocess.Popen(command, cwd=ROOT, stderr=stream) as process:
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = GRPCInferenceServiceStub(channel)
                wait_until_ready(stub)
                yield Transformer(stub, rest, log)
        finally:
            process.terminate()


def wait_until_ready(stub):
    for _ in range(600):
        try:
            if stub.ServerReady(pb.ServerReadyRequest()).ready:
                return
        except grpc.RpcError:
            pass
        time.sleep(0.1)
    raise AssertionError("not ready")


def request(model="mailtriage", *, call="", **columns):
    given = pb.ModelInferRequest(model_name=model, id=call)
    for name, values in columns.items():
        tensor = given.inputs.add(name=name, datatype="BYTES", shape=[len(values)])
        tensor.contents.bytes_contents.extend(value.encode() for value in values)
    return given


def columns(answer):
    """Column -> values of BYTES tensors, whichever way they came."""
    found = {}
    for position, output in enumerate(answer.outputs):
        if output.datatype != "BYTES":
            continue
        if not answer.raw_output_contents:
            found[output.name] = [value.decode() for value in output.contents.bytes_contents]
            continue
        raw, values = answer.raw_output_contents[position], []
        while raw:
            size = int.from_bytes(raw[:4], "little")
            values.append(raw[4 : 4 + size].decode())
            raw = raw[4 + size :]
        found[output.name] = values
    return found


def test_mails_get_the_answers_of_the_rest_route(transformer, stack):
    bodies = ["Wo ist meine Dividende?", "Bitte schließen Sie mein Depot: €"]
    expected = stack.predict([{"id": f"m-{number}", "body": body} for number, body in enumerate(bodies)])

    answer = transformer.stub.ModelInfer(request(call="request-1", id=["m-0", "m-1"], body=bodies))

    found = columns(answer)
    assert answer.id == "request-1"
    assert found["id"] == ["m-0", "m-1"]
    assert found["decision"] == [prediction["decision"] for prediction in expected]
    for task in expected[0]["labels"]:
        assert found[task] == [prediction["labels"][task]["label"] for prediction in expected]
    assert [json.loads(text)["id"] for text in found["prediction"]] == ["m-0", "m-1"]


def test_metadata_and_readiness(transformer, bundle_path):
    metadata = transformer.stub.ModelMetadata(pb.ModelMetadataRequest(name="mailtriage"))

    assert {"id", "body"} <= {tensor.name for tensor in metadata.inputs}
    assert {"decision", *Bundle.open(bundle_path).taxonomy.task_ids} <= {tensor.name for tensor in metadata.outputs}
    assert transformer.stub.ModelReady(pb.ModelReadyRequest(name="mailtriage")).ready


def test_nobody_can_unload_the_model(transformer):
    with pytest.raises(grpc.RpcError) as refused:
        transformer.stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="mailtriage"))

    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert transformer.stub.ModelReady(pb.ModelReadyRequest(name="mailtriage")).ready


def test_a_call_has_a_line_with_its_id_its_client_and_its_mails_and_is_counted(transformer):
    before = transformer.requests(200)
    metadata = (("x-request-id", "call-1"), ("x-client-id", "archive"))

    answer, call = transformer.stub.ModelInfer.with_call(request(id=["m-1"], body=[SECRET]), metadata=metadata)

    (line,) = [line for line in transformer.lines() if line["request_id"] == "call-1"]
    assert (line["client"], line["status"], line["mails"], line["ids"]) == ("archive", 200, 1, ["m-1"])
    assert {"ms", "model_version", "routed"} <= set(line)
    assert dict(call.trailing_metadata())["x-request-id"] == answer.id == "call-1"
    assert transformer.requests(200) == before + 1
    assert SECRET not in transformer.log.read_text()


@pytest.mark.parametrize("given", [(), (("x-request-id", "two words"),), (("x-request-id", "x" * 129),)])
def test_a_call_without_a_usable_id_gets_one(transformer, given):
    answer, call = transformer.stub.ModelInfer.with_call(request(id=["m-1"], body=[SECRET]), metadata=given)

    made = dict(call.trailing_metadata())["x-request-id"]
    assert answer.id == made
    assert len(made) == 32
    assert made in [line["request_id"] for line in transformer.lines()]


def broken():
    given = request(id=["1"], body=[SECRET])
    given.raw_input_contents.append(SECRET.encode())
    return given


@pytest.mark.parametrize(
    ("given", "code", "status", "refused"),
    [
        (request(id=["1"]), grpc.StatusCode.INVALID_ARGUMENT, 400, "missing_tensor"),
        (request(id=["1"], body=[SECRET, SECRET]), grpc.StatusCode.INVALID_ARGUMENT, 400, "wrong_shape"),
        (request(id=["1"] * 41, body=[SECRET] * 41), grpc.StatusCode.RESOURCE_EXHAUSTED, 413, "too_many_mails"),
        (request(SECRET, id=["1"], body=["Guten Tag"]), grpc.StatusCode.NOT_FOUND, 404, "not_found"),
        (broken(), grpc.StatusCode.INVALID_ARGUMENT, 400, "wrong_type"),
    ],
)
def test_a_refused_call_is_logged_and_counted_as_over_rest(transformer, given, code, status, refused):
    before, lines = transformer.requests(status), len(transformer.lines())

    with pytest.raises(grpc.RpcError) as error:
        transformer.stub.ModelInfer(given)

    assert error.value.code() == code
    assert transformer.requests(status) == before + 1
    *_, line = transformer.lines()
    assert len(transformer.lines()) == lines + 1
    assert (line["status"], line["refused"]) == (status, refused)
    assert SECRET not in error.value.details()
    assert SECRET not in transformer.log.read_text()
