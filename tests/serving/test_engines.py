"""Engines: the same model on ONNX Runtime and on torch, and clear words where one is not there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mailtriage.bundle import Bundle
from mailtriage.engines import GRAPH_TOKENS, OnnxEngine, TorchEngine, graph_shape, load_engine, widen
from mailtriage.errors import ServingError

ROOT = Path(__file__).resolve().parents[2]
IDS = np.array([[2, 10, 11, 12, 3], [2, 13, 3, 0, 0]], dtype=np.int64)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=np.int64)


@pytest.fixture(scope="module")
def bundle(bundle_path):
    return Bundle.open(bundle_path)


def test_torch_gives_the_logits_of_the_trained_model_and_onnx_nearly_so(bundle):
    import torch

    from mailtriage.model import MultiTaskClassifier

    model = MultiTaskClassifier.from_pretrained(str(bundle.path / "model")).eval()
    with torch.inference_mode():
        expected = model(torch.from_numpy(IDS), torch.from_numpy(MASK))

    from_torch = load_engine(bundle, "torch", "cpu", 1).forward(IDS, MASK)
    from_onnx = load_engine(bundle, "onnx", "cpu", 1).forward(IDS, MASK)

    assert set(from_torch) == set(from_onnx) == set(bundle.taxonomy.task_ids)
    for task, values in expected.items():
        assert from_torch[task].dtype == np.float32
        np.testing.assert_allclose(from_torch[task], values.numpy(), atol=1e-5)
        np.testing.assert_allclose(from_onnx[task], values.numpy(), atol=0.3)


def test_int8_weights_leave_room_on_processors_that_add_in_sixteen_bits(bundle):
    import onnx

    model = onnx.load(bundle.path / "onnx" / "model.int8.onnx")
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.data_type == 3]
    largest = max(int(np.abs(values.astype(int)).max()) for values in weights if values.ndim == 2)

    assert 32 < largest <= 64  # 2 * 255 * 64 < 2 ** 15


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_the_bits_give_nearly_the_same_logits_in_fp32(bundle, precision):
    expected = TorchEngine(bundle, threads=1).forward(IDS, MASK)

    found = TorchEngine(bundle, threads=1, precision=precision, graphs=True).forward(IDS, MASK)

    for task, values in expected.items():
        assert found[task].dtype == np.float32
        np.testing.assert_allclose(found[task], values, atol=0.1)


def test_a_batch_widened_to_a_recorded_shape_has_the_same_logits(bundle):
    engine = TorchEngine(bundle, threads=1)

    wide = engine.forward(*widen(IDS, MASK, 4, 32))

    for task, values in engine.forward(IDS, MASK).items():
        assert np.isfinite(wide[task]).all()
        np.testing.assert_allclose(wide[task][:2], values, atol=1e-5)


def test_recorded_shapes_hold_their_batch_and_are_few():
    shapes = {}
    for mails in range(1, 65):
        for tokens in range(1, 257):
            if shape := graph_shape(mails, tokens, 250):
                assert shape[0] >= mails
                assert tokens <= shape[1] <= max(tokens, 250)
                shapes[shape] = shapes.get(shape, 0) + (tokens <= 250)
    assert graph_shape(1, 5, 250) == (1, 32)
    assert graph_shape(3, 240, 250) == (4, 250)
    assert graph_shape(GRAPH_TOKENS, 2, 250) is None
    assert sum(used > 0 for used in shapes.values()) <= 7 * 8


def test_each_shape_is_recorded_once_and_replayed(bundle, monkeypatch):
    """Without a GPU: a pass that runs the model when it is replayed stands for the recorded one."""
    engine = TorchEngine(bundle, threads=1)
    recorded = []

    class Replayed:
        def __init__(self, given):
            self.graph, self.given, self.logits = self, given.clone(), None
            recorded.append(tuple(given.shape))

        def replay(self):
            self.logits = engine._logits(self.given)

    monkeypatch.setattr(engine, "_graphs", True)
    monkeypatch.setattr(engine, "_record", Replayed)

    first, second = engine.forward(IDS, MASK), engine.forward(IDS[::-1], MASK[::-1])
    alone = engine.forward(IDS[1:, :3], MASK[1:, :3])

    assert recorded == [(2, 2, 32), (2, 1, 32)]
    for task, values in TorchEngine(bundle, threads=1).forward(IDS, MASK).items():
        np.testing.assert_allclose(first[task], values, atol=1e-5)
        np.testing.assert_allclose(second[task], values[::-1], atol=1e-5)
        np.testing.assert_allclose(alone[task], values[1:], atol=1e-5)


def test_where_nothing_can_be_recorded_passes_go_on_without_graphs(bundle, caplog, monkeypatch):
    engine = TorchEngine(bundle, threads=1)

    def refused(_given):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(engine, "_graphs", True)  # which takes a GPU
    monkeypatch.setattr(engine, "_record", refused)

    found = [engine.forward(IDS, MASK) for _ in range(2)][-1]

    assert caplog.text.count("CUDA graphs are off") == 1
    for task, values in TorchEngine(bundle, threads=1).forward(IDS, MASK).items():
        np.testing.assert_allclose(found[task], values, atol=1e-5)


def test_the_bundle_names_the_engine_of_each_device(bundle, tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(bundle.path, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"engines": {"cpu": "model"}}))

    assert manifest["engines"].keys() == {"cpu", "cuda"}
    assert manifest["engines"]["cuda"] == "model"
    assert isinstance(load_engine(bundle, device="cpu"), OnnxEngine)
    assert isinstance(load_engine(Bundle.open(copy), device="cpu"), TorchEngine)


def test_what_is_not_there_is_said(bundle):
    with pytest.raises(ServingError, match="--engine torch"):
        load_engine(bundle, "onnx", "cuda")
    with pytest.raises(ServingError, match="torch sees no GPU"):
        load_engine(bundle, "auto", "cuda")


def test_without_torch_the_default_is_onnx_and_torch_is_a_clear_error(bundle):
    """The serving image: torch cannot be imported."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from mailtriage.bundle import Bundle\n"
        "from mailtriage.engines import load_engine\n"
        "bundle = Bundle.open(sys.argv[1])\n"
        "print(load_engine(bundle).name)\n"
        "load_engine(bundle, 'torch')\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, bundle.path], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.stdout.startswith("onnxruntime model")
    assert "ServingError: the engine 'torch' needs the package 'torch'" in done.stderr
