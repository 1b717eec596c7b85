"""The transformer: raw mails in, three labels and a decision out; the predictor does the arithmetic."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from kserve import InferRequest, Model

from mailtriage.bundle import Bundle
from mailtriage.inference import Prediction, Prepared, Triage
from mailtriage.mail import Email
from serving.guard import note
from serving.mail_requests import FIELDS, MailRequest, read_instances, read_mails
from serving.metrics import BUNDLE, IN_FLIGHT_MAILS, REQUEST_MAILS, count_predictions, stage
from serving.predictor_client import PredictorClient
from serving.refusals import unavailable
from serving.routes import REQUEST_ID
from serving.tensors import answer_types, mail_answer, mail_records

logger = logging.getLogger("serving.transformer")
Result = TypeVar("Result")

CHUNK_MAILS = 16  # a large request is prepared in parts, so that others come in between and the predictor starts early
LOGGED_IDS = 16


@dataclass(frozen=True, slots=True)
class TransformerSettings:
    """Limits of a transformer: mails of one request, mails in work at once, seconds of one request."""

    max_mails: int = 256
    in_flight_mails: int = 1024
    timeout: float = 30.0


class Transformer(Model):
    """A KServe model that prepares mails, asks the predictor, and decodes its logits."""

    platform = "mailtriage"

    def __init__(
        self, name: str, triage: Triage, tasks: Sequence[str], client: PredictorClient, settings: TransformerSettings
    ) -> None:
        super().__init__(name)
        self.model_version = triage.model_version
        self._triage = triage
        self._tasks = tuple(tasks)
        self._client = client
        self._settings = settings
        self._in_flight = 0
        self._was_healthy: bool | None = None
        # One thread cleans (Python) while another tokenises (Rust, which lets go of the interpreter).
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="prepare")

    @classmethod
    def load_bundle(cls, name: str, bundle: Bundle, predictor: str, settings: TransformerSettings) -> Transformer:
        """Load the bundle's tokenizer, taxonomy and thresholds; `predictor` is `HOST` or `HOST:PORT`."""
        client = PredictorClient(predictor, name, bundle.model_version, bundle.digest)
        transformer = cls(name, Triage.from_bundle(bundle), bundle.taxonomy.task_ids, client, settings)
        transformer._prepare([Email("warm-up", "warm-up", "warm-up")])
        BUNDLE.labels(bundle.model_version, bundle.taxonomy.version, bundle.digest[:12]).set(1)
        transformer.ready = True
        fields = {"model_version": bundle.model_version, "bundle_digest": bundle.digest, "predictor": predictor}
        logger.info("loaded", extra={"fields": fields})
        return transformer

    async def healthy(self) -> bool:
        """Whether a mail can be classified: loaded, and a predictor with the same bundle is ready."""
        state = await self._client.state()
        healthy = bool(self.ready) and state.ready
        if healthy != self._was_healthy:
            self._was_healthy = healthy
            logger.info("ready" if healthy else "not ready", extra={"fields": {"reason": state.reason}})
        return healthy

    def get_input_types(self) -> list[dict[str, Any]]:
        return [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in FIELDS]

    def get_output_types(self) -> list[dict[str, Any]]:
        return answer_types(self._tasks)

    def validate(self, payload: Any) -> Any:
        return payload

    async def preprocess(self, payload: Any, headers: dict[str, str] | None = None) -> Any:
        """Read the request; `mail_requests` and `tensors` say what they refuse."""
        limit = self._settings.max_mails
        records = mail_records(payload, limit) if isinstance(payload, InferRequest) else read_instances(payload)
        request = read_mails(records, limit)
        REQUEST_MAILS.observe(request.size)
        note(mails=request.size, ids=[mail.id[:64] for mail in request.mails[:LOGGED_IDS]])
        return payload, request

    async def predict(self, payload: Any, headers: dict[str, str] | None = None, response_headers: Any = None) -> Any:
        """Sort the usable mails.

        Raises:
            Refused: 503, too much is in work, or the predictor cannot answer.
        """
        given, request = payload
        request_id = (headers or {}).get(REQUEST_ID, "")
        if self._in_flight and self._in_flight + request.size > self._settings.in_flight_mails:
            raise unavailable("overloaded", "too many mails are in work")
        self._in_flight += request.size
        IN_FLIGHT_MAILS.set(self._in_flight)
        try:
            predictions = await self._classify(request.mails, request_id)
        finally:
            self._in_flight -= request.size
            IN_FLIGHT_MAILS.set(self._in_flight)
        return given, request, predictions, request_id

    async def postprocess(
        self, result: Any, headers: dict[str, str] | None = None, response_headers: Any = None
    ) -> Any:
        given, request, predictions, request_id = result
        self._record(request, predictions)
        answers = request.answers(predictions)
        if not isinstance(given, InferRequest):
            return {"predictions": answers}
        versions = {"model_version": self.model_version, "taxonomy_version": self._triage.taxonomy_version}
        return mail_answer(given, answers, self._tasks, request_id, **versions)

    async def _classify(self, mails: Sequence[Email], request_id: str) -> list[Prediction]:
        deadline = time.monotonic() + self._settings.timeout
        parts: list[asyncio.Task[list[Prediction]]] = []
        try:
            async with asyncio.TaskGroup() as group:
                for start in range(0, len(mails), CHUNK_MAILS):
                    prepared = await self._in_thread(self._prepare, mails[start : start + CHUNK_MAILS])
                    parts.append(group.create_task(self._forward_and_finish(prepared, deadline, request_id)))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [prediction for part in parts for prediction in part.result()]

    async def _forward_and_finish(self, prepared: Prepared, deadline: float, request_id: str) -> list[Prediction]:
        if not prepared.answerable:
            return self._finish(prepared, {})
        left = deadline - time.monotonic()
        if left <= 0:
            raise unavailable("timeout", f"no answer within {self._settings.timeout:.0f} s")
        logits = await self._client.forward(*prepared.tensors(), left, request_id)
        return await self._in_thread(self._finish, prepared, logits)

    def _prepare(self, mails: Sequence[Email]) -> Prepared:
        with stage("clean").time():
            cleaned = self._triage.clean(mails)
        with stage("tokenise").time():
            return self._triage.tokenise(mails, cleaned)

    def _finish(self, prepared: Prepared, logits: Any) -> list[Prediction]:
        with stage("decode").time():
            return self._triage.finish(prepared, logits)

    async def _in_thread(self, work: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _record(self, request: MailRequest, predictions: Sequence[Prediction]) -> None:
        count_predictions(predictions)
        note(
            routed=sum(prediction.decoded.decision == "route" for prediction in predictions),
            errors=len(request.refused),
            model_version=self.model_version,
            taxonomy_version=self._triage.taxonomy_version,
        )
