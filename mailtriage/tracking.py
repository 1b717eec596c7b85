"""Experiments in MLflow: on SQLite and a folder by default, on a server where `MLFLOW_TRACKING_URI` names one.

Runs are written through MLflow's client, not its fluent functions: those look for a git repository, start threads and
keep global state.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mailtriage
from mailtriage.errors import DataError

DEFAULT_FOLDER = Path("work/mlflow")
EXPERIMENT = "mailtriage"
UNLOGGED = ("model",)  # in metrics.json only: no figures
SMALLEST_GROUP = 30  # mails; smaller groups of a slice stay in metrics.json, as the report leaves them out
_FORBIDDEN = re.compile(r"[^\w\-. :]|^\.+$", re.ASCII)  # between the slashes of a metric's name: MLflow takes paths
LONGEST_PART = 60  # characters of it; the whole name may have 250
_SQLITE = "sqlite:///"
_BATCH = 1000  # metrics in one request, the most that MLflow takes


def tracking_uri(folder: Path = DEFAULT_FOLDER) -> str:
    """`MLFLOW_TRACKING_URI`, or SQLite inside `folder`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{folder.resolve()}/mlflow.db"


def client(folder: Path = DEFAULT_FOLDER) -> Any:
    """An `MlflowClient` for experiments and registry. The first one on a new SQLite file takes seconds (migrations)."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow import MlflowClient

    uri = tracking_uri(folder)
    if uri.startswith(_SQLITE):
        Path(uri.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or uri)


@contextmanager
def page(folder: Path = DEFAULT_FOLDER, *options: str, log: Path | None = None) -> Iterator[str]:
    """MLflow's server with its page over what `record` wrote, on a free port of this machine; yields its address.

    It takes a while until it answers. `options` go to `mlflow server`, `log` takes what it prints. When the block
    ends, so do its processes: it has workers that outlive it if only it is told to end.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", tracking_uri(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--serve-artifacts", *options]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (log or Path(os.devnull)).open("w") as output:
        server = subprocess.Popen(
            command,
            env=os.environ | quiet,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


def record(
    *,
    params: Mapping[str, Any],
    metrics: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]] = (),
    files: Path | None = None,
    experiment: str = EXPERIMENT,
    run_name: str | None = None,
    tags: Mapping[str, str] | None = None,
    folder: Path = DEFAULT_FOLDER,
) -> str:
    """Write one finished run and return its id.

    Args:
        params: settings, possibly nested (`flatten`); the version of this code is added.
        metrics: the content of `metrics.json`; its numbers become metrics such as `queue/macro_f1`.
        history: rows with an `epoch`; the other numbers become metrics over epochs, such as `training/loss`.
        files: a folder whose files become the run's artifacts under `evaluation`.
        folder: where SQLite and the artifacts are kept if no server is named.

    Raises:
        DataError: `files` is no folder.
    """
    if files is not None and not files.is_dir():
        raise DataError(f"expected a folder of files for the run at {files}, found none")
    mlflow = client(folder)
    from mlflow.entities import Metric, Param  # after `client`, which keeps the import quiet

    run = mlflow.create_run(
        experiment_id(mlflow, experiment, tracking_uri(folder)), run_name=run_name, tags=dict(tags or {})
    )
    run_id = str(run.info.run_id)
    try:
        now = int(time.time() * 1000)
        values = {"mailtriage_version": mailtriage.__version__} | dict(flatten(params))
        mlflow.log_batch(run_id, params=[Param(key, str(value)[:6000]) for key, value in values.items()])
        rows = [Metric(name, value, now, 0) for name, value in flatten_metrics(metrics).items()]
        rows += history_metrics(history)
        for start in range(0, len(rows), _BATCH):
            mlflow.log_batch(run_id, metrics=rows[start : start + _BATCH])
        if files is not None:
            mlflow.log_artifacts(run_id, str(files), "evaluation")
    except BaseException:
        mlflow.set_terminated(run_id, "FAILED")
        raise
    mlflow.set_terminated(run_id)
    return run_id


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{"a": {"b": 1}}` as `("a.b", 1)`."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def flatten_metrics(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of `metrics.json` by name, such as `topic/labels/fees/f1`, and `low` and `high` of an interval.

    Left out are `UNLOGGED`, intervals of single labels, and small groups of mails.
    """
    result: dict[str, float] = {}
    for key, value in metrics.items():
        if not prefix and key in UNLOGGED:
            continue
        part = _FORBIDDEN.sub("_", key)[:LONGEST_PART]
        if isinstance(value, Mapping):
            of_label = key == "intervals" and "/labels/" in prefix
            small = prefix.startswith("slices/") and value.get("mails", SMALLEST_GROUP) < SMALLEST_GROUP
            if not (of_label or small):
                result |= flatten_metrics(value, f"{prefix}{part}/")
        elif isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
            result |= flatten_metrics(dict(zip(("low", "high"), value, strict=True)), f"{prefix}{part}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            result[f"{prefix}{part}"] = float(value)
    return result


def data_digest(files: Iterable[Path]) -> str:
    """SHA-256 over the content of data files, in the given order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def experiment_id(mlflow: Any, name: str, uri: str) -> str:
    """Of the experiment, which is made where it is not there yet."""
    found = mlflow.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = None  # a server knows its own place
    if uri.startswith(_SQLITE):
        location = (Path(uri.removeprefix(_SQLITE)).resolve().parent / "artifacts" / name).as_uri()
    return str(mlflow.create_experiment(name, artifact_location=location))


def history_metrics(history: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Rows with an `epoch` as MLflow's metrics over epochs: `training/loss` and the like."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [
        Metric(f"training/{key}", float(value), now, int(row["epoch"]))
        for row in history
        for key, value in row.items()
        if key != "epoch" and isinstance(value, int | float)
    ]
