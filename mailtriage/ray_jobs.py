"""Runs a KubeRay `RayJob` from its making to its last pod, and says why it failed: the train step on a cluster.

What came of a job is in its `.status`, never in the submitter's exit code. A watcher that is started again goes on with
the job of the one before it. Whatever happens, the job and its Ray cluster are gone at the end; only where the API
server stays away, or the watcher is killed for good, they end by themselves, after some time.
"""

from __future__ import annotations

import copy
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mailtriage.errors import KubernetesError, RayJobFailed, Refused, Unreachable
from mailtriage.kubernetes_api import KubernetesApi

Object = dict[str, Any]
Say = Callable[[str], None]

RUN = "mailtriage/run"  # annotation: which run made the job
JOB = "mailtriage/ray-job"  # label of all its pods
FINAL = ("Complete", "Failed", "ValidationFailed")  # .status.jobDeploymentStatus
HOPELESS = (  # why a container waits that nothing but a change of the job will start
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
)
LAST_LINES = 3  # of the log, repeated in the error
LONGEST_MESSAGE = 400  # characters of what Ray says; it ends with the whole log


@dataclass(frozen=True)
class Limits:
    """How long what may take, in seconds. How long the job itself may start and run, its manifest says."""

    poll: float = 2.0
    api: float = 600.0  # without an answer of the API server
    hopeless: float = 120.0  # with a container that cannot start, such as one without an image
    controller: float = 120.0  # over the job's own deadlines, which KubeRay keeps, if it runs
    removal: float = 120.0


def run_ray_job(
    manifest: Object,
    namespace: str,
    *,
    run: str = "",
    say: Say = print,
    alive: Callable[[], object] = lambda: None,
    limits: Limits | None = None,
) -> None:
    """Make the job, or go on with the one that an earlier watcher of this run made; return when it has succeeded.

    Args:
        manifest: a RayJob; its name says what it works on, so that one name is one piece of work.
        run: which run asks; the same where a watcher is started again.
        say: gets the lines that the job prints, and what holds it up.
        alive: called at each look at the job, for a job that ends where nobody follows it.

    Raises:
        RayJobFailed: it did not succeed; `reason` says how. The job is gone then, too.
        SystemExit: this process was told to terminate (SIGTERM).
    """
    limits = limits or Limits()
    api = KubernetesApi(namespace, patience=limits.api, say=say)
    watch = _Watch(_marked(manifest, run), run, api, say, limits)
    with _exit_on_sigterm():
        try:
            watch.attach()
            watch.follow(alive)
        except Unreachable as error:
            watch.out_of_reach = True
            raise RayJobFailed("Unreachable", f"{error}; {watch.where} ends by itself") from None
        except Refused as error:
            raise RayJobFailed("Refused", str(error)) from None
        finally:
            watch.remove()


def _marked(manifest: Object, run: str) -> Object:
    """The manifest with the run's name on the job, and the job's name on every pod."""
    job = copy.deepcopy(manifest)
    metadata = job["metadata"]
    metadata.setdefault("annotations", {})[RUN] = run
    for template in pod_templates(job).values():
        template.setdefault("metadata", {}).setdefault("labels", {})[JOB] = metadata["name"]
    return job


def pod_templates(job: Object) -> dict[str, Object]:
    """The pod templates of a RayJob: `head`, `submitter`, and the groups of workers by name."""
    cluster = job["spec"]["rayClusterSpec"]
    workers = {group["groupName"]: group["template"] for group in cluster.get("workerGroupSpecs") or []}
    return {"head": cluster["headGroupSpec"]["template"], "submitter": job["spec"]["submitterPodTemplate"]} | workers


