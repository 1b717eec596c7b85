"""The predictor: token ids in, logits out, over the V2 inference protocol."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import Any

import numpy as np
from kserve import InferRequest, Model

from mailtriage.bundle import Bundle
from mailtriage.engines import Device, EngineName, load_engine
from mailtriage.features import TokenIds
from mailtriage.inference import Engine
from serving.batching import MicroBatcher
from serving.cpu import cpu_limit
from serving.metrics import BUNDLE
from serving.refusals import Refused, bad_request
from serving.routes import CHUNK_MAILS, REQUEST_ID
from serving.tensors import read_numbers, tensor_answer

logger = logging.getLogger("serving.predictor")

WARM_UP_SHAPES = ((1, 8), (1, 64), (8, 32), (16, 64))
TRIAL_SECONDS = 1.0  # less than those wait who ask whether this server is ready
LEAST_BODY = 8 * 2**20
JSON_BYTES = 64 * 2**10  # for what stands before the tensors


class Predictor(Model):
    """A KServe model around a `MicroBatcher`.

    Inputs `input_ids` and `attention_mask` are INT64 of shape (mails, tokens), padded on the right. The answer has one
    FP32 tensor a task, named by the task's id, of shape (mails, labels); its parameters carry `model_version`,
    `taxonomy_version` and `bundle_digest`, because KServe's REST client drops the protocol's own `model_version`.
    """

    def __init__(self, name: str, bundle: Bundle, batcher: MicroBatcher, platform: str, timeout: float = 30.0) -> None:
        super().__init__(name)
        self.platform = platform
        self.model_version = bundle.model_version
        self.bundle_digest = bundle.digest
        self._batcher = batcher
        self._timeout = timeout
        self._trial: asyncio.Task[None] | None = None
        self._labels = {task.id: len(task.labels) for task in bundle.taxonomy.tasks}
        self._max_tokens = int(bundle.manifest["max_tokens"])
        self.max_body = body_limit(self._max_tokens)
        self._vocabulary_size = bundle.tokenizer.vocabulary_size
        self._parameters = {
            "model_version": bundle.model_version,
            "taxonomy_version": bundle.taxonomy.version,
            "bundle_digest": bundle.digest,
        }
        BUNDLE.labels(bundle.model_version, bundle.taxonomy.version, bundle.digest[:12]).set(1)

    @classmethod
    def load_bundle(
        cls,
        name: str,
        bundle: Bundle,
        *,
        engine_name: EngineName = "auto",
        device: Device = "auto",
        threads: int | None,
        token_budget: int,
        queue_limit: int,
        wait_limit: float,
        timeout: float,
    ) -> Predictor:
        """Load the bundle's engine and warm it up; `threads` is the CPU limit by default.

        Raises:
            ServingError: this engine or device is not there.
        """
        threads = threads or cpu_limit()
        engine = load_engine(bundle, engine_name, device, threads)
        warm_up(engine, int(bundle.manifest["max_tokens"]))
        batcher = MicroBatcher(engine, token_budget=token_budget, queue_limit=queue_limit, wait_limit=wait_limit)
        predictor = cls(name, bundle, batcher, engine.name, timeout)
        predictor.start()
        logger.info("loaded", extra={"fields": {"engine": engine.name, "threads": threads, **predictor._parameters}})
        return predictor

    def start(self) -> None:
        """Called by us and, again, by the model server."""
        if not self._batcher.alive:
            self._batcher.start()
        self.ready = True

    def stop(self) -> None:
        self.ready = False
        threading.Thread(target=self._batcher.stop, name="stop", daemon=True).start()

    async def healthy(self) -> bool:
        """Whether a mail can be classified: loaded, and not every forward pass fails.

        While they do, whoever asks has one tried, so that the server is ready again once the engine is: nothing else
        may come here until then.
        """
        if not (self.ready and self._batcher.alive):
            return False
        if self._batcher.failing:
            if self._trial is None or self._trial.done():
                self._trial = asyncio.create_task(self._try())
            await asyncio.wait({self._trial}, timeout=TRIAL_SECONDS)
        return not self._batcher.failing

    async def _try(self) -> None:
        with contextlib.suppress(Refused):
            await self._batcher.submit([np.ones(1, dtype=np.int32)], self._timeout)

    def get_input_types(self) -> list[dict[str, Any]]:
        return [{"name": name, "datatype": "INT64", "shape": [-1, -1]} for name in ("input_ids", "attention_mask")]

    def get_output_types(self) -> list[dict[str, Any]]:
        return [{"name": task, "datatype": "FP32", "shape": [-1, labels]} for task, labels in self._labels.items()]

    def validate(self, payload: Any) -> Any:
        return payload

    async def preprocess(self, payload: Any, headers: dict[str, str] | None = None) -> Any:
        """Check the tensors and take the padding off.

        Raises:
            Refused: 400, no V2 request, or tensors that do not fit one another, the vocabulary or the model's length.
        """
        if not isinstance(payload, InferRequest):
            raise bad_request(
                "wrong_type", "the predictor takes V2 requests with token ids; send mails to the transformer"
            )
        input_ids, mask = (self._matrix(payload, name) for name in ("input_ids", "attention_mask"))
        if input_ids.shape != mask.shape:
            raise bad_request("wrong_shape", f"'input_ids' is {input_ids.shape}, 'attention_mask' is {mask.shape}")
        return payload, self._take_padding_off(input_ids, mask)

    async def predict(self, payload: Any, headers: dict[str, str] | None = None, response_headers: Any = None) -> Any:
        request, mails = payload
        return request, await self._batcher.submit(mails, self._patience(request), (headers or {}).get(REQUEST_ID, ""))

    async def postprocess(
        self, result: Any, headers: dict[str, str] | None = None, response_headers: Any = None
    ) -> Any:
        request, logits = result
        return tensor_answer(request, logits, (headers or {}).get(REQUEST_ID, ""), self._parameters)

    def _matrix(self, request: InferRequest, name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        tensor = request.get_input_by_name(name)
        if tensor is None:
            raise bad_request("missing_tensor", f"expected the tensor '{name}'")
        values = read_numbers(tensor, "INT64")
        if values.ndim != 2 or 0 in values.shape or values.shape[1] > self._max_tokens:
            raise bad_request(
                "wrong_shape", f"expected '{name}' to be (mails, up to {self._max_tokens} tokens), found {values.shape}"
            )
        return values

    def _take_padding_off(self, input_ids: Any, mask: Any) -> list[TokenIds]:
        lengths = mask.sum(axis=1)
        prefix = np.arange(mask.shape[1]) < lengths[:, None]
        if not (lengths > 0).all() or not np.array_equal(mask, prefix):
            raise bad_request("wrong_mask", "expected each row of 'attention_mask' to be ones and then zeros")
        if input_ids.min() < 0 or input_ids.max() >= self._vocabulary_size:
            raise bad_request("unknown_token", f"expected token ids from 0 to {self._vocabulary_size - 1}")
        return [row[:length].astype(np.int32) for row, length in zip(input_ids, lengths.tolist(), strict=True)]

    def _patience(self, request: InferRequest) -> float:
        """Seconds that this request waits: the caller may ask for less than the server's own limit."""
        wanted = (request.parameters or {}).get("timeout_ms")
        wanted = getattr(wanted, "int64_param", wanted)
        return min(self._timeout, wanted / 1000) if isinstance(wanted, int | float) and wanted > 0 else self._timeout


def body_limit(max_tokens: int) -> int:
    """Bytes that a request to the predictor may have: never fewer than the transformer's largest chunk needs.

    The limit for clients is the transformer's and says nothing about this one: a mail of a few bytes becomes a row as
    long as the longest of its chunk.
    """
    tensors = 2 * CHUNK_MAILS * max_tokens * np.dtype(np.int64).itemsize
    return max(LEAST_BODY, tensors + JSON_BYTES)


def warm_up(engine: Engine, max_tokens: int) -> None:
    """Run forward passes of several shapes, so that the first mail does not pay for what is set up on first use."""
    for mails, tokens in (*WARM_UP_SHAPES, (1, max_tokens)):
        shape = (mails, min(tokens, max_tokens))
        engine.forward(np.ones(shape, dtype=np.int64), np.ones(shape, dtype=np.int64))
