"""Following a RayJob against a stand-in of the Kubernetes API, for what no cluster does when it is asked to.

How jobs really end is shown on the real KubeRay, in tests/cluster/test_ray_jobs.py.
"""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from components.training_places import manifest
from mailtriage import registry
from mailtriage.bundle import Bundle, sha256
from mailtriage.cluster_training import ray_job, train_on_cluster
from mailtriage.config import TrainingConfig, load_config
from mailtriage.errors import ConfigError, RayJobFailed
from mailtriage.ray_jobs import Limits, pod_templates, run_ray_job
from mailtriage.warm_start import start_bundle

ROOT = Path(__file__).parent.parent
JOBS = "/apis/ray.io/v1/namespaces/mail/rayjobs"
QUICK = Limits(poll=0.01, api=1.0, hopeless=0.1, controller=0.0, removal=1.0)


@dataclass
class FakeCluster:
    """One RayJob at most, whose status goes through `statuses`, one at each look."""

    statuses: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)  # answered before anything else
    lost_answers: int = 0  # creations that succeed, and whose answer is a 504
    log: list[str] = field(default_factory=list)
    job: dict[str, Any] | None = None
    created: int = 0
    log_requests: list[dict[str, list[str]]] = field(default_factory=list)
    looks: int = 0

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        if path == JOBS and method == "POST":
            return self._create(body)
        if path.startswith(JOBS + "/"):
            return self._job(method)
        if path.endswith("/log"):
            self.log_requests.append(query)
            return 200, "\n".join(self.log[: self.looks])
        if path.endswith("/pods"):
            pod = {"metadata": {"name": "submitter", "creationTimestamp": "2026-01-01T00:00:00Z"}, "status": {}}
            return 200, {"kind": "PodList", "apiVersion": "v1", "items": [pod] if self.job else []}
        return 404, {"message": f"not faked: {path}"}

    def _create(self, body: Any) -> tuple[int, Any]:
        if self.job is not None:
            return 409, {"message": "already exists"}
        self.created += 1
        self.job = body
        body["metadata"]["uid"] = f"uid-{self.created}"
        if self.lost_answers:
            self.lost_answers -= 1
            return 504, {"message": "the server took too long"}
        return 201, body

    def _job(self, method: str) -> tuple[int, Any]:
        if self.job is None:
            return 404, {"message": "not found"}
        if method == "DELETE":
            self.job = None
            return 200, {}
        status = self.statuses[min(self.looks, len(self.statuses) - 1)]
        self.looks += 1
        return 200, self.job | {"status": status}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeCluster]:
    """A server on a free port of the loopback, which the kubeconfig names."""
    fake = FakeCluster()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            address = urlsplit(self.path)
            headers: dict[str, str] = {}
            if fake.failures:
                status, headers = fake.failures.pop(0)
                answer: Any = {"message": "not now"}
            else:
                status, answer = fake.answer(
                    self.command, address.path, parse_qs(address.query), json.loads(body or b"{}")
                )
            content = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(status)
            for name, value in (headers | {"Content-Type": "application/json"}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "fake",
        "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "fake", "user": {}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def job(**changes: Any) -> dict[str, Any]:
    made = manifest("cpu")
    made["spec"] |= changes
    return made


SUCCEEDED = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}


def test_answers_that_pass_are_asked_for_again(cluster: FakeCluster) -> None:
    cluster.statuses = [RUNNING, SUCCEEDED]
    cluster.failures = [(503, {}), (429, {"Retry-After": "0"})]
    said: list[str] = []

    run_ray_job(job(), "mail", say=said.append, limits=Limits(poll=0.01, api=10.0))

    assert said[0] == "cannot make the RayJob now, trying again: 503 Service Unavailable: not now"
    assert said[1] == "the API server answers again"
    assert cluster.job is None


def test_a_job_whose_creation_got_no_answer_is_not_made_twice(cluster: FakeCluster) -> None:
    cluster.statuses = [RUNNING, SUCCEEDED]
    cluster.lost_answers = 1
    said: list[str] = []

    run_ray_job(job(), "mail", run="run-1", say=said.append, limits=Limits(poll=0.01, api=10.0))

    assert cluster.created == 1
    assert "going on with RayJob mailtriage-train in namespace mail" in said


