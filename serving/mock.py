"""A stand-in for the gateway, for those who build against it: same routes, same shapes, no model.

Its labels come from a hash of the mail, so that the same mail always gets the same valid answer.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mailtriage.cleaning import clean
from mailtriage.decoding import Decision, Decoded, LabelScore
from mailtriage.explanation import SHOWN_WORDS, Explanation, WordWeight
from mailtriage.inference import Prediction
from mailtriage.mail import Email
from mailtriage.taxonomy import Taxonomy
from serving.guard import Guard, note
from serving.idempotency import Idempotency
from serving.json_body import read_json_object
from serving.mail_requests import EXPLAINED_MAILS, read_instances, read_mails
from serving.refusals import bad_request, unauthorized
from serving.routes import API_KEY, JSON_LENGTH, MODEL_NAME, MODEL_VERSION

VERSION = "mock"
ROUTE_CONFIDENCE = 0.8


class StandIn:
    """Answers mails without a model."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        self._taxonomy = taxonomy

    def answer(self, mail: Email) -> Prediction:
        """The same mail, whatever its id, gets the same labels; an empty one is for review."""
        cleaned = clean(mail.body, mail.subject)
        digest = hashlib.sha256(f"{cleaned.subject}\n{cleaned.text}".encode("utf-8", "replace")).digest()
        chosen = self._taxonomy.valid_indices[int.from_bytes(digest[:4]) % len(self._taxonomy.valid_indices)]
        labels, alternatives = {}, {}
        for position, (task, index) in enumerate(zip(self._taxonomy.tasks, chosen.tolist(), strict=True)):
            confidence = 0.5 + digest[4 + position] / 512
            labels[task.id] = LabelScore(task.labels[index].id, confidence)
            other = task.labels[(index + 1) % len(task.labels)].id
            alternatives[task.id] = (LabelScore(other, (1 - confidence) / 2),)
        decision: Decision = "review"
        if (cleaned.text.strip() or cleaned.subject.strip()) and all(
            score.confidence >= ROUTE_CONFIDENCE for score in labels.values()
        ):
            decision = "route"
        return Prediction(mail.id, Decoded(labels, alternatives, decision), VERSION, self._taxonomy.version)

    def explain(self, mail: Email) -> Explanation:
        """Made-up weights for the first words that are left of the mail."""
        cleaned = clean(mail.body, mail.subject)
        prediction = self.answer(mail)
        words = [(word, "subject") for word in cleaned.subject.split()]
        words += [(word, "body") for word in cleaned.text.split()]
        weights = tuple(WordWeight(word, part, 0.5 / (2 + n)) for n, (word, part) in enumerate(words[:SHOWN_WORDS]))
        return Explanation(prediction, dict.fromkeys(prediction.decoded.labels, weights))


def mock_app(taxonomy: Taxonomy, *, max_mails: int, max_body: int) -> Starlette:
    """The stand-in as an ASGI application."""
    stand_in, tasks = StandIn(taxonomy), taxonomy.task_ids

    def answers(records: Sequence[Any]) -> list[dict[str, Any]]:
        request = read_mails(records, max_mails)
        note(mails=request.size)
        return request.answers([stand_in.answer(mail) for mail in request.mails])

    async def predict(request: Request) -> Response:
        return JSONResponse({"predictions": answers(read_instances(read_json_object(await request.body())))})

    async def explain(request: Request) -> Response:
        mails = read_mails(read_instances(read_json_object(await request.body())), EXPLAINED_MAILS)
        note(mails=mails.size)
        return JSONResponse(
            {"explanations": mails.in_order([stand_in.explain(mail).to_record() for mail in mails.mails])}
        )

    async def infer(request: Request) -> Response:
        given = await asyncio.to_thread(_read_v2, await request.body(), dict(request.headers))
        from serving.tensors import mail_answer, mail_records

        versions = {"model_version": VERSION, "taxonomy_version": taxonomy.version}
        answer = mail_answer(
            given, answers(mail_records(given, max_mails)), tasks, request.headers["x-request-id"], **versions
        )
        content, json_length = answer.to_rest()
        if json_length is None:
            return JSONResponse(content)
        return Response(content, headers={JSON_LENGTH: str(json_length)}, media_type="application/octet-stream")

    async def metadata(_: Request) -> Response:
        from serving.mail_requests import FIELDS
        from serving.tensors import answer_types

        inputs = [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in FIELDS]
        outputs = answer_types(tasks)
        return JSONResponse(
            {"name": MODEL_NAME, "versions": [VERSION], "platform": "mock", "inputs": inputs, "outputs": outputs}
        )

    model = f"/v2/models/{MODEL_NAME}"
    ready = {"name": MODEL_NAME, "ready": True}
    return Starlette(
        routes=[
            Route(f"/v1/models/{MODEL_NAME}:predict", predict, methods=["POST"]),
            Route(f"/v1/models/{MODEL_NAME}:explain", explain, methods=["POST"]),
            Route(f"{model}/infer", infer, methods=["POST"]),
            Route(model, metadata),
            Route(f"/v1/models/{MODEL_NAME}", _always(ready)),
            Route(f"{model}/ready", _always(ready)),
            Route("/v2/health/live", _always({"live": True})),
            Route("/v2/health/ready", _always({"ready": True})),
        ],
        middleware=[
            Middleware(_AnyKey),
            Middleware(
                Guard,
                model=MODEL_NAME,
                max_body=max_body,
                body_timeout=30.0,
                answer_headers={MODEL_VERSION: VERSION},
            ),
            Middleware(Idempotency),
        ],
    )


def run_mock(host: str, port: int, taxonomy: Path, *, max_mails: int, max_body: int) -> None:
    """Serve the stand-in until interrupted; raises `TaxonomyError` where the taxonomy cannot be read."""
    app = mock_app(Taxonomy.load(taxonomy), max_mails=max_mails, max_body=max_body)
    print(f"mock         http://{host}:{port} (any API key but an empty one)", flush=True)
    uvicorn.run(app, host=host, port=port, log_config=None)


class _AnyKey:
    """As the gateway's key check, with every key valid but an empty one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not Request(scope).headers.get(API_KEY, "").strip():
            refused = unauthorized()
            await JSONResponse(refused.body, refused.status)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _always(content: dict[str, Any]) -> Any:
    async def answer(_: Request) -> Response:
        return JSONResponse(content)

    return answer


def _read_v2(body: bytes, headers: dict[str, str]) -> Any:
    """A V2 request; KServe, which takes seconds to import, is imported for the first one only."""
    from kserve import InferRequest
    from kserve.protocol.rest.v2_datamodels import InferenceRequest
    from pydantic import ValidationError

    from serving.tensors import read_binary_request

    if JSON_LENGTH in headers:
        return read_binary_request(body, headers, MODEL_NAME)
    try:
        return InferRequest.from_inference_request(InferenceRequest.model_validate(read_json_object(body)), MODEL_NAME)
    except ValidationError:
        raise bad_request("wrong_type", "expected a V2 inference request") from None
