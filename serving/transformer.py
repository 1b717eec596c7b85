"""The transformer: raw mails in, three labels and a decision out; the predictor does the arithmetic."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from kserve import InferRequest, Model

from mailtriage.bundle import Bundle
from mailtriage.explanation import Explanation, explaining
from mailtriage.features import TokenIds, pad
from mailtriage.inference import Prediction, Prepared, Triage
from mailtriage.mail import Email
from serving.admission import Admission
from serving.guard import note
from serving.mail_requests import EXPLAINED_MAILS, FIELDS, MailRequest, read_instances, read_mails
from serving.metrics import BUNDLE, EXPLANATIONS, REQUEST_MAILS, count_predictions
from serving.prediction_recorder import PredictionRecorder
from serving.prediction_store import PredictionRecord
from serving.predictor_client import Logits, PredictorClient
from serving.refusals import TIMEOUT, Refused, too_many_mails, unavailable
from serving.routes import CHUNK_MAILS, CLIENT, REQUEST_ID
from serving.tensors import answer_types, mail_answer, mail_records
from serving.tracing import measured

logger = logging.getLogger("serving.transformer")
Result = TypeVar("Result")

LOGGED_IDS = 16
EXPLAINED_AT_ONCE = 2  # so that explanations, which nobody waits for in a hurry, leave the predictor to the others


@dataclass(frozen=True, slots=True)
class _Given:
    """A request as it came: its payload, its usable mails, who sent it, and when (`time.perf_counter`)."""

    payload: Any
    mails: MailRequest
    request_id: str
    client: str
    began: float


@dataclass(frozen=True, slots=True)
class TransformerSettings:
    """Limits of a transformer.

    Args:
        max_mails: of one request.
        in_flight_mails: in work at once.
        wait_limit: seconds that a request may be expected to wait; above, it is refused at once.
        timeout: seconds of one request.
    """

    max_mails: int = 256
    in_flight_mails: int = 1024
    wait_limit: float = 5.0
    timeout: float = 30.0


class Transformer(Model):
    """A KServe model that prepares mails, asks the predictor, and decodes its logits."""

    platform = "mailtriage"

    def __init__(
        self,
        name: str,
        bundle: Bundle,
        client: PredictorClient,
        settings: TransformerSettings,
        recorder: PredictionRecorder | None = None,
    ) -> None:
        super().__init__(name)
        self.model_version = bundle.model_version
        self._bundle_digest = bundle.digest
        self._cleaning_version = str(bundle.manifest["cleaning_version"])
        self._triage = Triage.from_bundle(bundle)
        self._tasks = tuple(bundle.taxonomy.task_ids)
        self._client = client
        self._recorder = recorder
        self._settings = settings
        self._admission = Admission(settings.in_flight_mails, settings.wait_limit)
        self._was_healthy: bool | None = None
        self._explaining = asyncio.Semaphore(EXPLAINED_AT_ONCE)
        # One thread cleans (Python) while another tokenises (Rust, which lets go of the interpreter).
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="prepare")

    @classmethod
    def load_bundle(
        cls,
        name: str,
        bundle: Bundle,
        predictor: str,
        settings: TransformerSettings,
        recorder: PredictionRecorder | None = None,
    ) -> Transformer:
        """Load the bundle's tokenizer, taxonomy and thresholds; `predictor` is `HOST` or `HOST:PORT`."""
        client = PredictorClient(predictor, name, bundle.model_version, bundle.digest)
        transformer = cls(name, bundle, client, settings, recorder)
        transformer._prepare([Email("warm-up", "warm-up", "warm-up")])
        BUNDLE.labels(bundle.model_version, bundle.taxonomy.version, bundle.digest[:12]).set(1)
        transformer.ready = True
        fields = {"model_version": bundle.model_version, "bundle_digest": bundle.digest, "predictor": predictor}
        logger.info("loaded", extra={"fields": fields})
        return transformer

    def close(self) -> None:
        """Write the predictions that are not written yet; after the last request."""
        if self._recorder is not None:
            self._recorder.close()

    def check_room(self) -> None:
        """Raise `Refused`, 503, while too much is in work for any request."""
        self._admission.check()

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
        began = time.perf_counter()
        limit = self._settings.max_mails
        records = mail_records(payload, limit) if isinstance(payload, InferRequest) else read_instances(payload)
        request = read_mails(records, limit)
        REQUEST_MAILS.observe(request.size)
        note(mails=request.size, ids=[mail.id[:64] for mail in request.mails[:LOGGED_IDS]])
        headers = headers or {}
        return _Given(payload, request, headers.get(REQUEST_ID, ""), headers.get(CLIENT, "")[:64], began)

    async def predict(self, payload: Any, headers: dict[str, str] | None = None, response_headers: Any = None) -> Any:
        """Sort the usable mails.

        Raises:
            Refused: 503, too much is in work, or the predictor cannot answer.
        """
        given: _Given = payload
        with self._admission.admitted(given.mails.size) as done:
            parts = await self._classify(given.mails.mails, given.request_id, done)
        predictions = [prediction for _, part in parts for prediction in part]
        count_predictions(predictions)
        self._record("predict", given, [prepared for prepared, _ in parts], predictions)
        answers = given.mails.answers(predictions)
        if not isinstance(given.payload, InferRequest):
            return {"predictions": answers}
        versions = {"model_version": self.model_version, "taxonomy_version": self._triage.taxonomy_version}
        return mail_answer(given.payload, answers, self._tasks, given.request_id, **versions)

    async def explain(self, payload: Any, headers: dict[str, str] | None = None) -> Any:
        """The words that decided, a mail after the other.

        Raises:
            Refused: 413, more than `EXPLAINED_MAILS` mails; 503, as `predict`.
        """
        given: _Given = payload
        if given.mails.size > EXPLAINED_MAILS:
            raise too_many_mails(given.mails.size, EXPLAINED_MAILS)
        deadline = time.monotonic() + self._settings.timeout
        with self._admission.admitted(given.mails.size):
            try:
                async with asyncio.timeout(self._settings.timeout), self._explaining:
                    prepared = await self._in_thread(self._prepare, given.mails.mails)
                    found = [await self._explain(mail, deadline, given.request_id) for mail in given.mails.mails]
            except TimeoutError:
                raise self._too_late() from None
        EXPLANATIONS.inc(len(found))
        self._record("explain", given, [prepared], [explanation.prediction for explanation in found])
        return {"explanations": given.mails.in_order([explanation.to_record() for explanation in found])}

    async def _classify(
        self, mails: Sequence[Email], request_id: str, done: Callable[[int], None]
    ) -> list[tuple[Prepared, list[Prediction]]]:
        """Prepared in chunks, so that other requests come in between and the predictor starts early."""
        deadline = time.monotonic() + self._settings.timeout
        parts: list[asyncio.Task[tuple[Prepared, list[Prediction]]]] = []
        try:
            async with asyncio.TaskGroup() as group:
                for start in range(0, len(mails), CHUNK_MAILS):
                    prepared = await self._in_thread(self._prepare, mails[start : start + CHUNK_MAILS])
                    parts.append(group.create_task(self._forward_and_finish(prepared, deadline, request_id, done)))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [part.result() for part in parts]

    async def _forward_and_finish(
        self, prepared: Prepared, deadline: float, request_id: str, done: Callable[[int], None]
    ) -> tuple[Prepared, list[Prediction]]:
        if not prepared.answerable:
            return prepared, self._finish(prepared, {})
        logits = await self._client.forward(*prepared.tensors(), self._left(deadline), request_id)
        predictions = await self._in_thread(self._finish, prepared, logits)
        done(len(predictions))
        return prepared, predictions

    async def _explain(self, mail: Email, deadline: float, request_id: str) -> Explanation:
        rounds = explaining(self._triage, mail)
        try:
            wanted = await self._in_thread(next, rounds)
            while True:
                logits = await self._forward_in_chunks(wanted, deadline, request_id)
                wanted = await self._in_thread(rounds.send, logits)
        except _RoundsOver as over:
            explanation: Explanation = over.args[0]
            return explanation

    async def _forward_in_chunks(
        self, mails: Sequence[TokenIds], deadline: float, request_id: str
    ) -> dict[str, Logits]:
        """A chunk after the other, so that mails of other requests come in between."""
        parts: dict[str, list[Logits]] = {}
        for start in range(0, len(mails), CHUNK_MAILS):
            tensors = pad(mails[start : start + CHUNK_MAILS])
            for task, values in (await self._client.forward(*tensors, self._left(deadline), request_id)).items():
                parts.setdefault(task, []).append(values)
        return {task: np.concatenate(values) for task, values in parts.items()}

    def _left(self, deadline: float) -> float:
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._too_late()
        return left

    def _too_late(self) -> Refused:
        return unavailable(TIMEOUT, f"no answer within {self._settings.timeout:.0f} s")

    def _prepare(self, mails: Sequence[Email]) -> Prepared:
        with measured("clean", mails=len(mails)):
            cleaned = self._triage.clean(mails)
        with measured("tokenise", mails=len(mails)):
            return self._triage.tokenise(mails, cleaned)

    def _finish(self, prepared: Prepared, logits: Any) -> list[Prediction]:
        with measured("decode", mails=len(prepared.ids)):
            return self._triage.finish(prepared, logits)

    async def _in_thread(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """In a thread, with the context of this request for its spans."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, contextvars.copy_context().run, _run, work, *arguments)

    def _record(self, kind: str, given: _Given, parts: Sequence[Prepared], predictions: Sequence[Prediction]) -> None:
        note(
            routed=sum(prediction.decoded.decision == "route" for prediction in predictions),
            errors=len(given.mails.refused),
            model_version=self.model_version,
            taxonomy_version=self._triage.taxonomy_version,
        )
        if self._recorder is None:
            return
        milliseconds = round((time.perf_counter() - given.began) * 1000, 3)
        cleaned = [len(text.text) for prepared in parts for text in prepared.cleaned]
        tokens = [len(ids) for prepared in parts for ids in prepared.input_ids]
        self._recorder.add(
            PredictionRecord(
                kind=kind,
                mail_id=prediction.id,
                request_id=given.request_id,
                client=given.client,
                decision=prediction.decoded.decision,
                labels={task: score.label for task, score in prediction.decoded.labels.items()},
                confidences={task: round(score.confidence, 6) for task, score in prediction.decoded.labels.items()},
                model_version=prediction.model_version,
                bundle_digest=self._bundle_digest,
                taxonomy_version=prediction.taxonomy_version,
                cleaning_version=self._cleaning_version,
                body_characters=len(mail.body),
                cleaned_characters=characters,
                tokens=length,
                latency_ms=milliseconds,
            )
            for mail, prediction, characters, length in zip(
                given.mails.mails, predictions, cleaned, tokens, strict=True
            )
        )


class _RoundsOver(Exception):
    """What `StopIteration` becomes on its way through a future, which does not carry it."""


def _run(work: Callable[..., Result], *arguments: Any) -> Result:
    try:
        return work(*arguments)
    except StopIteration as over:
        raise _RoundsOver(over.value) from None