def test_an_api_server_that_stays_away_ends_the_watch_and_is_not_waited_for_twice(cluster: FakeCluster) -> None:
    cluster.failures = [(503, {})] * 50

    with pytest.raises(RayJobFailed, match="cannot make the RayJob for 1 s: 503") as failed:
        run_ray_job(job(), "mail", say=lambda line: None, limits=QUICK)

    assert failed.value.reason == "Unreachable"
    assert 50 - len(cluster.failures) <= 3  # tries in one second, and none to remove the job


def test_an_operator_that_does_not_act_is_named(cluster: FakeCluster) -> None:
    with pytest.raises(RayJobFailed, match="KubeRay's operator does not act on it") as failed:
        run_ray_job(job(preRunningDeadlineSeconds=0.1), "mail", say=lambda line: None, limits=QUICK)

    assert failed.value.reason == "NoController"
    assert cluster.job is None


def test_a_submitter_that_exits_well_does_not_make_a_failed_job_succeed(cluster: FakeCluster) -> None:
    cluster.statuses = [
        RUNNING,
        {"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED", "message": "stopped\nby x"},
    ]

    with pytest.raises(RayJobFailed, match=r"failed: STOPPED: stopped$"):
        run_ray_job(job(), "mail", say=lambda line: None, limits=QUICK)


def test_each_line_of_the_log_is_said_once_and_only_new_ones_are_asked_for(cluster: FakeCluster) -> None:
    cluster.log = [f"2026-01-01T00:00:{second:02}.000000000Z line {second}" for second in range(1, 6)]
    cluster.statuses = [RUNNING] * 5 + [SUCCEEDED]
    said: list[str] = []

    run_ray_job(job(), "mail", say=said.append, limits=QUICK)

    assert [line for line in said if line.startswith("line")] == [f"line {number}" for number in range(1, 6)]
    assert "sinceSeconds" not in cluster.log_requests[0]
    assert all(int(request["sinceSeconds"][0]) < 60 for request in cluster.log_requests[1:])


def test_the_job_of_a_configuration_has_its_workers_and_its_folder() -> None:
    config = TrainingConfig(workers=3, worker_cpus=2)

    made = ray_job(manifest("cpu"), config, "mailtriage-train-1", Path("/mnt/training/runs/1"))

    (workers,) = made["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (3, 3, 3)
    assert made["spec"]["entrypoint"] == "python -m mailtriage.cluster_training /mnt/training/runs/1"
    for template in pod_templates(made).values():
        assert "config" not in json.dumps([template["spec"]["volumes"], template["spec"]["containers"]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"worker_cpus": 8}, "worker_cpus is 8, but the RayJob's workers have 3 CPUs"),
        ({"gpus": True}, "gpus is true, but the RayJob's workers have none"),
    ],
)
def test_a_configuration_that_would_wait_for_ever_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ray_job(manifest("cpu"), TrainingConfig(**settings), "name", Path("/mnt/training/runs/1"))


def test_a_file_that_is_no_ray_job_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a RayJob like manifests/training"):
        ray_job({"kind": "Pod"}, TrainingConfig(), "name", Path("/mnt/training/runs/1"))


def fail_to_train(
    cluster: FakeCluster, folder: Path, say: Callable[[str], object], config: TrainingConfig | None = None
) -> None:
    """Train as a job whose entrypoint fails; `folder / "shared"` is the volume."""
    cluster.statuses = [{"jobDeploymentStatus": "Failed", "reason": "AppFailed", "message": "exit code 1"}]
    mails = folder / "mails.jsonl"
    mails.write_text("{}\n")
    places: dict[str, Any] = {"namespace": "mail", "shared": folder / "shared", "say": say}
    with pytest.raises(RayJobFailed, match="exit code 1"):
        train_on_cluster(
            config or TrainingConfig(), "tasks: []", mails, mails, folder / "bundle", template=manifest("cpu"), **places
        )


