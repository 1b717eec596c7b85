"""The images: their sizes, what serving must not hold, and how soon its servers are ready.

    python benchmarks/images.py --bundle BUNDLE --builder docker|buildah|PATH [--runs 5] [--output work/images.json]

Build them first (`make images`). A cold start is a new container of the image, on this machine's network, with the
bundle as a read-only volume, as many CPUs as the chart's limits give, and nothing imported yet: seconds from the
command that starts it to the first 200 of /v2/health/ready. The predictor is started first; the transformer is ready
when it has found it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import psutil  # noqa: E402
import yaml  # noqa: E402
from load import hardware  # noqa: E402

import mailtriage  # noqa: E402
from serving.supervisor import free_port  # noqa: E402

BASE = "docker.io/library/debian:bookworm-slim"
STAGES = ("serving", "training", "platform")
START_SECONDS = 60
FORBIDDEN = ("torch", "ray", "kfp", "mlflow", "nvidia", "triton", "transformers", "sklearn")
LOOK = f"""
import importlib.util, pathlib
found = [name for name in {FORBIDDEN} if importlib.util.find_spec(name)]
found += sorted({{str(path) for folder in ("/opt", "/usr") for path in pathlib.Path(folder).rglob("libcud*.so*")}})
print(*found)
"""


@dataclass(frozen=True)
class Builder:
    """The program that built the images, and that runs them here."""

    program: str

    @property
    def is_buildah(self) -> bool:
        return "buildah" in Path(self.program).name

    def say(self, *arguments: str) -> str:
        done = subprocess.run([self.program, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{self.program} {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def has(self, image: str) -> bool:
        command = [self.program, "inspect", "--type", "image", image]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def megabytes(self, image: str) -> float:
        """Size of all layers, unpacked."""
        if not self.is_buildah:
            return int(self.say("image", "inspect", "--format", "{{.Size}}", image)) / 1e6
        manifest = json.loads(json.loads(self.say("inspect", "--type", "image", image))["Manifest"])
        return sum(layer["size"] for layer in manifest["layers"]) / 1e6

    @contextmanager
    def container(self, image: str, cpus: int = 1, volume: str = "") -> Iterator[list[str]]:
        """What stands before `python ...` to run it in a new container of the image."""
        volumes = ["--volume", volume] if volume else []
        processors = ",".join(str(number) for number in range(cpus))
        if not self.is_buildah:
            run = [self.program, "run", "--rm", "--network", "host", "--cpuset-cpus", processors, *volumes]
            yield [*run, "--entrypoint", "env", image]
            return
        name = self.say("from", "--pull-never", image)
        try:
            yield ["taskset", "--cpu-list", processors, self.program, "run", *volumes, name, "--"]
        finally:
            self.say("rm", name)


@contextmanager
def started(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process; it and what it started are stopped at the end."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        family = [*psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
        process.terminate()
        for child in family:
            if child.is_running():
                child.terminate()
        _, left = psutil.wait_procs(family, timeout=30)
        for child in left:
            child.kill()
        process.wait(timeout=30)


def seconds_to_ready(process: subprocess.Popen[bytes], port: int) -> float:
    """Seconds from now to the first 200 of the server."""
    start = time.perf_counter()
    while time.perf_counter() < start + START_SECONDS:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=2) as answer:
                if answer.status == 200:
                    return time.perf_counter() - start
        except OSError:
            if process.poll() is not None:
                sys.exit(f"the server ended with status {process.returncode}; is the bundle readable for user 10001?")
        time.sleep(0.02)
    sys.exit(f"not ready after {START_SECONDS} s")


def cold_start(builder: Builder, image: str, bundle: Path, cpus: dict[str, int]) -> dict[str, float]:
    """Seconds to ready of a new predictor and of a new transformer."""
    volume = f"{bundle}:/mnt/models:ro"
    ports = {role: free_port("127.0.0.1") for role in ("predictor", "transformer")}

    def command(role: str, *options: str) -> list[str]:
        server = ["python", "-m", "serving", role, "--bundle=/mnt/models", f"--http_port={ports[role]}"]
        return [*server, *options]

    with builder.container(image, cpus["predictor"], volume) as first, started([*first, *command("predictor")]) as one:
        predictor = seconds_to_ready(one, ports["predictor"])
        host = f"--predictor_host=127.0.0.1:{ports['predictor']}"
        with (
            builder.container(image, cpus["transformer"], volume) as second,
            started([*second, *command("transformer", host)]) as two,
        ):
            return {"predictor": predictor, "transformer": seconds_to_ready(two, ports["transformer"])}


def forbidden_in(builder: Builder, image: str) -> list[str]:
    """What a serving image must not hold, and this one does."""
    with builder.container(image) as run:
        return subprocess.run([*run, "python", "-c", LOOK], capture_output=True, text=True, check=True).stdout.split()


def cpu_limits() -> dict[str, int]:
    """Whole CPUs of the chart's limits."""
    values = yaml.safe_load((ROOT / "charts/mailtriage/values.yaml").read_text(encoding="utf-8"))
    return {role: int(values[role]["resources"]["limits"]["cpu"]) for role in ("predictor", "transformer")}


def measured(builder: Builder, bundle: Path, runs: int) -> dict[str, Any]:
    """Everything that this script prints."""
    images = {stage: f"docker.io/mailtriage/{stage}:{mailtriage.__version__}" for stage in STAGES}
    base = builder.megabytes(BASE) if builder.has(BASE) else 0.0
    sizes = {stage: builder.megabytes(image) for stage, image in images.items() if builder.has(image)}
    report: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "megabytes": {stage: {"total": round(size), "over_base": round(size - base)} for stage, size in sizes.items()},
        "forbidden_in_serving": forbidden_in(builder, images["serving"]),
    }
    times = [cold_start(builder, images["serving"], bundle, cpu_limits()) for _ in range(runs)]
    report["seconds_to_ready"] = {
        role: {"median": statistics.median(found), "worst": max(found), "runs": found}
        for role in cpu_limits()
        for found in [[round(run[role], 2) for run in times]]
    }
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--builder", default="docker")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    report = measured(Builder(arguments.builder), arguments.bundle.resolve(), arguments.runs)
    print(f"{report['date']}, {report['hardware']}")
    for stage, size in report["megabytes"].items():
        print(f"{stage:12} {size['total']:6} MB, {size['over_base']} MB of them over {BASE}")
    for role, found in report["seconds_to_ready"].items():
        print(
            f"{role:12} ready after {found['median']:.1f} s (median), {found['worst']:.1f} s (worst): {found['runs']}"
        )
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(report, indent=2), encoding="utf-8")
    if report["forbidden_in_serving"]:
        sys.exit(f"the serving image must not hold {', '.join(report['forbidden_in_serving'])}")


if __name__ == "__main__":
    main()
