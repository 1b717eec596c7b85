"""The transformer's connection to its predictor: V2 with binary tensors over kept-alive HTTP.

gRPC takes about the same time a request (`benchmarks/serving_transport.py`), and REST needs no second port.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp
import numpy as np
import orjson

from serving.metrics import BUNDLE_RETRIES
from serving.refusals import TIMEOUT, Refused, unavailable
from serving.routes import BINARY, BUNDLE_DIGEST, JSON_LENGTH, MODEL_VERSION, REQUEST_ID
from serving.tracing import pass_on

Logits = np.ndarray[Any, np.dtype[np.float32]]
IdArray = np.ndarray[Any, np.dtype[np.int64]]

RECONNECT_SECONDS = 0.1
# During an upgrade both bundles serve behind one address: so long a request looks for a predictor of its own bundle,
# from the moment that none was found; after it, only for a moment.
MISMATCH_PATIENCE, MISMATCH_MOMENT = 5.0, 0.25
FIRST_PAUSE, LAST_PAUSE = 0.01, 0.2
READINESS_TRIES = 4
STATE_SECONDS = 0.5  # how long an answer about readiness is believed


@dataclass(frozen=True, slots=True)
class PredictorState:
    """Whether the predictor can serve this transformer's bundle, and why not."""

    ready: bool
    reason: str = ""


