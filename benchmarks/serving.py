"""Serving side by side: three plain models, one plain model, ours, and what each step between them brings.

    python benchmarks/serving.py --bundle BUNDLE [--seconds 8] [--only a,d] [--output work/benchmarks/serving.json]

All on this machine, one after the other, with the same raw sample mails (their real spread of lengths):

a         three single-task fp32 models in three KServe model servers, plain `transformers`, one mail after the other
a+clean   the same, on cleaned mails
b         one multi-task fp32 model, served as in (a)
b+clean   the same, on cleaned mails
onnx      one model, cleaned mails, the bundle's ONNX export (int8 where the bundle has it), one mail after the other
batched   our transformer and predictor with batching, each round one forward pass padded to its longest mail
d         ours, through the gateway: batching by length, little padding

Prints a table and the ratios of (d) to (a), and writes both with date and hardware as JSON. The single-task models are
the bundle's encoder with one of its heads each: they cost what separately trained ones cost. The plain servers have no
gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import aiohttp  # noqa: E402
import numpy as np  # noqa: E402
from load import MAILS, SEED, START_SECONDS, Load, Meter, Service, hardware, ours  # noqa: E402

from mailtriage.bundle import Bundle  # noqa: E402
from mailtriage.mail import Email  # noqa: E402
from mailtriage.metrics import macro_f1  # noqa: E402
from serving.supervisor import free_port  # noqa: E402

STEPS = ("a", "a+clean", "b", "b+clean", "onnx", "batched", "d")
PHASES = ((1, 1), (8, 1), (64, 1), (1, 32), (8, 32), (64, 32))  # clients, mails a request
CAPACITY = (64, 1)


@contextmanager
def plain(bundle: Path, device: str, *options: str, tasks: Sequence[str] = ()) -> Iterator[Service]:
    """A plain model server for each of `tasks`, or one for all of them."""
    with ExitStack() as stack:
        ports, pids = [], []
        for task in tasks or ("",):
            ports.append(free_port("127.0.0.1"))
            command = [sys.executable, str(ROOT / "benchmarks/plain_server.py"), "--bundle", str(bundle)]
            command += ["--port", str(ports[-1]), "--device", device, *options]
            pids.append(stack.enter_context(process([*command, *(["--tasks", task] if task else [])])).pid)
        for port in ports:
            wait_for(f"http://127.0.0.1:{port}/v2/health/ready")
        urls = [f"http://127.0.0.1:{port}/v1/models/plain:predict" for port in ports]
        yield Service(urls, {}, pids)


@contextmanager
def padded(bundle: Path) -> Iterator[Service]:
    """Our transformer before our predictor without batching by length."""
    predictor, transformer = free_port("127.0.0.1"), free_port("127.0.0.1")
    first = [sys.executable, str(ROOT / "benchmarks/plain_server.py"), "--padded", "--bundle", str(bundle)]
    second = [sys.executable, "-m", "serving", "transformer", "--bundle", str(bundle), "--http-port", str(transformer)]
    second += ["--predictor-host", f"127.0.0.1:{predictor}"]
    with process([*first, "--port", str(predictor)]) as one, process(second) as two:
        wait_for(f"http://127.0.0.1:{transformer}/v2/health/ready")
        yield Service([f"http://127.0.0.1:{transformer}/v1/models/mailtriage:predict"], {}, [one.pid, two.pid])


@contextmanager
def process(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is stopped by its own pid."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet) as started:
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(30)
            except subprocess.TimeoutExpired:
                started.kill()


def wait_for(url: str) -> None:
    """Until a GET gives 200."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with opener.open(url, timeout=2):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def service(step: str, bundle: Path, device: str, tasks: Sequence[str]) -> Any:
    """The step's service, to be entered."""
    return {
        "a": lambda: plain(bundle, device, tasks=tasks),
        "a+clean": lambda: plain(bundle, device, "--clean", tasks=tasks),
        "b": lambda: plain(bundle, device),
        "b+clean": lambda: plain(bundle, device, "--clean"),
        "onnx": lambda: plain(bundle, device, "--clean", "--onnx"),
        "batched": lambda: padded(bundle),
        "d": lambda: ours(bundle, device),
    }[step]()


async def quality(load: Load, mails: Sequence[Email], bundle: Bundle) -> float:
    """Mean macro-F1 over the tasks, of all mails, asked for in batches of 8; it warms the service up too."""
    found: dict[str, list[int]] = {task: [] for task in bundle.taxonomy.task_ids}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        for _ in range(0, len(mails), 8):
            status, answers, _ = await load.ask(session, load.batch(8))
            if status != 200:
                raise SystemExit(f"a request was answered with {status}")
            for each in answers:
                for prediction in each["predictions"]:
                    for task, score in prediction["labels"].items():
                        found[task].append(bundle.taxonomy.task(task).index(score["label"]))
    scores = []
    for task in bundle.taxonomy.tasks:
        true = np.asarray([task.index(mail.labels[task.id]) for mail in mails])
        scores.append(macro_f1(len(task.labels), true, np.asarray(found[task.id])))
    return float(np.mean(scores))


