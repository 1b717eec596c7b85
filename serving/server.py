"""KServe's model server, bound to a chosen address and behind `Guard`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kserve import Model, ModelServer
from kserve.constants.constants import FASTAPI_APP_IMPORT_STRING
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady, ServerNotReady
from kserve.predictor_config import PredictorConfig
from kserve.protocol.grpc.server import GRPCServer
from kserve.protocol.rest.server import RESTServer
from starlette.exceptions import HTTPException

from serving.admission import Door
from serving.dataplane import StrictDataPlane
from serving.guard import Guard, guarded_call, note
from serving.idempotency import Idempotency
from serving.logs import log_exception
from serving.refusals import Refused, bad_request, error_body
from serving.routes import GRPC_INFER, MODEL_NAME, REQUEST_ID
from serving.tracing import close_tracing, server_span, trace_id

logger = logging.getLogger("serving")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where a server listens, and what it lets in; `check` raises `Refused` while it lets in nothing."""

    host: str = "127.0.0.1"
    http_port: int = 8080
    grpc_port: int | None = None
    max_body: int = 8 * 2**20
    body_timeout: float = 30.0
    drain_seconds: int = 20
    answer_headers: Mapping[str, str] = field(default_factory=dict)
    model: str = MODEL_NAME
    idempotent: bool = False
    check: Callable[[], None] | None = None


class MailModelServer(ModelServer):
    """A KServe model server that listens where it is told to (KServe's own listens on every address)."""

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(
            http_port=settings.http_port,
            grpc_port=settings.grpc_port or 0,
            enable_grpc=settings.grpc_port is not None,
            enable_latency_logging=False,
            grace_period=settings.drain_seconds,
            predictor_config=PredictorConfig(predictor_host=""),
        )
        self._settings = settings
        self.dataplane = StrictDataPlane(model_registry=self.registered_models)
        self.register_exception_handler(log_exception)

    def start(self, models: list[Model]) -> None:
        """Serve until a signal stops the process; requests in flight are finished first."""
        self._register_and_check_atleast_one_model_is_ready(models)
        rest = _RestServer(self.dataplane, self.model_repository_extension, self._settings)
        self.servers.append(rest.start())
        if self.enable_grpc:
            self._grpc_server = _GrpcServer(self._settings, self.dataplane, self.model_repository_extension)
            self.servers.append(self._grpc_server.start(self.max_threads))
        self.register_signal_handler()
        asyncio.run(self._run())

    async def _run(self) -> None:
        """Serve; what models have to bring to an end comes after the last answer."""
        models = list(self.registered_models.get_models().values())
        try:
            await self._serve_until_stopped()
        finally:
            for model in models:
                if hasattr(model, "close"):
                    await asyncio.to_thread(model.close)
            await asyncio.to_thread(close_tracing)

    async def _serve_until_stopped(self) -> None:
        self.setup_event_loop()
        asyncio.get_running_loop().set_exception_handler(log_exception)
        logger.info("listening", extra={"fields": {"address": f"{self._settings.host}:{self._settings.http_port}"}})
        await self._serve()


class _RestServer(RESTServer):
    def __init__(self, dataplane: StrictDataPlane, extension: Any, settings: ServerSettings) -> None:
        super().__init__(
            FASTAPI_APP_IMPORT_STRING,
            dataplane,
            extension,
            settings.http_port,
            grace_period=settings.drain_seconds,
        )
        self.config.host = settings.host
        self._settings = settings

    def _add_middlewares(self, app: FastAPI) -> None:
        if self._settings.check is not None:  # behind the kept answers, which cost nothing
            app.add_middleware(Door, check=self._settings.check)
        if self._settings.idempotent:
            app.add_middleware(Idempotency)
        app.add_middleware(
            Guard,
            model=self._settings.model,
            max_body=self._settings.max_body,
            body_timeout=self._settings.body_timeout,
            answer_headers=self._settings.answer_headers,
        )

    def _add_exception_handlers(self, app: FastAPI) -> None:
        """KServe's handlers log and return what exceptions say; ours say only what is written in this project."""
        handlers: dict[type[Exception], Any] = {
            Refused: _answer_refused,
            RequestValidationError: _answer_invalid,
            HTTPException: _answer_http,
        }
        handlers |= {error: _answer_with(refused) for error, refused in _REFUSALS.items()}
        for error, handler in handlers.items():
            app.add_exception_handler(error, handler)


