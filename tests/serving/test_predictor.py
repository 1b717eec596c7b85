"""The predictor by itself: the V2 wire contract, over REST and gRPC."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import orjson
import pytest

from mailtriage.bundle import Bundle
from mailtriage.engines import OnnxEngine
from serving import predictor
from serving.supervisor import free_port

ROOT = Path(__file__).resolve().parents[2]
INFER = "/v2/models/mailtriage/infer"
IDS = np.array([[2, 10, 11, 12, 3], [2, 13, 3, 0, 0]], dtype=np.int64)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=np.int64)


def tensors(ids=IDS, mask=MASK):
    return [
        {"name": name, "datatype": "INT64", "shape": list(values.shape), "data": values.flatten().tolist()}
        for name, values in (("input_ids", ids), ("attention_mask", mask))
    ]


def infer(stack, inputs, **fields):
    return httpx.post(stack.predictor + INFER, json={"inputs": inputs, **fields}, trust_env=False)


@pytest.fixture(scope="module")
def expected(bundle_path):
    engine = OnnxEngine(Bundle.open(bundle_path), 1)
    return [engine.forward(IDS[:1], MASK[:1]), engine.forward(IDS[1:, :3], MASK[1:, :3])]


def test_json_tensors_give_the_engines_logits(stack, bundle_path, expected):
    bundle = Bundle.open(bundle_path)

    answer = infer(stack, tensors()).json()

    assert answer["parameters"] == {
        "model_version": bundle.model_version,
        "taxonomy_version": bundle.taxonomy.version,
        "bundle_digest": bundle.digest,
    }
    assert {output["name"] for output in answer["outputs"]} == set(bundle.taxonomy.task_ids)
    for output in answer["outputs"]:
        assert output["datatype"] == "FP32"
        values = np.reshape(output["data"], output["shape"])
        for row, logits in enumerate(expected):
            np.testing.assert_allclose(values[row], logits[output["name"]][0], atol=0.2)


def test_binary_tensors_give_the_same(stack):
    from_json = {o["name"]: np.reshape(o["data"], o["shape"]) for o in infer(stack, tensors()).json()["outputs"]}
    inputs = [
        {"name": name, "datatype": "INT64", "shape": [2, 5], "parameters": {"binary_data_size": 80}}
        for name in ("input_ids", "attention_mask")
    ]
    head = orjson.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}})
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}

    answer = httpx.post(
        stack.predictor + INFER, content=head + IDS.tobytes() + MASK.tobytes(), headers=headers, trust_env=False
    )

    start = int(answer.headers["inference-header-content-length"])
    for output in orjson.loads(answer.content[:start])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        values = np.frombuffer(answer.content[start : start + size], dtype=np.float32).reshape(output["shape"])
        np.testing.assert_allclose(values, from_json[output["name"]], atol=1e-6)
        start += size
    assert start == len(answer.content)


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ([], "missing_tensor"),
        (tensors()[:1], "missing_tensor"),
        (tensors(mask=MASK[:1]), "wrong_shape"),
        (tensors(IDS[0], MASK[0]), "wrong_shape"),
        (tensors(np.full((1, 3_000), 5), np.ones((1, 3_000), dtype=np.int64)), "wrong_shape"),
        (tensors(IDS - 5), "unknown_token"),
        (tensors(IDS + 10**9), "unknown_token"),
        (tensors(mask=MASK[:, ::-1]), "wrong_mask"),
        (tensors(mask=MASK * 0), "wrong_mask"),
        (tensors(mask=MASK * 2), "wrong_mask"),
        ([tensor | {"datatype": "FP32"} for tensor in tensors()], "wrong_type"),
        ([tensor | {"data": ["x"] * 10} for tensor in tensors()], "wrong_shape"),
        ([tensor | {"data": [1]} for tensor in tensors()], "wrong_shape"),
        ([tensor | {"shape": [-2, 5]} for tensor in tensors()], "wrong_shape"),
    ],
)
def test_tensors_that_do_not_fit_are_400(stack, inputs, code):
    answer = infer(stack, inputs)

    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == code


def test_mails_belong_to_the_transformer(stack):
    url = f"{stack.predictor}/v1/models/mailtriage:predict"

    answer = httpx.post(url, json={"instances": [{"id": "1", "body": "Guten Tag"}]}, trust_env=False)

    assert answer.status_code == 400
    assert "transformer" in answer.json()["error"]["message"]


def test_grpc_gives_the_engines_logits(bundle_path, tmp_path, expected):
    from kserve import InferenceGRPCClient, InferInput, InferRequest

    rest, grpc = free_port("127.0.0.1"), free_port("127.0.0.1")
    command = [sys.executable, "-m", "serving", "predictor", "--bundle", str(bundle_path)]
    command += ["--http-port", str(rest), "--grpc-port", str(grpc)]

    async def ask():
        inputs = []
        for name, values in (("input_ids", IDS), ("attention_mask", MASK)):
            inputs.append(InferInput(name, list(values.shape), "INT64"))
            inputs[-1].set_data_from_numpy(values)
        async with InferenceGRPCClient(f"127.0.0.1:{grpc}", timeout=60) as client:
            for _ in range(300):
                try:
                    if await client.is_server_ready():
                        break
                except Exception:
                    await asyncio.sleep(0.2)
            return await client.infer(InferRequest("mailtriage", inputs))

    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, cwd=ROOT, stderr=log) as process:
        try:
            answer = asyncio.run(ask())
        finally:
            process.terminate()

    for output in answer.outputs:
        for row, logits in enumerate(expected):
            np.testing.assert_allclose(output.as_numpy()[row], logits[output.name][0], atol=0.2)


def test_it_is_ready_only_after_its_warm_up(bundle_path, monkeypatch):
    bundle = Bundle.open(bundle_path)
    tasks = {task.id: len(task.labels) for task in bundle.taxonomy.tasks}
    happened, held = [], threading.Event()
    start = predictor.Predictor.start

    class Cold:
        """An engine whose first forward pass takes as long as the test wants."""

        name = "cold"

        def forward(self, input_ids, attention_mask):
            assert held.wait(30)
            happened.append(input_ids.shape)
            return {task: np.zeros((len(input_ids), labels), np.float32) for task, labels in tasks.items()}

    def noted(model):
        start(model)
        happened.append("ready")

    monkeypatch.setattr(predictor, "load_engine", lambda *_: Cold())
    monkeypatch.setattr(predictor.Predictor, "start", noted)
    limits = {"token_budget": 1024, "queue_limit": 16, "wait_limit": 1.0, "timeout": 1.0}
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(predictor.Predictor.load_bundle, "mailtriage", bundle, threads=1, **limits)
        with pytest.raises(TimeoutError):
            loading.result(0.3)  # a server is made of what this returns
        before = list(happened)
        held.set()
        loaded = loading.result(30)
    healthy = asyncio.run(loaded.healthy())
    loaded.stop()

    longest = int(bundle.manifest["max_tokens"])
    assert before == []
    assert happened[-1] == "ready"
    assert happened[:-1] == [*predictor.WARM_UP_SHAPES, (1, longest)]
    assert healthy


def forge(folder):
    (folder / "tokenizer.json").write_text("{}")


def lose(folder):
    (folder / "thresholds.json").unlink()


def age(folder):
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"cleaning_version": "99"}))


@pytest.mark.parametrize(
    ("command", "damage", "named"),
    [
        (["predictor"], forge, "tokenizer.json"),
        (["predictor"], lose, "thresholds.json"),
        (["predictor"], age, "99"),
        (["transformer", "--predictor-host", "127.0.0.1:1"], lose, "thresholds.json"),
        (["up", "--port", "0"], forge, "tokenizer.json"),
    ],
)
def test_a_bundle_that_must_not_be_served_is_refused_by_name(bundle_path, tmp_path, command, damage, named):
    folder = tmp_path / "bundle"
    shutil.copytree(bundle_path, folder)
    damage(folder)

    done = subprocess.run(
        [sys.executable, "-m", "serving", *command, "--bundle", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert named in done.stderr
    assert "Traceback" not in done.stderr
