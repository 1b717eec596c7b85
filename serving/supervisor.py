"""Runs predictor, transformer and gateway as processes of this machine, and none of them longer than itself."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from mailtriage.bundle import Bundle
from mailtriage.errors import ServingError
from serving.api_keys import ENVIRONMENT, load_api_keys, write_private
from serving.gateway import GatewaySettings, envoy_config, envoy_path
from serving.gateway_files import (
    Followed,
    GatewayFiles,
    TlsFiles,
    TokenIssuer,
    followed_certificate,
    followed_keys,
    followed_tokens,
)
from serving.routes import API_KEY, MODEL_NAME
from serving.tracing import collector_url

LOOPBACK = "127.0.0.1"
TETHER = Path(__file__).with_name("tether.py")
FIRST_BACKOFF, LAST_BACKOFF = 0.2, 10.0
STEADY_SECONDS = 60.0  # who ran so long starts again at once
STOP_SECONDS = 25.0
POLL_SECONDS = 0.1
KEPT_LOG_BYTES = 16 * 2**20

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class StackSettings:
    """What to run. `port` 0 takes a free one; `work` holds logs, Envoy's configuration and a generated key.

    `rate_limit` is in requests a second and client.
    """

    bundle: Path
    port: int = 8080
    host: str = LOOPBACK
    api_keys: Path | None = None
    tokens: TokenIssuer | None = None
    tls: TlsFiles | None = None
    rate_limit: int | None = None
    work: Path = Path("work/serving")
    start_seconds: float = 90.0
    max_batch: int = 256
    max_body: int = 8 * 2**20
    request_timeout: float = 30.0
    predictor_options: Sequence[str] = ()
    predictions: str | None = None  # by default SQLite in `work`


@dataclass
class Part:
    """One process of the stack and how it has fared."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    restarts: int = 0
    backoff: float = FIRST_BACKOFF
    start_at: float = 0.0

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Stack:
    """Predictor, transformer and gateway. A context manager: what it started is stopped when it is left.

    The processes die with the thread that starts them (Linux), so `start` and `watch` belong into one that stays.

    Raises:
        BundleError: the bundle must not be served.
        ConfigError: the API keys, the token issuer's keys or the certificate cannot be used.
        ServingError: the port is taken, or a process does not start.
    """

    def __init__(self, settings: StackSettings, say: Say = lambda _line: None) -> None:
        self._settings = settings
        self._say = say
        Bundle.open(settings.bundle)  # says what is wrong before anything is started
        self.port = free_port(settings.host) if settings.port == 0 else require_free_port(settings.host, settings.port)
        self.predictor_port, self.transformer_port, self.admin_port = (free_port(LOOPBACK) for _ in range(3))
        keys, self.key_source = load_api_keys(settings.api_keys, settings.work / "api-keys.yaml")
        self.client, self.api_key = next(iter(keys.items()))
        self.folder = settings.work / f"port-{self.port}"
        self._files = GatewayFiles(self.folder, self._followed(keys))
        self._files.write()
        write_private(self.folder / "envoy.json", json.dumps(envoy_config(self._gateway()), indent=2))
        self.parts = {part.name: part for part in self._parts()}

    @property
    def url(self) -> str:
        scheme = "http" if self._settings.tls is None else "https"
        return f"{scheme}://{self._settings.host}:{self.port}"

    @property
    def predictions_url(self) -> str:
        """Where predictions are recorded unless the settings name a database."""
        return f"sqlite:///{(self._settings.work / 'predictions.db').resolve()}"

    @property
    def predict_url(self) -> str:
        return f"{self.url}/v1/models/{MODEL_NAME}:predict"

    def __enter__(self) -> Stack:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything, and wait until a mail can be sorted through the gateway."""
        deadline = time.monotonic() + self._settings.start_seconds
        for part in self.parts.values():
            self._launch(part)
        ready = "/v2/health/ready"
        self._wait_for("predictor", f"http://{LOOPBACK}:{self.predictor_port}{ready}", deadline)
        self._wait_for("transformer", f"http://{LOOPBACK}:{self.transformer_port}{ready}", deadline)
        self._wait_for("gateway", f"{self.url}{ready}", deadline)

    def watch(self, seconds: float | None = None) -> None:
        """Start again what has died, with growing pauses, and hand changed keys and certificates to the gateway.

        Until interrupted, or for so many seconds.
        """
        until = None if seconds is None else time.monotonic() + seconds
        while until is None or time.monotonic() < until:
            for part in self.parts.values():
                if not part.running:
                    self._revive(part)
            for line in self._files.refresh():
                self._say(line)
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Stop everything, the gateway first; what does not go within `STOP_SECONDS` is killed."""
        running = [part for part in reversed(self.parts.values()) if part.running]
        for part in running:
            part.process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
        deadline = time.monotonic() + STOP_SECONDS
        for part in running:
            try:
                part.process.wait(max(0.1, deadline - time.monotonic()))  # type: ignore[union-attr]
            except subprocess.TimeoutExpired:
                part.process.kill()  # type: ignore[union-attr]
                part.process.wait()  # type: ignore[union-attr]
        (self.folder / "envoy.json").unlink(missing_ok=True)
        self._files.remove()

    def summary(self) -> str:
        """Addresses, the key, and a request to copy."""
        instance = '{"instances": [{"id": "m-1", "subject": "Depot", "body": "Bitte verkaufen Sie meine Aktien."}]}'
        return "\n".join(
            [
                f"gateway      {self.url}",
                f"metrics      http://{LOOPBACK}:{self.transformer_port}/metrics (transformer)",
                f"             http://{LOOPBACK}:{self.predictor_port}/metrics (predictor)",
                f"             http://{LOOPBACK}:{self.admin_port}/stats/prometheus (gateway)",
                f"API key      {self.api_key} (client '{self.client}', from {self.key_source})",
                f"logs         {self.folder}",
                f"predictions  {'recorded' if self._settings.predictions else self.predictions_url}",
                "",
                f"curl -s {self.predict_url} -H '{API_KEY}: {self.api_key}' \\",
                f"  -H 'content-type: application/json' -d '{instance}'",
            ]
        )

    def _followed(self, keys: Mapping[str, str]) -> list[Followed]:
        settings = self._settings
        source = None if self.key_source == ENVIRONMENT else Path(self.key_source)
        followed = [followed_keys(source, keys)]
        if settings.tokens is not None:
            followed.append(followed_tokens(settings.tokens))
        if settings.tls is not None:
            followed.append(followed_certificate(settings.tls))
        return followed

    def _gateway(self) -> GatewaySettings:
        settings = self._settings
        return GatewaySettings(
            settings.host,
            self.port,
            self.admin_port,
            self.transformer_port,
            self.folder,
            tokens=settings.tokens is not None,
            tls=settings.tls is not None,
            rate_limit=settings.rate_limit,
            max_body=settings.max_body,
            timeout=settings.request_timeout,
            traces=collector_url(),
        )

    def _parts(self) -> list[Part]:
        settings = self._settings
        python = [sys.executable, "-m", "serving"]
        common = ["--bundle", str(settings.bundle.resolve()), "--request-timeout", str(settings.request_timeout)]
        predictor = ["predictor", *common, "--http-port", str(self.predictor_port), *settings.predictor_options]
        transformer = ["transformer", *common, "--http-port", str(self.transformer_port)]
        transformer += ["--predictor-host", f"{LOOPBACK}:{self.predictor_port}", "--max-batch", str(settings.max_batch)]
        transformer += ["--max-body", str(settings.max_body)]
        envoy = [str(envoy_path()), "-c", str(self.folder / "envoy.json"), "--log-level", "warning"]
        envoy += ["--disable-hot-restart", "--concurrency", "2", "--file-flush-interval-msec", "500"]
        root = Path(__file__).resolve().parent.parent
        environment = {"PYTHONPATH": os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])}
        # In the environment, because a database's URL may hold a password, and arguments can be read by everyone.
        predictions = {"MAILTRIAGE_PREDICTIONS": settings.predictions or self.predictions_url}
        return [
            Part("predictor", [*python, *predictor], self.folder / "predictor.log", environment),
            Part("transformer", [*python, *transformer], self.folder / "transformer.log", environment | predictions),
            Part("gateway", envoy, self.folder / "gateway.log"),
        ]

    def _launch(self, part: Part) -> None:
        with _open_log(part.log) as log:
            part.process = subprocess.Popen(
                [sys.executable, str(TETHER), str(os.getpid()), *part.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | dict(part.environment),
                start_new_session=True,  # Ctrl-C reaches only the supervisor, which stops the others in order
            )
        part.started = time.monotonic()

    def _revive(self, part: Part) -> None:
        now = time.monotonic()
        if not part.start_at:
            if now - part.started > STEADY_SECONDS:
                part.backoff = FIRST_BACKOFF
            part.start_at = now + part.backoff
            code = part.process.returncode if part.process else None
            self._say(f"the {part.name} ended with status {code}; starting it again in {part.backoff:g} s")
            part.backoff = min(LAST_BACKOFF, part.backoff * 2)
        elif now >= part.start_at:
            part.start_at = 0.0
            part.restarts += 1
            self._launch(part)

    def _wait_for(self, name: str, url: str, deadline: float) -> None:
        began = shown = time.monotonic()
        self._say(f"waiting for the {name}")
        while not answers(url, self.api_key):
            for part in self.parts.values():
                if not part.running:
                    raise ServingError(f"the {part.name} did not start: {_last_words(part.log)}")
            now = time.monotonic()
            if now > deadline:
                limit = f"{self._settings.start_seconds:.0f} s"
                raise ServingError(f"the {name} was not ready within {limit}: {_last_words(self.parts[name].log)}")
            if now - shown > 5:
                shown = now
                self._say(f"waiting for the {name}: {now - began:.0f} s")
            time.sleep(POLL_SECONDS)
        self._say(f"the {name} is ready")


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Within it, SIGINT and SIGTERM end the block and run its clean-up; a second one does not cut that short."""

    def interrupt(*_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _open_log(path: Path) -> IO[bytes]:
    """Append to a log that does not grow for ever: a long one becomes `NAME.log.1` at the next start."""
    if path.exists() and path.stat().st_size > KEPT_LOG_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    return path.open("ab")


def answers(url: str, api_key: str) -> bool:
    """Whether a GET gives 200."""
    request = urllib.request.Request(url, headers={API_KEY: api_key})
    try:
        with _opener().open(request, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _opener() -> urllib.request.OpenerDirector:
    """Our own ports are asked directly, whatever proxy the environment names and whatever name the certificate has."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))


def _last_words(log: Path) -> str:
    """The end of a log, for an error message."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return f"{lines[-1][:500]} (see {log})" if lines else f"it wrote nothing (see {log})"


def free_port(host: str) -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def require_free_port(host: str, port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServingError(
                f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port"
            ) from None
    return port
