"""RayJobs on the real KubeRay, followed as the train step follows them: each way that one can end.

All jobs but those of the last tests start side by side, with small heads and entrypoints that take seconds.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import restricted_namespace
from installation import ROOT
from kube import Namespace, wait_until

from components.training_places import manifest
from mailtriage.errors import RayJobFailed
from mailtriage.ray_jobs import JOB, Limits, pod_templates, run_ray_job

QUICK = Limits(poll=1.0, hopeless=15.0)
LEFT_OVERS = "rayjobs,rayclusters,pods,jobs.batch,services,secrets"
STEPS = 40
COUNTING = f"import time; [print('step', i, flush=True) or time.sleep(1) for i in range({STEPS})]"


def small_job(name: str, program: str, **changes: Any) -> dict[str, Any]:
    """manifests/training/cpu without workers and volumes, with a head that starts on a full node."""
    job = manifest("cpu")
    job["metadata"]["name"] = name
    job["spec"] |= {"entrypoint": f'python -c "{program}"', **changes}
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"] = []
    for role, pod in pod_templates(job).items():
        (container,) = pod["spec"]["containers"]
        memory = "1Gi" if role == "head" else "256Mi"
        container["resources"] = {
            "requests": {"cpu": "100m", "memory": memory},
            "limits": {"cpu": "2", "memory": "2Gi"},
        }
        pod["spec"]["volumes"] = [item for item in pod["spec"]["volumes"] if item["name"] == "tmp"]
        container["volumeMounts"] = [item for item in container["volumeMounts"] if item["name"] == "tmp"]
    return job


@dataclass
class Followed:
    """A job that a thread follows: what it says, and how it ends."""

    lines: list[str] = field(default_factory=list)
    end: Future[None] = field(default_factory=Future)

    def failure(self) -> RayJobFailed:
        """The error that the watcher raised."""
        error = self.end.exception(timeout=420)
        assert isinstance(error, RayJobFailed), (error, self.lines)
        return error

    def wait_for_line(self, text: str) -> None:
        wait_until(f"the job says '{text}'", lambda: any(text in line for line in self.lines), 300, self.report)

    def report(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture(scope="module")
def jobs_namespace(cluster: None) -> Iterator[Namespace]:
    with restricted_namespace() as made:
        yield made


@pytest.fixture(scope="module")
def full_namespace(cluster: None) -> Iterator[Namespace]:
    """A namespace whose quota allows no pod."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    with restricted_namespace() as made:
        made.apply(quota)
        yield made


@pytest.fixture(scope="module")
def follow(jobs_namespace: Namespace) -> Iterator[Callable[..., Followed]]:
    """Follows a job in a thread."""
    with ThreadPoolExecutor(8) as pool:

        def start(job: dict[str, Any], run: str = "run-1", namespace: Namespace = jobs_namespace) -> Followed:
            followed = Followed()
            options = {"run": run, "say": followed.lines.append, "limits": QUICK}
            followed.end = pool.submit(run_ray_job, job, namespace.name, **options)
            return followed

        yield start


@pytest.fixture(scope="module")
def started(
    jobs_namespace: Namespace, full_namespace: Namespace, training_image: str, follow: Callable[..., Followed]
) -> dict[str, Followed]:
    """The jobs that need no help to end, all at work at once."""
    without_image = small_job("no-image", "print(1)")
    for pod in pod_templates(without_image).values():
        pod["spec"]["containers"][0]["image"] = training_image.replace("training", "not-there")
    too_large = small_job("too-large", "print(1)", preRunningDeadlineSeconds=20)
    head = pod_templates(too_large)["head"]["spec"]["containers"][0]
    head["resources"] = {"requests": {"cpu": "900"}, "limits": {"cpu": "900", "memory": "1Gi"}}
    return {
        "fails": follow(small_job("fails", "print('step 1'); raise SystemExit('no such label')")),
        "too-long": follow(
            small_job(
                "too-long", "import time; print('step 1', flush=True); time.sleep(900)", activeDeadlineSeconds=100
            )
        ),
        "deleted": follow(small_job("deleted", "import time; print('step 1', flush=True); time.sleep(900)")),
        "no-image": follow(without_image),
        "too-large": follow(too_large),
        "no-quota": follow(small_job("no-quota", "print(1)", preRunningDeadlineSeconds=15), namespace=full_namespace),
    }


