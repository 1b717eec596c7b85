"""`python -m serving`: `up` runs everything on this machine; `predictor` and `transformer` are what containers run."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailtriage.errors import ConfigError, MailtriageError
from serving.routes import BUNDLE_DIGEST, MODEL_NAME, MODEL_VERSION

if TYPE_CHECKING:
    from mailtriage.bundle import Bundle


class Engines(StrEnum):
    """What may run the model; `mailtriage.engines` says the rest."""

    auto = "auto"
    onnx = "onnx"
    torch = "torch"


class Devices(StrEnum):
    """Where it may run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

BundleOption = Annotated[Path, typer.Option("--bundle", help="The bundle to serve.", show_default=False)]
HostOption = Annotated[str, typer.Option("--host", help="Address to listen on; a pod needs 0.0.0.0.")]
# KServe's controller appends its own spelling of these, and the last one given counts.
HttpPortOption = Annotated[int, typer.Option("--http-port", "--http_port", help="Port of V1, V2, health and metrics.")]
GrpcPortOption = Annotated[
    int | None, typer.Option("--grpc-port", "--grpc_port", help="Port of V2 over gRPC; off by default.")
]
ModelOption = Annotated[str, typer.Option("--model-name", "--model_name", help="The model's name in the routes.")]
MaxBodyOption = Annotated[int, typer.Option("--max-body", help="Bytes that a request may have; 413 above.")]
TimeoutOption = Annotated[float, typer.Option("--request-timeout", help="Seconds that a request may take; 503 above.")]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", help="Threads of a forward pass; by default the CPU limit.")
]
EngineOption = Annotated[
    Engines, typer.Option("--engine", help="By default what the bundle names for the device; 'torch' needs torch.")
]
DeviceOption = Annotated[Devices, typer.Option("--device", help="By default a GPU where torch sees one.")]
PredictionsOption = Annotated[
    str | None,
    typer.Option(
        "--predictions",
        envvar="MAILTRIAGE_PREDICTIONS",
        help="Database of predictions: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE; off by default.",
        show_default=False,
    ),
]
TokenBudgetOption = Annotated[int, typer.Option("--token-budget", help="Tokens of one round of forward passes.")]
QueueLimitOption = Annotated[int, typer.Option("--queue-limit", help="Mails that may wait; 503 above.")]
WaitLimitOption = Annotated[
    float, typer.Option("--wait-limit", help="Seconds that a request may be expected to wait; 503 above.")
]
MaxBatchOption = Annotated[int, typer.Option("--max-batch", help="Mails that a request may hold; 413 above.")]


