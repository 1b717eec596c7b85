"""V2 over gRPC on the transformer: mails in, answers out, refusals with the right status."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from mailtriage.bundle import Bundle
from serving.supervisor import free_port

ROOT = Path(__file__).resolve().parents[2]
SECRET = "Quittengelee"


@pytest.fixture(scope="module")
def served(stack, bundle_path, tmp_path_factory):
    """A transformer with gRPC before the shared stack's predictor: its stub, and its log."""
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
                yield stub, log
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


def request(**columns):
    given = pb.ModelInferRequest(model_name="mailtriage", id="request-1")
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


def test_mails_get_the_answers_of_the_rest_route(served, stack):
    bodies = ["Wo ist meine Dividende?", "Bitte schließen Sie mein Depot: €"]
    expected = stack.predict([{"id": f"m-{number}", "body": body} for number, body in enumerate(bodies)])

    answer = served[0].ModelInfer(request(id=["m-0", "m-1"], body=bodies))

    found = columns(answer)
    assert answer.id == "request-1"
    assert found["id"] == ["m-0", "m-1"]
    assert found["decision"] == [prediction["decision"] for prediction in expected]
    for task in expected[0]["labels"]:
        assert found[task] == [prediction["labels"][task]["label"] for prediction in expected]
    assert [json.loads(text)["id"] for text in found["prediction"]] == ["m-0", "m-1"]


def test_metadata_and_readiness(served, bundle_path):
    metadata = served[0].ModelMetadata(pb.ModelMetadataRequest(name="mailtriage"))

    assert {"id", "body"} <= {tensor.name for tensor in metadata.inputs}
    assert {"decision", *Bundle.open(bundle_path).taxonomy.task_ids} <= {tensor.name for tensor in metadata.outputs}
    assert served[0].ModelReady(pb.ModelReadyRequest(name="mailtriage")).ready


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (request(id=["1"]), grpc.StatusCode.INVALID_ARGUMENT),
        (request(id=["1"], body=[SECRET, SECRET]), grpc.StatusCode.INVALID_ARGUMENT),
        (request(id=["1"] * 41, body=[SECRET] * 41), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_refusals_have_their_status_and_no_text(served, given, status):
    with pytest.raises(grpc.RpcError) as refused:
        served[0].ModelInfer(given)

    assert refused.value.code() == status
    assert SECRET not in refused.value.details()
    assert SECRET not in served[1].read_text()


def test_nobody_can_unload_the_model(served):
    with pytest.raises(grpc.RpcError) as refused:
        served[0].RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="mailtriage"))

    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert served[0].ModelReady(pb.ModelReadyRequest(name="mailtriage")).ready
