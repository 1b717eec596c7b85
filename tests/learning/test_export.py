"""What an export measures, and which variant each device gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mailtriage import export, training
from mailtriage.bundle import TORCH, TORCH_FP32
from mailtriage.config import TrainingConfig
from mailtriage.examples import Example
from mailtriage.taxonomy import Taxonomy


def test_each_variant_is_measured_against_the_trained_model(bundle_path: Path) -> None:
    parity = json.loads((bundle_path / "metrics.json").read_text(encoding="utf-8"))["parity"]

    assert parity.keys() == {export.FP32, export.INT8, TORCH}
    measured = {"macro_f1", "labels_changed", "largest_probability_change"}
    assert all(measured <= found.keys() for found in parity.values())
    exact, rounded = (parity[name]["largest_probability_change"] for name in (export.FP32, TORCH))
    assert exact < 1e-4 < rounded < 0.1  # bf16 has 8 bits
    assert parity[export.FP32]["labels_changed"] == 0
    assert parity[export.INT8]["bytes"] < parity[export.FP32]["bytes"]


def test_weights_that_lose_quality_in_bf16_are_served_in_fp32_on_a_gpu(
    tmp_path: Path,
    tiny_config: TrainingConfig,
    taxonomy: Taxonomy,
    examples: list[Example],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = export.forward_pass

    def worse_in_bf16(model: Any) -> Any:
        forward = honest(model)
        if next(model.parameters()).dtype.itemsize == 4:
            return forward
        return lambda *given: {task: np.roll(values, 1, axis=1) for task, values in forward(*given).items()}

    monkeypatch.setattr(export, "forward_pass", worse_in_bf16)

    bundle = training.train(tiny_config, taxonomy, examples[:80], examples[160:200], tmp_path / "bundle").bundle

    assert bundle.engine_file("cuda") == TORCH_FP32
    assert bundle.engine_file("cpu").endswith(".onnx")
