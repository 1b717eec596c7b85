"""What runs the model: ONNX Runtime on the CPU, or torch on CPU and GPU."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mailtriage.bundle import TORCH_FP32, Bundle
from mailtriage.decoding import Logits
from mailtriage.errors import ServingError
from mailtriage.inference import Engine, IdArray

EngineName = Literal["auto", "onnx", "torch"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

GRAPH_STEP = 32  # tokens between the lengths of recorded forward passes
GRAPH_TOKENS = 8192  # of the largest one, padding included


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

    Args:
        bundle: the opened bundle.
        device: `cpu` or `cuda`.
        threads: threads of one forward pass on a CPU; by default all that the process may use.
        precision: of weights and activations, cast once; by default bf16 on a GPU, unless the bundle refuses that.
        graphs: on a GPU, record the kernels of a small forward pass once a shape and replay them: a few mails
            take the GPU less time than launching 20 kernels a layer takes the CPU. The first pass of each shape of
            `graph_shape` is slow, since it records. Recording that fails is logged, and passes go on without graphs.

    Raises:
        ServingError: torch is not installed, or sees no GPU.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: Literal["cpu", "cuda"] = "cpu",
        threads: int | None = None,
        *,
        precision: Precision = "auto",
        graphs: bool = False,
    ) -> None:
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
        if precision == "auto":
            precision = "bf16" if device == "cuda" and bundle.engine_file(device) != TORCH_FP32 else "fp32"
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self.name = f"torch {str(dtype).removeprefix('torch.')} {device}"
        with quiet_transformers():
            model: Any = MultiTaskClassifier.from_pretrained(str(bundle.path / "model"))
        self._model: Any = model.eval().to(device=device, dtype=dtype)
        self._labels: dict[str, int] = dict(model.config.labels)
        self._longest = int(bundle.manifest["max_tokens"])
        self._graphs = graphs and device == "cuda"
        self._recorded: dict[tuple[int, int], _Recorded] = {}
        self._lock = threading.Lock()  # a recorded pass has one place for its input and one for its output

    def forward(self, input_ids: IdArray, attention_mask: IdArray) -> dict[str, Logits]:
        mails, tokens = input_ids.shape
        shape = graph_shape(mails, tokens, self._longest) if self._graphs else None
        with self._torch.inference_mode():
            found = self._replay(shape, input_ids, attention_mask) if shape else None
            if found is None:
                given = self._torch.from_numpy(np.stack([input_ids, attention_mask])).to(self._device)
                found = self._logits(given).cpu()
        values: Logits = found[:mails].numpy()
        ends = np.cumsum(list(self._labels.values())).tolist()
        return {task: values[:, end - self._labels[task] : end] for task, end in zip(self._labels, ends, strict=True)}

    def _logits(self, given: Any) -> Any:
        """(2, mails, tokens) -> (mails, labels of all tasks) in fp32: one copy to the device and one back, since each
        copy back waits for the GPU."""
        logits = self._model(given[0], given[1])
        return self._torch.cat([logits[task] for task in self._labels], dim=1).float()

    def _replay(self, shape: tuple[int, int], input_ids: IdArray, attention_mask: IdArray) -> Any:
        """The logits, filling mails included, or `None` where nothing can be recorded."""
        given = self._torch.from_numpy(widen(input_ids, attention_mask, *shape))
        with self._lock:
            try:
                if shape not in self._recorded:
                    self._recorded[shape] = self._record(given)
            except RuntimeError:
                logging.getLogger(__name__).warning("CUDA graphs are off: recording failed", exc_info=True)
                self._graphs = False
                return None
            recorded = self._recorded[shape]
            recorded.given.copy_(given, non_blocking=True)
            recorded.graph.replay()
            return recorded.logits.cpu()

    def _record(self, given: Any) -> _Recorded:
        """One forward pass of this shape as a CUDA graph; RuntimeError where a kernel cannot be recorded."""
        cuda = self._torch.cuda
        static = given.to(self._device)
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):  # libraries set themselves up on first use, which cannot be recorded
            for _ in range(2):
                self._logits(static)
        cuda.current_stream().wait_stream(side)
        # Graphs never run at the same time, so all may use the same memory.
        pool = next((recorded.graph.pool() for recorded in self._recorded.values()), None)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            logits = self._logits(static)
        return _Recorded(graph, static, logits)


@dataclass(frozen=True)
class _Recorded:
    """A recorded forward pass, and the tensors on the GPU that it reads and writes."""

    graph: Any
    given: Any
    logits: Any


def graph_shape(mails: int, tokens: int, longest: int) -> tuple[int, int] | None:
    """The shape (mails, tokens) of the recorded pass that a batch fits in; `None` where recording brings nothing.

    Few shapes, since each costs time and memory: mails are the next power of two, tokens the next multiple of
    `GRAPH_STEP`, at most `longest`. A batch of more than `GRAPH_TOKENS` keeps the GPU busier than launching it the CPU.
    """
    shape = 1 << (mails - 1).bit_length(), max(tokens, min(-(-tokens // GRAPH_STEP) * GRAPH_STEP, longest))
    return shape if mails and tokens and shape[0] * shape[1] <= GRAPH_TOKENS else None


def widen(input_ids: IdArray, attention_mask: IdArray, mails: int, tokens: int) -> IdArray:
    """Ids and mask of shape (given mails, given tokens) in one array of shape (2, mails, tokens).

    Mails that fill it up have one token, since attention over none is not a number.
    """
    wide = np.zeros((2, mails, tokens), dtype=np.int64)
    rows, columns = input_ids.shape
    wide[0, :rows, :columns] = input_ids
    wide[1, :rows, :columns] = attention_mask
    wide[1, rows:, 0] = 1
    return wide