class _GrpcServer(GRPCServer):
    def __init__(self, settings: ServerSettings, dataplane: StrictDataPlane, extension: Any) -> None:
        limits = {
            "grpc_max_send_message_length": settings.max_body,
            "grpc_max_receive_message_length": settings.max_body,
        }
        super().__init__(settings.grpc_port, dataplane, extension, kwargs=limits, grace_period=settings.drain_seconds)
        self._host = settings.host

    async def start(self, max_workers: int) -> None:
        """As KServe's, on one address."""
        from concurrent.futures import ThreadPoolExecutor

        from grpc import StatusCode, aio
        from kserve import InferRequest
        from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
        from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
        from kserve.protocol.grpc.servicer import InferenceServicer

        options = [
            (f"grpc.max_{way}_message_length", self._kwargs[f"grpc_max_{way}_message_length"])
            for way in ("send", "receive")
        ]
        self._server = aio.server(
            ThreadPoolExecutor(max_workers=max_workers), interceptors=(ExceptionToStatusInterceptor(),), options=options
        )

        class Servicer(InferenceServicer):
            """Without the routes that load and unload models; logged, counted and refused as over REST."""

            async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
                headers = {name: value for name, value in context.invocation_metadata() if isinstance(value, str)}
                with guarded_call(GRPC_INFER, headers), server_span(GRPC_INFER, headers):
                    context.set_trailing_metadata(((REQUEST_ID, headers[REQUEST_ID]),))
                    note(**({"trace_id": trace} if (trace := trace_id()) else {}))
                    try:
                        self.validate_grpc_request(request)
                        answer, _ = await self._data_plane.infer(
                            request=InferRequest.from_grpc(request), headers=headers, model_name=request.model_name
                        )
                    except tuple(_REFUSALS) as error:
                        raise _REFUSALS[type(error)].with_traceback(None) from None
                    return answer.to_grpc()

            async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
                await context.abort(StatusCode.UNIMPLEMENTED, "this server does not offer that")

            RepositoryModelUnload = RepositoryModelLoad

        servicer = Servicer(self._data_plane, self._model_repository_extension)
        grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, self._server)
        self._server.add_insecure_port(f"{self._host}:{self._port}")
        await self._server.start()
        await self._server.wait_for_termination()


_REFUSALS = {
    InvalidInput: bad_request("wrong_type", "the request does not fit the V2 inference protocol"),
    ModelNotFound: Refused(HTTPStatus.NOT_FOUND, "not_found", "there is no such model"),
    ModelNotReady: Refused(HTTPStatus.SERVICE_UNAVAILABLE, "not_ready", "no mail can be sorted now", retry_after=1),
    ServerNotReady: Refused(HTTPStatus.SERVICE_UNAVAILABLE, "not_ready", "no mail can be sorted now", retry_after=1),
    NotImplementedError: Refused(HTTPStatus.NOT_FOUND, "not_found", "this server does not offer that"),
}


async def _answer_refused(_: Request, refused: Refused) -> JSONResponse:
    note(refused=refused.code)
    return JSONResponse(refused.body, refused.status, refused.headers)


def _answer_with(refused: Refused) -> Any:
    async def answer(request: Request, _: Exception) -> JSONResponse:
        return await _answer_refused(request, refused)

    return answer


async def _answer_http(_: Request, error: HTTPException) -> JSONResponse:
    code = HTTPStatus(error.status_code).name.lower()
    return JSONResponse(error_body(code, HTTPStatus(error.status_code).phrase), error.status_code)


_V2_FIELDS = frozenset({"inputs", "outputs", "id", "parameters", "name", "shape", "datatype", "data"})


async def _answer_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    """A V2 body that FastAPI refused: its own answer would quote the body."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return await _answer_refused(request, bad_request("not_json", "the body is no JSON in UTF-8"))
    place = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part in _V2_FIELDS)
    message = f"expected a V2 inference request; '{place or 'inputs'}' is missing or has the wrong type"
    return await _answer_refused(request, bad_request("wrong_type", message))