async def measure(service: Service, mails: Sequence[Email], bundle: Bundle, seconds: float) -> dict[str, Any]:
    """Quality, every phase, and single mails at half of what 64 clients got."""
    records = [Email(m.id, m.subject, m.body, m.received_at, m.custodian_bank).to_record() for m in mails]
    load, meter = Load(service.urls, service.headers, records), Meter(service.pids)
    result: dict[str, Any] = {"macro_f1": round(await quality(load, mails, bundle), 4)}
    for clients, size in PHASES:
        measured = await load.closed(clients, size, seconds, meter)
        result[f"{clients}x{size}"] = measured.to_record()
        if (clients, size) == CAPACITY:
            rate = max(0.2, measured.mails / measured.seconds / 2)
            result["half_load"] = (await load.open(rate, seconds, meter)).to_record() | {"rate": round(rate, 2)}
    result["peak_mib"] = max(phase["peak_mib"] for phase in result.values() if isinstance(phase, dict))
    return result


def ratios(steps: dict[str, Any]) -> dict[str, float | None]:
    """What the goals ask of (d) against (a)."""
    a, d = steps["a"], steps["d"]

    def share(one: Any, other: Any) -> float | None:
        return round(one / other, 2) if one and other else None

    return {
        "mails_per_second_64_clients": share(d["64x1"]["mails_per_second"], a["64x1"]["mails_per_second"]),
        "p99_at_half_load": share(d["half_load"]["p99_ms"], a["half_load"]["p99_ms"]),
        "peak_memory": share(d["peak_mib"], a["peak_mib"]),
        "cpu_seconds_per_mail": share(d["64x1"]["cpu_seconds_per_mail"], a["64x1"]["cpu_seconds_per_mail"]),
        "macro_f1_difference": round(d["macro_f1"] - a["macro_f1"], 4),
    }


def table(steps: dict[str, Any]) -> str:
    """One line a step and phase."""
    lines = [
        f"{'step':<9}{'phase':<10}{'mails/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'CPU s/mail':>12}{'MiB':>7}{'refused':>9}"
    ]
    for step, result in steps.items():
        for phase, found in result.items():
            if isinstance(found, dict):
                values = (found[name] for name in ("mails_per_second", "p50_ms", "p99_ms", "cpu_seconds_per_mail"))
                cells = ["-" if value is None else f"{value:g}" for value in values]
                lines.append(
                    f"{step:<9}{phase:<10}{cells[0]:>9}{cells[1]:>9}{cells[2]:>9}{cells[3]:>12}"
                    f"{found['peak_mib']:>7}{found['refused']:>9}"
                )
        lines.append(f"{step:<9}macro-F1 {result['macro_f1']:.3f}, peak {result['peak_mib']} MiB")
    return "\n".join(lines)


def main() -> None:
    """Measure the steps in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=8.0, help="of one phase")
    parser.add_argument("--mails", type=int, default=MAILS, help="different mails; all of them count for macro-F1")
    parser.add_argument("--only", default=",".join(STEPS), help="steps, with commas between")
    parser.add_argument("--device", default="cpu", help="of the torch steps and of ours: cpu or cuda")
    parser.add_argument("--output", type=Path, default=Path("work/benchmarks/serving.json"))
    given = parser.parse_args()
    from mailtriage.sample import generate

    bundle = Bundle.open(given.bundle)
    mails = list(generate(given.mails, seed=SEED, wrong_labels=0, missing_labels=0))
    steps: dict[str, Any] = {}
    before = hardware()
    for step in given.only.split(","):
        print(f"measuring {step} ...", file=sys.stderr, flush=True)
        with service(step, given.bundle, given.device, bundle.taxonomy.task_ids) as running:
            steps[step] = asyncio.run(measure(running, mails, bundle, given.seconds))
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": before,
        "device": given.device,
        "bundle": {
            "model_version": bundle.model_version,
            "digest": bundle.digest,
            "engines": bundle.manifest["engines"],
        },
        "seconds_a_phase": given.seconds,
        "mails": {"count": given.mails, "seed": SEED},
        "single_task_models": "the bundle's encoder with one of its heads each",
        "infinity": "not measured: it serves sequence classifiers of its own format, not this bundle",
        "steps": steps,
        "ratios": ratios(steps) if {"a", "d"} <= steps.keys() else None,
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(steps))
    print(json.dumps(result["ratios"], indent=2))


if __name__ == "__main__":
    main()
