"""Submits a pipeline to a KFP back end, watches it, and shows why it failed.

The run API says neither why a pod cannot start nor what a failed step printed, so both are read from the cluster
where a kubeconfig reaches it.
"""

import contextlib
import io
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from kfp import compiler

from mailtriage.errors import MailtriageError

POLL_SECONDS = 5.0
LAST_LINES = 40  # of a failed step's log
FINAL_STATES = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
Say = Callable[[str], None]


class ClusterRunFailed(MailtriageError):
    """A run did not succeed; the message says in which state it ended and where its logs are."""


def run(
    pipeline: Any,
    arguments: Mapping[str, Any],
    endpoint: str,
    *,
    timeout: float,
    namespace: str = "kubeflow",
    say: Say = print,
    poll_seconds: float = POLL_SECONDS,
) -> str:
    """Submit, wait and return the run's id.

    Args:
        endpoint: address of the KFP API, such as http://localhost:8888 (a port-forward of `ml-pipeline`).
        timeout: seconds after which the run is stopped.
        namespace: where the pods of the run are.
        say: gets a line for each step that changes its state.

    Raises:
        ClusterRunFailed: the back end cannot be reached, the run failed, or the time is over.
    """
    client = _client(endpoint)
    run_id = _submit(client, pipeline, arguments, endpoint)
    page = f"{endpoint.rstrip('/')}/#/runs/details/{run_id}"
    say(f"submitted run {run_id}: {page}")
    where = f"see {page}, or: kubectl -n {namespace} logs -l pipeline/runid={run_id} --all-containers --prefix"
    deadline = time.monotonic() + timeout
    seen: dict[str, str] = {}
    while True:
        info = _reach(endpoint, client.get_run, run_id)
        _say_changes(info, seen, say)
        if info.state in FINAL_STATES:
            break
        if time.monotonic() > deadline:
            for line in waiting_reasons(run_id, namespace):
                say(line)
            client.terminate_run(run_id)
            raise ClusterRunFailed(
                f"run {run_id} was still {info.state} after {timeout:.0f} s and was stopped; {where}"
            )
        time.sleep(poll_seconds)
    if info.state != "SUCCEEDED":
        for line in failed_logs(run_id, namespace):
            say(line)
        failed = sorted(name for name, state in seen.items() if state == "FAILED")
        steps = f" in {', '.join(failed)}" if failed else ""
        raise ClusterRunFailed(f"run {run_id} ended as {info.state}{steps}; {where}")
    say(f"run {run_id} succeeded; its metrics and the registered version are in MLflow")
    return run_id


def waiting_reasons(run_id: str, namespace: str) -> list[str]:
    """Why pods of a run do not start, one line a container; a line that says so where the cluster is out of reach."""
    lines = []
    for pod in _pods(run_id, namespace):
        statuses = [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]
        for status in statuses:
            if status.state and status.state.waiting:
                detail = f"{status.state.waiting.reason}: {status.state.waiting.message or ''}".rstrip(": ")
                lines.append(f"pod {pod.metadata.name}, container {status.name} waits: {detail}")
        lines += [
            f"pod {pod.metadata.name} is not scheduled: {condition.message}"
            for condition in pod.status.conditions or []
            if condition.type == "PodScheduled" and condition.status == "False"
        ]
    return lines or ["no pod of the run says that it waits, or the cluster is out of reach from here"]


def failed_logs(run_id: str, namespace: str) -> list[str]:
    """The last lines that failed steps printed; a line that says so where the cluster is out of reach."""
    from kubernetes import client as kubernetes_client
    from kubernetes.client.rest import ApiException

    lines: list[str] = []
    for pod in _pods(run_id, namespace):
        if pod.status.phase != "Failed":
            continue
        lines.append(f"--- {pod.metadata.name} ({pod.status.reason or 'failed'})")
        try:
            log = kubernetes_client.CoreV1Api().read_namespaced_pod_log(
                pod.metadata.name, namespace, container="main", tail_lines=LAST_LINES
            )
            lines += log.splitlines()
        except ApiException as error:
            lines.append(f"no log: {error.reason}")
    return lines or ["the steps' logs are out of reach from here"]


def _client(endpoint: str) -> Any:
    from kfp import Client

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about back ends before 2.0
        return _reach(endpoint, Client, host=endpoint, ui_host=endpoint)


def _submit(client: Any, pipeline: Any, arguments: Mapping[str, Any], endpoint: str) -> str:
    # the client prints addresses, which `run` says once
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        file = Path(folder) / f"{pipeline.name}.yaml"
        compiler.Compiler().compile(pipeline, str(file))
        submitted = _reach(
            endpoint,
            client.create_run_from_pipeline_package,
            str(file),
            arguments=dict(arguments),
            run_name=f"{pipeline.name} {datetime.now():%Y-%m-%d %H-%M-%S}",
            experiment_name=str(arguments.get("experiment", pipeline.name)),
        )
    return str(submitted.run_id)


def _reach(endpoint: str, call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    from kfp_server_api.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        return call(*arguments, **keywords)
    except ApiException as error:
        raise ClusterRunFailed(
            f"the KFP API at {endpoint} answered {error.status} {error.reason}: {error.body}"
        ) from None
    except (HTTPError, TimeoutError) as error:
        raise ClusterRunFailed(f"no KFP API answers at {endpoint}: {type(error).__name__}") from None


def _say_changes(info: Any, seen: dict[str, str], say: Say) -> None:
    details = (info.run_details.task_details if info.run_details else None) or []
    for task in details:
        if task.state and seen.get(task.display_name) != task.state:
            seen[task.display_name] = task.state
            say(f"{task.display_name}: {task.state.lower()}")


def _pods(run_id: str, namespace: str) -> list[Any]:
    """Pods of a run; none where no kubeconfig, or none that reaches the cluster, is there."""
    from kubernetes import client as kubernetes_client
    from kubernetes import config
    from kubernetes.client.rest import ApiException
    from urllib3.exceptions import HTTPError

    try:
        try:
            config.load_kube_config(os.environ.get("KUBECONFIG"))
        except config.ConfigException:
            config.load_incluster_config()
        core = kubernetes_client.CoreV1Api()
        return list(
            core.list_namespaced_pod(namespace, label_selector=f"pipeline/runid={run_id}", _request_timeout=10).items
        )
    except (config.ConfigException, ApiException, HTTPError):
        return []