def test_a_failed_training_leaves_checkpoints_and_no_mail(cluster: FakeCluster, tmp_path: Path) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("made"):
            (folder,) = (tmp_path / "shared" / "runs").iterdir()
            assert (folder / "train.jsonl").read_text() == "{}\n"
            (folder / "checkpoints").mkdir()

    fail_to_train(cluster, tmp_path, say)

    (folder,) = (tmp_path / "shared" / "runs").iterdir()
    assert [item.name for item in folder.iterdir()] == ["checkpoints"]
    assert any("the same training goes on from them" in line for line in said)


@pytest.mark.parametrize("named", ["folder", "alias"])
def test_a_warm_start_travels_to_the_cluster(
    cluster: FakeCluster, tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    def fetch(model: str, destination: Path) -> Bundle:
        assert model == "mailtriage@champion"
        return Bundle.open(shutil.copytree(bundle_path, destination))

    monkeypatch.setattr(registry, "fetch", fetch)
    config = TrainingConfig(warm_start=str(bundle_path) if named == "folder" else "mailtriage@champion")
    staged: list[TrainingConfig] = []

    def say(line: str) -> None:
        if line.startswith("made"):
            (folder,) = (tmp_path / "shared" / "runs").iterdir()
            settings = load_config(folder / "config.yaml")
            with start_bundle(str(settings.warm_start)) as bundle:  # as the job does, which verifies it
                assert bundle.digest == Bundle.open(bundle_path).digest
            assert Path(str(settings.warm_start)).parent == folder
            staged.append(settings)

    fail_to_train(cluster, tmp_path, say, config)

    assert staged
    assert not [*(tmp_path / "shared" / "runs").iterdir()]


def test_a_warm_start_from_another_bundle_is_other_work(
    cluster: FakeCluster, tmp_path: Path, bundle_path: Path
) -> None:
    other = Path(shutil.copytree(bundle_path, tmp_path / "other"))
    (other / "MODEL_CARD.md").write_text("another", encoding="utf-8")
    sealed = json.loads((bundle_path / "manifest.json").read_text(encoding="utf-8"))
    sealed["files"]["MODEL_CARD.md"] = sha256(other / "MODEL_CARD.md")
    (other / "manifest.json").write_text(json.dumps(sealed), encoding="utf-8")
    same = shutil.copytree(bundle_path, tmp_path / "same")
    said: list[str] = []

    for start in (bundle_path, other, same):
        fail_to_train(cluster, tmp_path, said.append, TrainingConfig(warm_start=str(start)))

    first, second, third = (line for line in said if line.startswith("made"))
    assert first == third != second


def test_a_warm_start_that_is_nowhere_makes_no_job(cluster: FakeCluster, tmp_path: Path) -> None:
    mails = tmp_path / "mails.jsonl"
    mails.write_text("{}\n")

    with pytest.raises(ConfigError, match="found nothing at no/such/bundle"):
        train_on_cluster(
            TrainingConfig(warm_start="no/such/bundle"),
            "tasks: []",
            mails,
            mails,
            tmp_path / "bundle",
            template=manifest("cpu"),
            namespace="mail",
            shared=tmp_path / "shared",
        )
    assert cluster.job is None
    assert not (tmp_path / "shared").exists()


def test_a_job_that_cleared_its_folder_itself_hides_no_reason(cluster: FakeCluster, tmp_path: Path) -> None:
    def say(line: str) -> None:
        if "failed" in line:
            shutil.rmtree(tmp_path / "shared" / "runs", ignore_errors=True)

    fail_to_train(cluster, tmp_path, say)


def test_a_job_that_no_step_follows_ends_and_leaves_no_mail(tmp_path: Path) -> None:
    for name in ("train.jsonl", "validation.jsonl", "followed"):
        (tmp_path / name).write_text("{}\n")
    program = """
import sys, time
from pathlib import Path
from mailtriage import training
from mailtriage.cluster_training import train_in
training.train = lambda *_, **__: time.sleep(60)
folder = Path(sys.argv[1])
(folder / "config.yaml").write_text("epochs: 1")
(folder / "taxonomy.yaml").write_text(Path("taxonomy.yaml").read_text())
(folder / "train.jsonl").write_text(""), (folder / "validation.jsonl").write_text("")
train_in(folder, unfollowed=0.5)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)

    assert done.returncode == 1, done.stderr
    assert done.stdout == "error: no step has followed this job for 0 s\n"
    assert not tmp_path.exists()