@app.command()
def up(
    bundle: BundleOption,
    port: Annotated[int, typer.Option("--port", help="Port of the gateway; 0 takes a free one.")] = 8080,
    host: HostOption = "127.0.0.1",
    api_keys: Annotated[
        Path | None,
        typer.Option("--api-keys", help="A file with a line 'CLIENT: KEY' each, or a folder with a file a client."),
    ] = None,
    jwks: Annotated[
        Path | None, typer.Option("--jwks", help="Public keys of a token issuer (JWKS): JWTs are accepted, too.")
    ] = None,
    jwt_issuer: Annotated[str, typer.Option("--jwt-issuer", help="The issuer that a token must name.")] = "",
    jwt_audience: Annotated[
        list[str] | None, typer.Option("--jwt-audience", help="An audience that a token may name; repeatable.")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", help="Certificate and chain (PEM); HTTPS only with it.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Private key of the certificate (PEM).")] = None,
    rate_limit: Annotated[
        int | None, typer.Option("--rate-limit", min=1, help="Requests a second and client; 429 above. Off by default.")
    ] = None,
    work: Annotated[Path, typer.Option("--work", help="Where logs and a generated key go.")] = Path("work/serving"),
    max_batch: MaxBatchOption = 256,
    max_body: MaxBodyOption = 8 * 2**20,
    request_timeout: TimeoutOption = 30.0,
    threads: ThreadsOption = None,
    predictions: PredictionsOption = None,
    start_timeout: Annotated[
        float, typer.Option("--start-timeout", help="Seconds until everything must be ready.")
    ] = 90.0,
) -> None:
    """Run predictor, transformer and gateway on this machine until interrupted."""
    from serving.gateway_files import TlsFiles, TokenIssuer
    from serving.supervisor import Stack, StackSettings, stop_on_signals

    if (tls_cert is None) != (tls_key is None):
        raise ConfigError("--tls-cert and --tls-key belong together")
    if len({jwks is None, not jwt_issuer, not jwt_audience}) > 1:
        raise ConfigError("--jwks, --jwt-issuer and --jwt-audience belong together")
    settings = StackSettings(
        bundle,
        port,
        host,
        api_keys,
        tokens=None if jwks is None else TokenIssuer(jwks, jwt_issuer, tuple(jwt_audience or ())),
        tls=None if tls_cert is None or tls_key is None else TlsFiles(tls_cert, tls_key),
        rate_limit=rate_limit,
        work=work,
        start_seconds=start_timeout,
        max_batch=max_batch,
        max_body=max_body,
        request_timeout=request_timeout,
        predictions=predictions,
        predictor_options=() if threads is None else ("--threads", str(threads)),
    )
    with stop_on_signals(), Stack(settings, say=lambda line: print(line, file=sys.stderr, flush=True)) as stack:
        print(stack.summary(), flush=True)
        stack.watch()


@app.command()
def predictor(
    bundle: BundleOption,
    host: HostOption = "127.0.0.1",
    http_port: HttpPortOption = 8080,
    grpc_port: GrpcPortOption = None,
    model_name: ModelOption = MODEL_NAME,
    engine: EngineOption = Engines.auto,
    device: DeviceOption = Devices.auto,
    threads: ThreadsOption = None,
    token_budget: TokenBudgetOption = 4096,
    queue_limit: QueueLimitOption = 512,
    wait_limit: WaitLimitOption = 5.0,
    request_timeout: TimeoutOption = 30.0,
) -> None:
    """Serve the model: token ids in, logits out."""
    opened = _open_bundle(bundle, "predictor")
    from serving.predictor import Predictor
    from serving.server import MailModelServer, ServerSettings

    model = Predictor.load_bundle(
        model_name,
        opened,
        engine_name=engine.value,
        device=device.value,
        threads=threads,
        token_budget=token_budget,
        queue_limit=queue_limit,
        wait_limit=wait_limit,
        timeout=request_timeout,
    )
    headers = {BUNDLE_DIGEST: model.bundle_digest, MODEL_VERSION: model.model_version}
    settings = ServerSettings(host, http_port, grpc_port, model.max_body, answer_headers=headers, model=model_name)
    MailModelServer(settings).start([model])


@app.command()
def transformer(
    bundle: BundleOption,
    predictor_host: Annotated[
        str, typer.Option("--predictor-host", "--predictor_host", help="HOST or HOST:PORT of the predictor.")
    ],
    host: HostOption = "127.0.0.1",
    http_port: HttpPortOption = 8080,
    grpc_port: GrpcPortOption = None,
    model_name: ModelOption = MODEL_NAME,
    max_batch: MaxBatchOption = 256,
    max_body: MaxBodyOption = 8 * 2**20,
    request_timeout: TimeoutOption = 30.0,
    wait_limit: WaitLimitOption = 5.0,
    predictions: PredictionsOption = None,
) -> None:
    """Serve mails: clean and tokenise, ask the predictor, decode."""
    opened = _open_bundle(bundle, "transformer")
    from serving.prediction_recorder import PredictionRecorder
    from serving.prediction_store import PredictionStore
    from serving.server import MailModelServer, ServerSettings
    from serving.transformer import Transformer, TransformerSettings

    limits = TransformerSettings(max_mails=max_batch, wait_limit=wait_limit, timeout=request_timeout)
    recorder = PredictionRecorder(PredictionStore(predictions)) if predictions else None
    model = Transformer.load_bundle(model_name, opened, predictor_host, limits, recorder)
    headers = {MODEL_VERSION: model.model_version}
    settings = ServerSettings(
        host,
        http_port,
        grpc_port,
        max_body,
        body_timeout=min(30.0, request_timeout),
        answer_headers=headers,
        model=model_name,
        idempotent=True,
        check=model.check_room,
    )
    MailModelServer(settings).start([model])


@app.command()
def mock(
    port: Annotated[int, typer.Option("--port", help="Port to listen on.")] = 8080,
    host: HostOption = "127.0.0.1",
    taxonomy: Annotated[Path, typer.Option("--taxonomy", help="Where labels come from.")] = Path("taxonomy.yaml"),
    max_batch: MaxBatchOption = 256,
    max_body: MaxBodyOption = 8 * 2**20,
) -> None:
    """Stand in for the gateway while building against it: same routes, made-up labels, no bundle."""
    from serving.logs import configure_logging

    configure_logging("mock")
    from serving.mock import run_mock

    run_mock(host, port, taxonomy, max_mails=max_batch, max_body=max_body)


def _open_bundle(path: Path, role: str) -> Bundle:
    """Open the bundle before KServe is imported, which takes seconds: a bad bundle is said at once."""
    from mailtriage.bundle import Bundle
    from serving.logs import configure_logging
    from serving.tracing import configure_tracing

    opened = Bundle.open(path)
    configure_logging(role)
    configure_tracing(role)
    return opened


def main() -> None:
    """Run a command; an error of ours is one line and exit status 1."""
    try:
        app()
    except MailtriageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