class _Watch:
    """One watcher of one job."""

    def __init__(self, job: Object, run: str, api: KubernetesApi, say: Say, limits: Limits) -> None:
        self.job, self.run, self.api, self.say, self.limits = job, run, api, say, limits
        self.name: str = job["metadata"]["name"]
        self.where = f"RayJob {self.name} in namespace {api.namespace}"
        self.uid = ""
        self.out_of_reach = False
        self.log = _SubmitterLog(api, job)
        self.troubles = _Troubles()

    def attach(self) -> None:
        """Make the job, or find the one that this run made.

        Raises:
            RayJobFailed: another run's job of this name is at work.
        """
        deadline = time.monotonic() + self.limits.removal
        while True:
            found = self.api.create_ray_job(self.job)
            if found is not None:
                self.say(f"made {self.where}")
                break
            found = self.api.ray_job(self.name)
            if found is None:
                continue
            if not _leaves(found) and _run_of(found) == self.run:
                self.say(f"going on with {self.where}")
                break
            if not _leaves(found) and not _is_final(found):
                raise RayJobFailed(
                    "Busy",
                    f"{self.where} does the same work for run '{_run_of(found)}': wait until it has ended, "
                    f"or stop it: kubectl -n {self.api.namespace} delete rayjob {self.name}",
                )
            if time.monotonic() > deadline:
                raise RayJobFailed("Busy", f"{self.where} of an earlier run does not go; is KubeRay's operator there?")
            self.api.delete_ray_job(self.name, found["metadata"]["uid"])
            time.sleep(self.limits.poll)
        self.uid = found["metadata"]["uid"]

    def follow(self, alive: Callable[[], object]) -> None:
        """Relay the log until the job has ended.

        Raises:
            RayJobFailed: otherwise than well.
        """
        started, stage = time.monotonic(), ""
        while True:
            alive()
            found = self.api.ray_job(self.name)
            if found is None or found["metadata"]["uid"] != self.uid or _leaves(found):
                raise self._failed("Deleted", "somebody deleted it")
            self._relay_log()
            status = found.get("status") or {}
            if (now := status.get("jobDeploymentStatus") or "new") != stage:
                stage = now
                self.say(f"{self.where}: {stage.lower()}")
            if stage in FINAL:
                break
            self._look_for_troubles(status)
            self._keep_deadline(stage, time.monotonic() - started)
            time.sleep(self.limits.poll)
        self._relay_log()
        if status.get("jobStatus") != "SUCCEEDED" or stage != "Complete":
            reason = status.get("reason") or status.get("jobStatus") or stage
            raise self._failed(reason, _first_line(status.get("message") or "no message"))

    def remove(self) -> None:
        """Delete the job if it is this run's, and wait until all of its pods are gone."""
        deadline = time.monotonic() + self.limits.removal
        try:
            while not self.out_of_reach and time.monotonic() < deadline:
                found = self.api.ray_job(self.name)
                if found is None and not self.api.pods(f"{JOB}={self.name}"):
                    return
                if found is not None and self.uid != found["metadata"]["uid"] and _run_of(found) != self.run:
                    return
                if found is not None and not _leaves(found):
                    self.api.delete_ray_job(self.name, found["metadata"]["uid"])
                time.sleep(min(1.0, self.limits.poll))
            if not self.out_of_reach:
                self.say(f"{self.where} is not gone yet; KubeRay's operator, when it runs, removes it")
        except KubernetesError as error:
            self.say(f"cannot remove {self.where}, which ends by itself: {error}")

    def _relay_log(self) -> None:
        for line in self.log.new_lines():
            self.say(line)

    def _look_for_troubles(self, status: Mapping[str, Any]) -> None:
        """Say what holds pods up as soon as it shows, and give up where waiting does not help."""
        pods = self.api.pods(f"{JOB}={self.name}")
        cluster = status.get("rayClusterName")
        events = self.api.warnings(cluster) if cluster and not pods else []
        for line in self.troubles.new(pods, events):
            self.say(line)
        seconds, why = self.troubles.longest_hopeless()
        if seconds > self.limits.hopeless:
            raise self._failed("CannotStart", f"{why}; given up after {seconds:.0f} s")

    def _keep_deadline(self, stage: str, seconds: float) -> None:
        """KubeRay ends a job that is over its deadline; where KubeRay does not, its operator is not at work."""
        spec = self.job["spec"]
        starting = spec.get("preRunningDeadlineSeconds") if stage in ("new", "Initializing") else None
        limit = min(value for value in (starting, spec.get("activeDeadlineSeconds"), float("inf")) if value)
        if seconds > limit + self.limits.controller:
            raise self._failed(
                "NoController",
                f"still {stage.lower()} {seconds - limit:.0f} s after its deadline: KubeRay's operator "
                "does not act on it (kubectl get pods -A -l app.kubernetes.io/name=kuberay-operator)",
            )

    def _failed(self, reason: str, message: str) -> RayJobFailed:
        held_up = self.troubles.text() if reason in ("PreRunningDeadlineExceeded", "DeadlineExceeded") else ""
        last = " | ".join(self.log.last)
        return RayJobFailed(
            reason,
            f"{self.where} failed: {reason}: {message}"
            + (f"; it was held up by: {held_up}" if held_up else "")
            + (f"; its last lines: {last}" if last else ""),
        )