def watcher(job: dict[str, Any], namespace: Namespace, folder: Path) -> subprocess.Popen[str]:
    """A watcher in a process of its own, as the step's pod is."""
    file = folder / f"{job['metadata']['name']}.yaml"
    file.write_text(yaml.safe_dump(job))
    program = (
        "import sys, yaml; from mailtriage.ray_jobs import run_ray_job; "
        "run_ray_job(yaml.safe_load(open(sys.argv[1])), sys.argv[2], run='run-1')"
    )
    command = [sys.executable, "-u", "-c", program, str(file), namespace.name]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_killed_watcher_is_replaced_and_an_api_server_restarts_without_losing_or_repeating_a_line(
    jobs_namespace: Namespace, started: dict[str, Followed], follow: Callable[..., Followed], tmp_path: Path
) -> None:
    restarter = os.environ.get("RESTARTER")
    if not restarter:
        pytest.skip("RESTARTER is not set: the command that restarts a server of the node")
    job = small_job("succeeds", COUNTING)
    with watcher(job, jobs_namespace, tmp_path) as first:
        try:
            assert first.stdout is not None
            for line in first.stdout:
                if line == "step 3\n":
                    break
            assert first.poll() is None
        finally:
            first.kill()

    second = follow(job)
    second.wait_for_line("step 8")
    submitters = jobs_namespace.list("pods", "job-name=succeeds")
    subprocess.run([*restarter.split(), "kube-apiserver", "5"], check=True, capture_output=True)

    second.end.result(timeout=420)
    assert second.lines[0] == f"going on with RayJob succeeds in namespace {jobs_namespace.name}"
    assert [line for line in second.lines if line.startswith("step ")] == [f"step {i}" for i in range(STEPS)]
    assert any(line.startswith("cannot ") and "trying again" in line for line in second.lines), second.report()
    assert "the API server answers again" in second.lines
    assert [pod["metadata"]["labels"][JOB] for pod in submitters] == ["succeeds"]
    assert not jobs_namespace.exists("rayjob", "succeeds")


def test_a_failing_entrypoint_fails_with_its_reason(started: dict[str, Followed]) -> None:
    failed = started["fails"]

    assert failed.failure().reason == "AppFailed"
    assert "step 1" in failed.lines
    assert "no such label" in str(failed.failure())


def test_a_job_that_somebody_deletes_fails_at_once(jobs_namespace: Namespace, started: dict[str, Followed]) -> None:
    started["deleted"].wait_for_line("step 1")

    jobs_namespace.kubectl("delete", "rayjob", "deleted", "--wait=false")

    assert started["deleted"].failure().reason == "Deleted"
    assert "somebody deleted it" in str(started["deleted"].failure())


def test_a_deadline_ends_the_job(started: dict[str, Followed]) -> None:
    failure = started["too-long"].failure()

    assert failure.reason == "DeadlineExceeded"
    assert "activeDeadlineSeconds" in str(failure)


def test_an_image_that_does_not_exist_ends_the_job_long_before_its_deadline(started: dict[str, Followed]) -> None:
    failure = started["no-image"].failure()

    assert failure.reason == "CannotStart"
    assert "not-there" in str(failure)
    assert any("ImagePull" in line for line in started["no-image"].lines)


def test_a_pod_that_fits_no_node_is_said_at_once_and_in_the_end(started: dict[str, Followed]) -> None:
    failure = started["too-large"].failure()

    assert failure.reason == "PreRunningDeadlineExceeded"
    assert "is not scheduled" in str(failure)
    assert "Insufficient cpu" in str(failure)
    assert any("Insufficient cpu" in line for line in started["too-large"].lines)


def test_a_quota_that_allows_no_pod_is_said_at_once_and_in_the_end(started: dict[str, Followed]) -> None:
    failure = started["no-quota"].failure()

    assert failure.reason == "PreRunningDeadlineExceeded"
    assert "exceeded quota: none" in str(failure)
    assert any("exceeded quota: none" in line for line in started["no-quota"].lines)


def test_a_watcher_that_is_told_to_terminate_takes_its_job_with_it(
    jobs_namespace: Namespace, training_image: str, tmp_path: Path
) -> None:
    with watcher(small_job("cancelled", "import time; time.sleep(900)"), jobs_namespace, tmp_path) as process:
        try:
            wait_until("the job has a head", lambda: jobs_namespace.list("pods", f"{JOB}=cancelled"), 60)
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=120)
        finally:
            process.kill()

    assert process.returncode == 128 + signal.SIGTERM, output
    assert not jobs_namespace.exists("rayjob", "cancelled")
    assert not jobs_namespace.list("pods", f"{JOB}=cancelled")


def test_the_same_work_of_another_run_is_left_alone(
    jobs_namespace: Namespace, training_image: str, follow: Callable[..., Followed]
) -> None:
    job = small_job("busy", "print(1)", suspend=True)
    job["metadata"]["annotations"] = {"mailtriage/run": "run-2"}
    jobs_namespace.apply(job)

    failure = follow(job, run="run-1").failure()

    assert failure.reason == "Busy"
    assert "run 'run-2'" in str(failure)
    assert jobs_namespace.exists("rayjob", "busy")
    jobs_namespace.kubectl("delete", "rayjob", "busy")


def test_a_service_account_without_the_role_is_told_what_it_may_not(
    jobs_namespace: Namespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    token = jobs_namespace.kubectl("create", "token", "default").strip()
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    lines: list[str] = []

    with pytest.raises(RayJobFailed, match=r"cannot make the RayJob .*403 .*rayjobs\.ray\.io is forbidden") as failed:
        run_ray_job(small_job("not-allowed", "print(1)"), jobs_namespace.name, say=lines.append, limits=QUICK)

    assert failed.value.reason == "Refused"


def test_nothing_is_left_running(jobs_namespace: Namespace, started: dict[str, Followed]) -> None:
    for followed in started.values():
        followed.end.exception(timeout=420)

    def left() -> str:
        found = jobs_namespace.kubectl("get", LEFT_OVERS, "--output=name", "--ignore-not-found")
        return found.strip()

    wait_until("everything of the jobs is gone", lambda: not left(), 60, left)
