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
from mailtriage.engines import OnnxEngine, TorchEngine, load_engine
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
