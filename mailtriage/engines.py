"""What runs the model: ONNX Runtime on the CPU, or torch on CPU and GPU."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from mailtriage.bundle import Bundle
from mailtriage.decoding import Logits
from mailtriage.errors import ServingError
from mailtriage.inference import Engine, IdArray

EngineName = Literal["auto", "onnx", "torch"]
Device = Literal["auto", "cpu", "cuda"]


def load_engine(
    bundle: Bundle, engine: EngineName = "auto", device: Device = "auto", threads: int | None = None
) -> Engine:
    """The engine that serves this bundle; `auto` takes the GPU where torch sees one, and the manifest's engine for it.

    Args:
        threads: threads of one forward pass on a CPU; by default all that the process may use.

    Raises:
        ServingError: torch or a GPU is wanted and not there, or ONNX Runtime is wanted on a GPU.
    """
    device = _device(engine, device)
    if engine == "auto":
        engine = "onnx" if bundle.engine_file(device).endswith(".onnx") else "torch"
    if engine == "torch":
        return TorchEngine(bundle, device, threads)
    if device != "cpu":
        raise ServingError(f"the engine 'onnx' runs on the device 'cpu', found '{device}'; a GPU takes --engine torch")
    return OnnxEngine(bundle, threads)


def _device(engine: EngineName, device: Device) -> Literal["cpu", "cuda"]:
    if device != "auto":
        return device
    if engine == "onnx":
        return "cpu"
    try:
        import torch
    except ImportError:
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


class OnnxEngine:
    """Runs the bundle's ONNX export with ONNX Runtime on the CPU.

    Args:
        bundle: the opened bundle.
        threads: threads of one forward pass; by default ONNX Runtime takes all cores that it may use.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        # Threads that spin between passes take the cores from those that have work: measured slower, at twice the CPU.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.name = f"onnxruntime {bundle.onnx_path.name} cpu"
        self._session = onnxruntime.InferenceSession(str(bundle.onnx_path), options, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]

    def forward(self, input_ids: IdArray, attention_mask: IdArray) -> dict[str, Logits]:
        values = self._session.run(self._outputs, {"input_ids": input_ids, "attention_mask": attention_mask})
        return dict(zip(self._outputs, values, strict=True))


class TorchEngine:
    """Runs the bundle's own weights with torch: fp32 on a CPU, bf16 on a GPU.

    Raises:
        ServingError: torch is not installed, or sees no GPU.
    """

    def __init__(self, bundle: Bundle, device: Literal["cpu", "cuda"] = "cpu", threads: int | None = None) -> None:
        try:
            import torch

            from mailtriage.encoders import quiet_transformers
            from mailtriage.model import MultiTaskClassifier
        except ImportError as error:
            raise ServingError(
                f"the engine 'torch' needs the package '{error.name}', which is not installed here; "
                "take --engine onnx, or install the extra 'train'"
            ) from None
        if device == "cuda" and not torch.cuda.is_available():
            raise ServingError("the device 'cuda' is wanted, but torch sees no GPU; take --device cpu")
        if device == "cpu" and threads:
            torch.set_num_threads(threads)
        self._torch: Any = torch
        self._device = device
        precision = torch.bfloat16 if device == "cuda" else torch.float32
        self.name = f"torch {str(precision).removeprefix('torch.')} {device}"
        with quiet_transformers():
            model: Any = MultiTaskClassifier.from_pretrained(str(bundle.path / "model"))
        self._model: Any = model.eval().to(device=device, dtype=precision)

    def forward(self, input_ids: IdArray, attention_mask: IdArray) -> dict[str, Logits]:
        torch = self._torch
        with torch.inference_mode():
            given = (torch.from_numpy(np.ascontiguousarray(array)) for array in (input_ids, attention_mask))
            logits = self._model(*(tensor.to(self._device, non_blocking=True) for tensor in given))
            return {task: values.float().cpu().numpy() for task, values in logits.items()}
