"""Ours at twice its capacity: does memory grow, does latency stay bounded, is what is too much refused quickly?

    python benchmarks/soak.py --bundle BUNDLE [--minutes 10] [--output work/benchmarks/soak.json]

Measures the capacity with 64 clients for 20 seconds, then sends twice as many mails a second, at random times and
whether or not earlier ones are answered. Prints a line every half minute, and checks: memory of the last fifth against
the second fifth, p99 of admitted requests, how long a refusal takes, how much of the capacity is still answered, and
that no request failed otherwise or hung.
What sends the mails takes its part of the same processors (`sender_cpus`). `refused_by_predictor` counts requests that
were cleaned in vain.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
from load import MAILS, SEED, Load, Measured, Meter, Service, hardware, ours  # noqa: E402

from mailtriage.bundle import Bundle  # noqa: E402
from mailtriage.mail import Email  # noqa: E402

CAPACITY_SECONDS, SLICE_SECONDS = 20.0, 30.0
BATCH = 4  # mails a request
MOST_GROWTH, SLOWEST_ADMITTED, SLOWEST_REFUSAL = 0.05, 10.0, 1.0  # servers admit what should wait 5 s
LEAST_GOODPUT = 0.7  # of the capacity: the sender, who sends twice as much now, and refusing have their price
REFUSED_BY_PREDICTOR = re.compile(
    r'^mailtriage_requests_total\{route="[^"]*/infer",status="503"\} (\S+)$', re.MULTILINE
)


@dataclass
class Soaked:
    """Capacity in mails a second, a record a slice, all slices together, and what they took besides."""

    capacity: float
    slices: list[dict[str, Any]]
    total: Measured
    sender_cpus: float
    refused_by_predictor: int


async def soak(service: Service, load: Load, meter: Meter, minutes: float) -> Soaked:
    """Measure the capacity, and send twice as much."""
    await load.closed(8, BATCH, 5, meter)
    measured = await load.closed(64, BATCH, CAPACITY_SECONDS, meter)
    capacity = measured.mails / measured.seconds
    print(f"capacity {capacity:.1f} mails/s; sending {2 * capacity:.1f}", flush=True)
    slices: list[dict[str, Any]] = []
    watching = asyncio.ensure_future(watch(load, meter, min(SLICE_SECONDS, minutes * 60 / 10), slices))
    refused, cpu = refused_by_predictor(service), time.process_time()
    total = await load.open(2 * capacity, minutes * 60, meter, BATCH)
    watching.cancel()
    cpus = (time.process_time() - cpu) / total.seconds
    return Soaked(capacity, slices, total, cpus, refused_by_predictor(service) - refused)


def refused_by_predictor(service: Service) -> int:
    """Requests so far."""
    with urllib.request.urlopen(f"{service.predictor}/metrics", timeout=10) as answer:
        return sum(int(float(count)) for count in REFUSED_BY_PREDICTOR.findall(answer.read().decode()))


async def watch(load: Load, meter: Meter, seconds: float, slices: list[dict[str, Any]]) -> None:
    """Append what each stretch of the running phase brought."""
    answered = refused = 0
    while True:
        await asyncio.sleep(seconds)
        measured = load.measured
        latencies, refusals = measured.latencies[answered:], measured.refused[refused:]
        answered, refused = len(measured.latencies), len(measured.refused)
        slices.append(
            {
                "mails_per_second": round(len(latencies) * BATCH / seconds, 1),
                "admitted_p99_ms": percentile(latencies),
                "refused": len(refusals),
                "refusal_p99_ms": percentile(refusals),
                "memory_mib": meter.memory_bytes() >> 20,
            }
        )
        print(f"slice {len(slices)}: {json.dumps(slices[-1])}", flush=True)


def percentile(seconds: list[float]) -> float | None:
    """p99 in milliseconds."""
    return round(float(np.percentile(seconds, 99)) * 1000, 1) if seconds else None


def verdict(soaked: Soaked) -> dict[str, Any]:
    """The questions, each with its figure; what failed or hung counts against it, whatever the rest says."""
    slices, total = soaked.slices, soaked.total
    fifth = max(1, len(slices) // 5)
    early = max(part["memory_mib"] for part in slices[fifth : 2 * fifth])
    late = max(part["memory_mib"] for part in slices[-fifth:])
    admitted, refusal = percentile(total.latencies), percentile(total.refused)
    goodput = total.mails / total.seconds / soaked.capacity
    return {
        "memory_growth": round(late / early - 1, 4),
        "memory_does_not_grow": late / early - 1 <= MOST_GROWTH,
        "admitted_p99_ms": admitted,
        "admitted_is_bounded": admitted is not None and admitted <= SLOWEST_ADMITTED * 1000,
        "refused_share": round(len(total.refused) / max(1, len(total.refused) + len(total.latencies)), 3),
        "refusal_p99_ms": refusal,
        "refused_quickly": refusal is None or refusal <= SLOWEST_REFUSAL * 1000,
        "goodput_share": round(goodput, 3),
        "goodput_holds": goodput >= LEAST_GOODPUT,
        "refused_by_predictor": soaked.refused_by_predictor,
        "sender_cpus": round(soaked.sender_cpus, 3),
        "none_failed": total.failed == 0,
        "none_hangs": total.unfinished == 0,
    }


def main() -> None:
    """Soak and write what was seen; exit status 1 where a question is answered with no."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("work/benchmarks/soak.json"))
    given = parser.parse_args()
    from mailtriage.sample import generate

    mails = generate(MAILS, seed=SEED)
    records = [Email(m.id, m.subject, m.body, m.received_at, m.custodian_bank).to_record() for m in mails]
    before = hardware()
    with ours(given.bundle, given.device) as service:
        load, meter = Load(service, records), Meter(service.pids)
        soaked = asyncio.run(soak(service, load, meter, given.minutes))
    found = verdict(soaked)
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": before,
        "bundle": {"digest": Bundle.open(given.bundle).digest},
        "minutes": given.minutes,
        "capacity_mails_per_second": round(soaked.capacity, 2),
        "offered_mails_per_second": round(2 * soaked.capacity, 2),
        "verdict": found,
        "slices": soaked.slices,
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))
    sys.exit(0 if all(answer for answer in found.values() if isinstance(answer, bool)) else 1)


if __name__ == "__main__":
    main()