class PredictorClient:
    """Sends token ids and reads logits.

    Each request names its bundle. A predictor of another one refuses and closes the connection (`serving.guard`), so
    that the next one may lead elsewhere, and those that stay in the pool lead to the right one.

    Args:
        address: `HOST` or `HOST:PORT` of the predictor.
        model: the model's name in the routes.
        model_version: what this transformer serves.
        bundle_digest: what both sides must have opened.
    """

    def __init__(self, address: str, model: str, model_version: str, bundle_digest: str) -> None:
        self._base = f"http://{address}"
        self._model = model
        self._model_version = model_version
        self._digest = bundle_digest
        self._session: aiohttp.ClientSession | None = None
        self._state = PredictorState(False, "not asked yet")
        self._state_until = 0.0
        self._mismatch_since: float | None = None

    async def forward(
        self, input_ids: IdArray, attention_mask: IdArray, timeout: float, request_id: str
    ) -> dict[str, Logits]:
        """Logits, task -> (mails, labels).

        Raises:
            Refused: 503, the predictor is gone, overloaded, too slow, or serves another bundle.
        """
        began = time.monotonic()
        pause = FIRST_PAUSE
        while True:
            left = timeout - (time.monotonic() - began)
            json_part, body = _encode({"input_ids": input_ids, "attention_mask": attention_mask}, int(left * 1000))
            headers = {"content-type": BINARY, JSON_LENGTH: str(json_part), REQUEST_ID: request_id}
            headers[BUNDLE_DIGEST] = self._digest
            pass_on(headers)
            status, answered, content = await self._post(f"/v2/models/{self._model}/infer", body, headers, left)
            if self._is_ours(answered):
                self._mismatch_since = None
                break
            if status != HTTPStatus.OK and BUNDLE_DIGEST not in answered:  # something between the two refuses
                break
            if time.monotonic() + pause >= self._give_up_at(began, timeout):
                raise self._mismatch(answered)
            BUNDLE_RETRIES.inc()
            await asyncio.sleep(pause)
            pause = min(LAST_PAUSE, 2 * pause)
        if status != HTTPStatus.OK:
            raise _passed_on(status, answered, content)
        return _decode(content, int(answered[JSON_LENGTH]))

    async def state(self) -> PredictorState:
        """Ask the predictor whether it is ready, at most every `STATE_SECONDS`."""
        if time.monotonic() >= self._state_until:
            self._state = await self._ask()
            self._state_until = time.monotonic() + STATE_SECONDS
        return self._state

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _ask(self) -> PredictorState:
        found = PredictorState(False, "not asked yet")
        for _ in range(READINESS_TRIES):  # one address may stand for predictors of two bundles
            try:
                async with self._connection().get(
                    f"{self._base}/v2/models/{self._model}/ready",
                    headers={BUNDLE_DIGEST: self._digest},
                    timeout=aiohttp.ClientTimeout(total=2),
                ) as answer:
                    if self._is_ours(answer.headers):
                        ready = answer.status == HTTPStatus.OK
                        return PredictorState(ready, "" if ready else "the predictor is not ready")
                    found = PredictorState(False, self._mismatch(answer.headers).message)
            except (aiohttp.ClientError, OSError, TimeoutError):
                found = PredictorState(False, "the predictor cannot be reached")
        return found

    async def _post(
        self, path: str, body: bytes, headers: dict[str, str], timeout: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send, and send once more on a dead connection: a forward pass changes nothing, so twice does no harm."""
        limit = aiohttp.ClientTimeout(total=timeout + 1)  # the predictor's own refusal says more, so it comes first
        for last in (False, True):
            try:
                async with self._connection().post(
                    self._base + path, data=body, headers=headers, timeout=limit
                ) as answer:
                    return answer.status, answer.headers, await answer.read()
            except TimeoutError:
                raise unavailable(TIMEOUT, f"no answer from the predictor within {timeout:.0f} s") from None
            except (aiohttp.ClientError, OSError):
                self._state_until = 0.0
                if last:
                    break
                await asyncio.sleep(RECONNECT_SECONDS)
        raise unavailable("predictor_unavailable", "the predictor cannot be reached; send the request again")

    def _connection(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        return self._session

    def _is_ours(self, headers: Mapping[str, str]) -> bool:
        return headers.get(BUNDLE_DIGEST, "") == self._digest

    def _give_up_at(self, began: float, timeout: float) -> float:
        now = time.monotonic()
        self._mismatch_since = self._mismatch_since or now
        return min(began + timeout, max(self._mismatch_since + MISMATCH_PATIENCE, began + MISMATCH_MOMENT))

    def _mismatch(self, headers: Mapping[str, str]) -> Refused:
        digest = headers.get(BUNDLE_DIGEST, "")
        return unavailable(
            "bundle_mismatch",
            f"the predictor serves model {headers.get(MODEL_VERSION, '?')} (bundle {digest[:12] or '?'}), the "
            f"transformer model {self._model_version} (bundle {self._digest[:12]}); start both with one bundle",
        )


def _encode(tensors: Mapping[str, IdArray], timeout_ms: int) -> tuple[int, bytes]:
    """The body of a V2 request with binary tensors, and the length of its JSON part."""
    raw = [np.ascontiguousarray(tensor).tobytes() for tensor in tensors.values()]
    inputs = [
        {"name": name, "shape": tensor.shape, "datatype": "INT64", "parameters": {"binary_data_size": tensor.nbytes}}
        for name, tensor in tensors.items()
    ]
    head = orjson.dumps({"inputs": inputs, "parameters": {"binary_data_output": True, "timeout_ms": timeout_ms}})
    return len(head), b"".join([head, *raw])


def _decode(content: bytes, json_length: int) -> dict[str, Logits]:
    logits, start = {}, json_length
    for output in orjson.loads(content[:json_length])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        values = np.frombuffer(content, dtype=np.float32, count=size // 4, offset=start)
        logits[output["name"]] = values.reshape(output["shape"])
        start += size
    return logits


def _passed_on(status: int, headers: Mapping[str, str], content: bytes) -> Refused:
    """The predictor's 503 is ours too; anything else means that the two do not understand each other."""
    try:
        error = orjson.loads(content)["error"]
        code, message = str(error["code"]), str(error["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        code, message = "predictor_failed", f"the predictor answered with status {status}"
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return unavailable(code, message, int(headers.get("retry-after", "1")))
    return Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "predictor_failed", f"the predictor answered {status} ({code})")
