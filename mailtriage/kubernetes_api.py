"""The few calls of the Kubernetes API that following a RayJob takes, patient with an API server that restarts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mailtriage.errors import Refused, Unreachable

Object = dict[str, Any]

RAY_JOBS = {"group": "ray.io", "version": "v1", "plural": "rayjobs"}
PASSING = (429, 500, 502, 503, 504)  # answers after which the same call may succeed
TIMEOUT = (5, 30)  # seconds to connect, and to read
LONGEST_PAUSE = 10.0  # seconds between two tries
OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class KubernetesApi:
    """One namespace, as this pod's service account or the kubeconfig sees it."""

    def __init__(self, namespace: str, *, patience: float, say: Callable[[str], None] = print) -> None:
        """`patience`: seconds without a usable answer after which a call gives up."""
        from kubernetes import client

        connection = client.ApiClient(_configuration())
        self.namespace = namespace
        self._core = client.CoreV1Api(connection)
        self._custom = client.CustomObjectsApi(connection)
        self._patience, self._say = patience, say

    def create_ray_job(self, job: Object) -> Object | None:
        """The job that was made; `None` where one of this name is there already."""
        made: Object | None = self._patiently(
            "make the RayJob", self._custom.create_namespaced_custom_object, RAY_JOBS, body=job, absent=(409,)
        )
        return made

    def ray_job(self, name: str) -> Object | None:
        """The job of this name; `None` where there is none."""
        found: Object | None = self._patiently(
            "read the RayJob", self._custom.get_namespaced_custom_object, RAY_JOBS, name=name, absent=(404,)
        )
        return found

    def delete_ray_job(self, name: str, uid: str) -> None:
        """Delete this very job, and with it all that it owns; it is gone when they are."""
        body = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        self._patiently(
            "delete the RayJob",
            self._custom.delete_namespaced_custom_object,
            RAY_JOBS,
            name=name,
            body=body,
            absent=(404, 409),
        )

    def pods(self, selector: str) -> list[Any]:
        """Pods with these labels."""
        found = self._patiently("list pods", self._core.list_namespaced_pod, label_selector=selector)
        return list(found.items)

    def warnings(self, name: str) -> list[str]:
        """Messages of the warnings about the object of this name, each once."""
        selector = f"involvedObject.name={name},type=Warning"
        found = self._patiently("list events", self._core.list_namespaced_event, field_selector=selector)
        return list(dict.fromkeys(f"{event.reason}: {event.message}" for event in found.items))

    def log(self, selector: str, container: str, since: int | None) -> str | None:
        """The log of the newest pod with these labels, each line with its time; `None` where it cannot be read now.

        Args:
            since: only lines of the last so many seconds.
        """
        from kubernetes.client.rest import ApiException
        from urllib3.exceptions import HTTPError

        pods = sorted(self.pods(selector), key=lambda pod: pod.metadata.creation_timestamp)
        if not pods:
            return None
        options: Object = {} if since is None else {"since_seconds": since}
        try:
            answer = self._core.read_namespaced_pod_log(
                pods[-1].metadata.name,
                self.namespace,
                container=container,
                timestamps=True,
                _preload_content=False,
                _request_timeout=TIMEOUT,
                **options,
            )
            return str(answer.data.decode("utf-8", "replace"))
        except (ApiException, HTTPError, OSError):  # the container does not run yet, or the kubelet is away
            return None

    def _patiently(
        self,
        what: str,
        call: Callable[..., Any],
        kind: Object | None = None,
        *,
        absent: tuple[int, ...] = (),
        **arguments: Any,
    ) -> Any:
        """The call's answer, tried again while it may still come; `None` for the statuses in `absent`.

        Raises:
            Refused: another try would be refused, too.
            Unreachable: no usable answer for `patience` seconds.
        """
        from kubernetes.client.rest import ApiException
        from urllib3.exceptions import HTTPError

        deadline, pause, said = time.monotonic() + self._patience, 0.5, False
        while True:
            try:
                answer = call(**(kind or {}), namespace=self.namespace, **arguments, _request_timeout=TIMEOUT)
            except ApiException as error:
                if error.status in absent:
                    return None
                problem = f"{error.status} {error.reason}: {_message(error)}"
                if error.status and error.status not in PASSING:
                    raise Refused(f"cannot {what} in namespace {self.namespace}: {problem}") from None
                pause = max(pause, _retry_after(error))
            except (HTTPError, OSError) as error:
                problem = type(error).__name__
            else:
                if said:
                    self._say("the API server answers again")
                return answer
            if time.monotonic() > deadline:
                raise Unreachable(f"cannot {what} for {self._patience:.0f} s: {problem}")
            if not said:
                self._say(f"cannot {what} now, trying again: {problem}")
                said = True
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)


def own_namespace() -> str:
    """The namespace of the pod that this process runs in.

    Raises:
        Refused: this is no pod, or one without a service account.
    """
    try:
        return OWN_NAMESPACE.read_text(encoding="utf-8").strip()
    except OSError:
        raise Refused("this process runs in no pod with a service account: name the namespace") from None


def _configuration() -> Any:
    """The pod's service account, or the kubeconfig; tries are ours, so the client makes one."""
    from kubernetes import client, config

    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        try:
            config.load_kube_config(client_configuration=configuration)
        except config.ConfigException as error:
            raise Refused(f"neither a pod's service account nor a kubeconfig is here: {error}") from None
    configuration.retries = False
    return configuration


def _message(error: Any) -> str:
    """The sentence in the API server's answer."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.body or "no message")[:200]


def _retry_after(error: Any) -> float:
    value = (error.headers or {}).get("Retry-After", "")
    return min(float(value), LONGEST_PAUSE) if str(value).isdigit() else 0.0
