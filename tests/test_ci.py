"""`.ci/run` fails when any part fails, and stops the cluster that it started; `make` and the cluster are stand-ins."""

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

RUN = Path(__file__).parent.parent / ".ci" / "run"


@dataclass
class Workplace:
    """A checkout beside a `shared/cluster`, whose programs write down that they ran."""

    root: Path
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.root / "log"
        (self.root / "main" / ".ci").mkdir(parents=True)
        shutil.copy(RUN, self.root / "main" / ".ci" / "run")

    def program(self, path: str, body: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        file.chmod(0o755)

    def make(self, *failing: str) -> None:
        """A `make` that writes its target down and fails for these."""
        cases = " | ".join(failing) or "none"
        self.program(
            "bin/make", f'echo "make $1 $MAILTRIAGE_NO_SKIPS" >> {self.log}; case $1 in {cases}) exit 2;; esac'
        )

    def cluster(self, starts: bool = True) -> None:
        start = "echo 'export KUBECONFIG=/kubeconfig'" if starts else "exit 1"
        self.program("shared/cluster/up", f"echo up >> {self.log}; {start}")
        self.program("shared/cluster/down", f"echo down >> {self.log}")

    def run(self) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{self.root / 'bin'}:{os.environ['PATH']}"}
        return subprocess.run(
            [self.root / "main" / ".ci" / "run"], env=environment, capture_output=True, text=True, check=False
        )

    def steps(self) -> list[str]:
        return [line.strip() for line in self.log.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


def test_without_a_cluster_only_make_test_runs(workplace: Workplace) -> None:
    workplace.make()

    done = workplace.run()

    assert done.returncode == 0
    assert workplace.steps() == ["make test"]
    assert "make test-cluster: not run" in done.stdout


def test_with_a_cluster_its_tests_run_without_skips_and_it_is_stopped(workplace: Workplace) -> None:
    workplace.make()
    workplace.cluster()

    assert workplace.run().returncode == 0
    assert workplace.steps() == ["make test", "up", "make test-cluster 1", "down"]


@pytest.mark.parametrize("failing", ["test", "test-cluster"])
def test_a_failure_of_either_suite_fails_the_run_and_stops_the_cluster(workplace: Workplace, failing: str) -> None:
    workplace.make(failing)
    workplace.cluster()

    done = workplace.run()

    assert done.returncode != 0
    assert f"make {failing}: failed" in done.stdout
    assert workplace.steps()[-1] == "down"


def test_a_cluster_that_does_not_start_fails_the_run_and_is_cleaned_up(workplace: Workplace) -> None:
    workplace.make()
    workplace.cluster(starts=False)

    assert workplace.run().returncode != 0
    assert workplace.steps() == ["make test", "up", "down"]
