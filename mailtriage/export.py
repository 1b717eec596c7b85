"""Exports the trained model to ONNX, quantises it, and refuses a variant that answers worse than the model."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mailtriage.bundle import TORCH, TORCH_FP32
from mailtriage.decoding import Decoder, Logits
from mailtriage.errors import ExportError
from mailtriage.features import TokenIds
from mailtriage.fitting import Say, forward_pass, mean_macro_f1
from mailtriage.inference import IdArray, forward_in_batches
from mailtriage.metrics import Labels
from mailtriage.model import MultiTaskClassifier

FP32, INT8 = "onnx/model.onnx", "onnx/model.int8.onnx"


def export_onnx(
    model: MultiTaskClassifier,
    folder: Path,
    input_ids: Sequence[TokenIds],
    targets: Labels,
    decoder: Decoder,
    tolerance: float,
    say: Say = lambda _line: None,
) -> tuple[dict[str, str], dict[str, Any]]:
    """Write fp32 and int8 ONNX files into `folder`; measure both, and the weights in bf16, on validation mails.

    Args:
        input_ids, targets: the validation mails; targets of shape (mails, tasks).
        decoder: calibrated, since what changes for a client are calibrated probabilities.
        tolerance: the largest loss of mean macro-F1 that a variant may cost.

    Returns:
        Device -> what it serves from, as `Bundle.engine_file` says, and each variant's parity: `macro_f1`,
        `labels_changed` (share), `largest_probability_change`, `bytes`.

    Raises:
        ExportError: even the fp32 export loses more than `tolerance`.
    """
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    reference = forward_in_batches(forward_pass(model), input_ids)
    variants = {TORCH: forward_in_batches(forward_pass(copy.deepcopy(model).to(torch.bfloat16)), input_ids)}
    _export(model, folder / FP32)
    _quantise(folder / FP32, folder / INT8)
    variants |= {name: _onnx_logits(folder / name, input_ids) for name in (FP32, INT8)}
    parity = {name: _parity(found, reference, targets, decoder) for name, found in variants.items()}
    for name in (FP32, INT8):
        parity[name]["bytes"] = (folder / name).stat().st_size
    wanted = mean_macro_f1(reference, targets) - tolerance
    accepted = [name for name in (INT8, FP32, TORCH) if parity[name]["macro_f1"] >= wanted]
    for name, found in parity.items():
        verdict = "ok" if name in accepted else "refused"
        shown = "weights in bf16" if name == TORCH else name
        say(f"{shown}: {found['labels_changed']:.2%} labels changed, macro-F1 {found['macro_f1']:.3f}, {verdict}")
    served = next((name for name in (INT8, FP32) if name in accepted), None)
    if served is None:
        raise ExportError(
            f"expected an export with macro-F1 of at least {wanted:.3f} on validation mails, "
            f"found {parity[FP32]['macro_f1']:.3f} in fp32 and {parity[INT8]['macro_f1']:.3f} in int8"
        )
    for name in (FP32, INT8):  # what nothing serves from does not travel
        if name != served:
            (folder / name).unlink()
    return {"cpu": served, "cuda": TORCH if TORCH in accepted else TORCH_FP32}, parity


def _export(model: MultiTaskClassifier, file: Path) -> None:
    model.eval().cpu()
    names = list(model.heads)
    ids = torch.ones((2, 16), dtype=torch.int64)
    batch, tokens = torch.export.Dim("batch", min=1), torch.export.Dim("tokens", min=2)
    shape = {0: batch, 1: tokens}
    with warnings.catch_warnings(), _silenced("torch.onnx", "onnxscript", "onnx_ir"):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Logits(model),
            (ids, torch.ones_like(ids)),
            str(file),
            dynamo=True,
            input_names=["input_ids", "attention_mask"],
            output_names=names,
            dynamic_shapes={"input_ids": shape, "attention_mask": shape},
            external_data=False,
            verbose=False,
        )


class _Logits(torch.nn.Module):
    """The model with a tuple of tensors for an answer, which the exporter names in order."""

    def __init__(self, model: MultiTaskClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.model(input_ids, attention_mask).values())


def _quantise(source: Path, target: Path) -> None:
    """Dynamic int8: weights of the matrix products ahead of time, activations on the fly.

    Weights take 7 of the 8 bits. A processor without VNNI adds up pairs of products in 16 bits, which whole weights
    overflow: a logit was then off by 0.5 on AVX2 alone, and by 0.06 with 7 bits. So all processors answer alike.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = target.with_suffix(".prepared")
    with _silenced("root"):
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_dynamic(str(prepared), str(target), weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
    prepared.unlink()


def _parity(
    logits: Mapping[str, Logits], reference: Mapping[str, Logits], targets: Labels, decoder: Decoder
) -> dict[str, Any]:
    changed = [(logits[task].argmax(1) != reference[task].argmax(1)).mean() for task in reference]
    before, after = decoder.probabilities(reference), decoder.probabilities(logits)
    return {
        "macro_f1": mean_macro_f1({task: logits[task] for task in reference}, targets),
        "labels_changed": float(np.mean(changed)),
        "largest_probability_change": float(max(np.abs(after[task] - before[task]).max() for task in reference)),
    }


def _onnx_logits(file: Path, input_ids: Sequence[TokenIds]) -> dict[str, Logits]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def forward(ids: IdArray, mask: IdArray) -> dict[str, Logits]:
        return dict(zip(names, session.run(names, {"input_ids": ids, "attention_mask": mask}), strict=True))

    return forward_in_batches(forward, input_ids)


class _silenced:  # noqa: N801
    """The exporters' progress is not ours: their warnings and notes are held back, their errors are not."""

    def __init__(self, *names: str) -> None:
        self._loggers = [logging.getLogger(name if name != "root" else None) for name in names]

    def __enter__(self) -> None:
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.setLevel(level)
