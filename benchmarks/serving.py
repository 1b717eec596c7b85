"""Serving side by side: three plain models, one plain model, ours, and what each step between them brings.

    python benchmarks/serving.py --bundle BUNDLE [--separate BUNDLE] [--infinity PROGRAM] [--seconds 8] [--only a,d]
        [--output work/benchmarks/serving.json]

All on this machine, one after the other, with the same raw sample mails (their real spread of lengths):

a         three single-task fp32 models in three KServe model servers, plain `transformers`, one mail after the other
a+clean   the same, on cleaned mails
b         one multi-task fp32 model, served as in (a)
b+clean   the same, on cleaned mails
c         infinity's classify server with three single-task models, its own batching (only with --infinity)
onnx      one model, cleaned mails, the bundle's ONNX export (int8 where the bundle has it), one mail after the other
batched   our transformer and predictor with batching, each round one forward pass padded to its longest mail
d         ours, through the gateway: batching by length, little padding

Prints a table and the ratios of (d) to (a), and writes both with date and hardware as JSON. The single-task models of
(a) are those of the bundle that --separate names (trained with `tasks: separate`), else the bundle's encoder with one
of its heads each, which costs the same. Infinity's pins do not fit ours, so it lives in an environment of its own
(`pip install "infinity-emb[server,torch]"`) and --infinity names its program, `infinity_emb`; it serves sequence
classifiers, so it gets the bundle's encoder under fresh heads: its speed counts, its labels do not. The plain servers
and infinity have no gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
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

STEPS = ("a", "a+clean", "b", "b+clean", "c", "onnx", "batched", "d")
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
def infinity(program: str, bundle: Bundle) -> Iterator[Service]:
    """Infinity's server with one sequence classifier a task, on raw mails."""
    with tempfile.TemporaryDirectory() as folder:
        port, tasks = free_port("127.0.0.1"), bundle.taxonomy.task_ids
        command = [program, "v2", "--host", "127.0.0.1", "--port", str(port), "--engine", "torch", "--device", "cpu"]
        command += ["--no-bettertransformer", "--no-model-warmup"]
        for task in tasks:
            sequence_classifier(bundle, task, Path(folder) / task)
            command += ["--model-id", str(Path(folder) / task), "--served-model-name", task]
        offline = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
        with process(command, offline) as running:
            wait_for(f"http://127.0.0.1:{port}/health")

            def body(number: int, batch: Sequence[dict[str, Any]]) -> Any:
                return {"model": tasks[number], "input": [f"{mail['subject']}\n{mail['body']}" for mail in batch]}

            yield Service([f"http://127.0.0.1:{port}/classify"] * len(tasks), {}, [running.pid], body)


def sequence_classifier(bundle: Bundle, task: str, folder: Path) -> None:
    """The bundle's encoder under a fresh head, in the format of `transformers`."""
    from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

    from mailtriage.model import MultiTaskClassifier

    encoder = MultiTaskClassifier.from_pretrained(str(bundle.path / "model")).encoder_of_tasks[task]
    config = encoder.config
    config.num_labels = len(bundle.taxonomy.task(task).labels)
    model = AutoModelForSequenceClassification.from_config(config)
    model.base_model.load_state_dict(encoder.state_dict(), strict=False)  # the pooler has none
    model.save_pretrained(folder)
    longest = min(512, config.max_position_embeddings)
    PreTrainedTokenizerFast(
        tokenizer_file=str(bundle.path / "tokenizer.json"), pad_token="<pad>", model_max_length=longest
    ).save_pretrained(folder)
    written = folder / "tokenizer_config.json"  # with a class that older versions know
    settings = json.loads(written.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    written.write_text(json.dumps(settings), encoding="utf-8")


@contextmanager
def process(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is stopped by its own pid."""
    quiet = subprocess.DEVNULL
    variables = {**os.environ, **(environment or {})}
    with subprocess.Popen(command, cwd=ROOT, env=variables, stdout=quiet, stderr=quiet) as started:
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


def service(step: str, bundle: Bundle, given: argparse.Namespace) -> Any:
    """The step's service, to be entered."""
    opened, bundle, device, tasks = bundle, given.bundle, given.device, bundle.taxonomy.task_ids
    separate = given.separate or given.bundle
    return {
        "a": lambda: plain(separate, device, tasks=tasks),
        "a+clean": lambda: plain(separate, device, "--clean", tasks=tasks),
        "c": lambda: infinity(given.infinity, opened),
        "b": lambda: plain(bundle, device),
        "b+clean": lambda: plain(bundle, device, "--clean"),
        "onnx": lambda: plain(bundle, device, "--clean", "--onnx"),
        "batched": lambda: padded(bundle),
        "d": lambda: ours(bundle, device),
    }[step]()


async def quality(load: Load, mails: Sequence[Email], bundle: Bundle) -> float | None:
    """Mean macro-F1 over the tasks, of all mails, asked for in batches of 8; it warms the service up too.

    Nothing where the service has labels of its own.
    """
    found: dict[str, list[int]] = {task: [] for task in bundle.taxonomy.task_ids}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        for _ in range(0, len(mails), 8):
            status, answers, _ = await load.ask(session, load.batch(8))
            if status != 200:
                raise SystemExit(f"a request was answered with {status}")
            for each in answers:
                for prediction in each.get("predictions", ()):
                    for task, score in prediction["labels"].items():
                        found[task].append(bundle.taxonomy.task(task).index(score["label"]))
    if not all(found.values()):
        return None
    scores = []
    for task in bundle.taxonomy.tasks:
        true = np.asarray([task.index(mail.labels[task.id]) for mail in mails])
        scores.append(macro_f1(len(task.labels), true, np.asarray(found[task.id])))
    return float(np.mean(scores))


async def measure(service: Service, mails: Sequence[Email], bundle: Bundle, seconds: float) -> dict[str, Any]:
    """Quality, every phase, and single mails at half of what 64 clients got."""
    records = [Email(m.id, m.subject, m.body, m.received_at, m.custodian_bank).to_record() for m in mails]
    load, meter = Load(service, records), Meter(service.pids)
    found = await quality(load, mails, bundle)
    result: dict[str, Any] = {"macro_f1": found and round(found, 4)}
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
        quality = "-" if result["macro_f1"] is None else f"{result['macro_f1']:.3f}"
        lines.append(f"{step:<9}macro-F1 {quality}, peak {result['peak_mib']} MiB")
    return "\n".join(lines)


def main() -> None:
    """Measure the steps in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--separate", type=Path, help="a bundle of three single-task models, for (a)")
    parser.add_argument("--infinity", help="infinity's program `infinity_emb`, for (c)")
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
        if step == "c" and not given.infinity:
            continue
        print(f"measuring {step} ...", file=sys.stderr, flush=True)
        with service(step, bundle, given) as running:
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
        "single_task_models": given.separate and Bundle.open(given.separate).digest,
        "steps": steps,
        "ratios": ratios(steps) if {"a", "d"} <= steps.keys() else None,
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(steps))
    print(json.dumps(result["ratios"], indent=2))


if __name__ == "__main__":
    main()