class _SubmitterLog:
    """What the job printed, each line once, however often the connection or the API server goes."""

    def __init__(self, api: KubernetesApi, job: Object) -> None:
        self.last: list[str] = []
        self._api = api
        self._name: str = job["metadata"]["name"]
        self._container: str = pod_templates(job)["submitter"]["spec"]["containers"][0]["name"]
        self._until = ""  # time stamp of the last line seen
        self._asked: float | None = None

    def new_lines(self) -> Iterator[str]:
        """Lines that came since the last call; none where the log cannot be read right now."""
        now = time.monotonic()
        since = None if self._asked is None else int(now - self._asked) + 10
        text = self._api.log(f"job-name={self._name}", self._container, since)
        if text is None:
            return
        self._asked = now
        for entry in text.splitlines():
            stamp, _, line = entry.partition(" ")
            if stamp > self._until:  # the kubelet writes nine digits after the second, so text sorts as time does
                self._until = stamp
                if line.strip():
                    self.last = [*self.last, line.strip()][-LAST_LINES:]
                yield line


class _Troubles:
    """What holds pods up, and since when."""

    def __init__(self) -> None:
        self._now: dict[str, str] = {}
        self._said: set[str] = set()
        self._hopeless: dict[str, float] = {}

    def new(self, pods: list[Any], events: list[str]) -> list[str]:
        """Lines that were not said yet. `events` are warnings about a cluster that has no pods."""
        found, hopeless = dict(_waiting(pods)), set(_hopeless(pods))
        self._now = {place: text for place, (text, _) in found.items()} | {text: text for text in events}
        self._hopeless = {place: self._hopeless.get(place, time.monotonic()) for place in hopeless}
        fresh = {kind: self._now[place] for place, (_, kind) in found.items() if kind not in self._said}
        fresh |= {text: text for text in events if text not in self._said}
        self._said |= fresh.keys()
        return list(fresh.values())

    def longest_hopeless(self) -> tuple[float, str]:
        """Seconds that a container has been waiting for what will not come, and its text."""
        if not self._hopeless:
            return 0.0, ""
        place = min(self._hopeless, key=lambda key: self._hopeless[key])
        return time.monotonic() - self._hopeless[place], self._now[place]

    def text(self) -> str:
        return "; ".join(sorted(self._now.values()))


def _waiting(pods: list[Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Place, and (text, kind) of each container and pod that waits; the same kind need not be said twice."""
    for pod in pods:
        name = pod.metadata.name
        for status in _container_statuses(pod):
            waiting = status.state.waiting if status.state else None
            if waiting and waiting.reason not in ("ContainerCreating", "PodInitializing"):
                text = f"pod {name}, container {status.name} waits: {waiting.reason}: {waiting.message or ''}"
                yield f"{name}/{status.name}", (text.rstrip(": "), f"{name}/{status.name}: {waiting.reason}")
        for condition in pod.status.conditions or []:
            if condition.type == "PodScheduled" and condition.status == "False":
                yield name, (f"pod {name} is not scheduled: {condition.message}", f"{name}: not scheduled")


def _hopeless(pods: list[Any]) -> Iterator[str]:
    for pod in pods:
        for status in _container_statuses(pod):
            if status.state and status.state.waiting and status.state.waiting.reason in HOPELESS:
                yield f"{pod.metadata.name}/{status.name}"


def _container_statuses(pod: Any) -> list[Any]:
    return [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]


def _run_of(job: Object) -> str:
    return str(job["metadata"].get("annotations", {}).get(RUN, ""))


def _leaves(job: Object) -> bool:
    return bool(job["metadata"].get("deletionTimestamp"))


def _is_final(job: Object) -> bool:
    return (job.get("status") or {}).get("jobDeploymentStatus") in FINAL


def _first_line(message: str) -> str:
    return message.strip().partition("\n")[0][:LONGEST_MESSAGE]


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """SIGTERM, with which Kubernetes and KFP stop a step, becomes SystemExit, so that what was started is removed."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread hears signals
        yield
        return

    def exit_now(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what follows must not be interrupted
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, exit_now)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
