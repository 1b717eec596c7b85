"""Load for the serving benchmarks: clients over HTTP, our own servers, and what processes take meanwhile."""

from __future__ import annotations

import asyncio
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil

DRAIN_SECONDS = 20.0  # for what is in flight at a phase's end; a plain server has a long queue by then
START_SECONDS = 180
SEED, MAILS = 20261101, 512


@dataclass
class Service:
    """What is asked, and the processes that it takes.

    Args:
        urls: asked at once for each batch of mails.
        predictor: address of what the asked one asks itself, empty if there is none.
        body: from the number of a URL and a batch to what is sent; by default V1 instances.
    """

    urls: list[str]
    headers: dict[str, str]
    pids: list[int]
    body: Callable[[int, Sequence[dict[str, Any]]], Any] = lambda _, batch: {"instances": list(batch)}
    predictor: str = ""


@contextmanager
def ours(bundle: Path, device: str) -> Iterator[Service]:
    """Everything, as `python -m serving up` runs it."""
    from serving.supervisor import Stack, StackSettings

    with tempfile.TemporaryDirectory() as work:
        options = ("--device", device)
        settings = StackSettings(bundle, 0, work=Path(work), start_seconds=START_SECONDS, predictor_options=options)
        with Stack(settings) as stack:
            pids = [part.process.pid for part in stack.parts.values() if part.process]
            predictor = f"http://127.0.0.1:{stack.predictor_port}"
            yield Service([stack.predict_url], {"x-api-key": stack.api_key}, pids, predictor=predictor)


def hardware() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "load_before": os.getloadavg()[0]}


@dataclass
class Measured:
    """One phase. Latencies in seconds, of answered requests."""

    seconds: float = 0.0
    mails: int = 0
    latencies: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failed: int = 0
    unfinished: int = 0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0

    def to_record(self) -> dict[str, Any]:
        """Mails a second, percentiles in milliseconds, CPU seconds a mail, peak memory in MiB."""
        p50, p99 = (np.percentile(self.latencies, [50, 99]) * 1000).tolist() if self.latencies else (None, None)
        return {
            "mails_per_second": round(self.mails / self.seconds, 2) if self.seconds else 0.0,
            "p50_ms": p50 and round(p50, 1),
            "p99_ms": p99 and round(p99, 1),
            "cpu_seconds_per_mail": round(self.cpu_seconds / self.mails, 5) if self.mails else None,
            "peak_mib": round(self.peak_bytes / 2**20),
            "requests": len(self.latencies),
            "refused": len(self.refused),
            "failed": self.failed,
            "unfinished": self.unfinished,
        }


class Meter:
    """CPU time and memory (proportional set size) of processes and all that they started."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._roots = [psutil.Process(pid) for pid in pids]
        self.peak_bytes = 0

    def processes(self) -> list[psutil.Process]:
        return [process for root in self._roots for process in (root, *root.children(recursive=True))]

    def cpu_seconds(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self.processes())

    def memory_bytes(self) -> int:
        total = 0
        for process in self.processes():
            try:
                total += process.memory_full_info().pss
            except psutil.Error:  # it ended between being listed and being asked
                continue
        return total

    async def watch(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, await asyncio.to_thread(self.memory_bytes))
            await asyncio.sleep(0.5)


class Load:
    """Asks one service; a batch is done when all of its URLs have answered."""

    def __init__(self, service: Service, records: Sequence[dict[str, Any]]) -> None:
        self._service = service
        self._records = records
        self._next = 0
        self.measured = Measured()  # the phase that runs, or the last one

    def batch(self, size: int) -> list[dict[str, Any]]:
        """The next mails, from the first again after the last."""
        found = [self._records[(self._next + offset) % len(self._records)] for offset in range(size)]
        self._next += size
        return found

    async def ask(
        self, session: aiohttp.ClientSession, batch: Sequence[dict[str, Any]]
    ) -> tuple[int, list[Any], float]:
        """The worst status, each URL's answer, and the seconds after which to try again."""

        async def post(number: int, url: str) -> tuple[int, Any, float]:
            body = self._service.body(number, batch)
            async with session.post(url, json=body, headers=self._service.headers) as answer:
                wait = float(answer.headers.get("retry-after", 0))
                return answer.status, await answer.json(content_type=None), wait

        answers = await asyncio.gather(*(post(*each) for each in enumerate(self._service.urls)))
        return max(status for status, *_ in answers), [content for _, content, _ in answers], max(a[2] for a in answers)

    async def closed(self, clients: int, size: int, seconds: float, meter: Meter) -> Measured:
        """So many clients, each with one request of `size` mails at a time, as fast as they are answered."""
        return await self._phase(
            meter, seconds, lambda ask, until: [self._client(ask, size, until) for _ in range(clients)]
        )

    async def open(self, rate: float, seconds: float, meter: Meter, size: int = 1) -> Measured:
        """Requests at random times (Poisson), `rate` mails a second, whether or not earlier ones are answered."""
        return await self._phase(meter, seconds, lambda ask, until: [self._arrivals(ask, rate / size, size, until)])

    async def _client(self, ask: Any, size: int, until: float) -> None:
        while time.perf_counter() < until:
            await asyncio.sleep(await ask(size))

    async def _arrivals(self, ask: Any, rate: float, size: int, until: float) -> None:
        randomly = random.Random(7)
        due = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            while due < until:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(ask(size))
                due += randomly.expovariate(rate)

    async def _phase(self, meter: Meter, seconds: float, workers: Any) -> Measured:
        measured = self.measured = Measured()
        in_flight = 0
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:

            async def ask(size: int) -> float:
                nonlocal in_flight
                in_flight += 1
                began = time.perf_counter()
                try:
                    status, _, wait = await self.ask(session, self.batch(size))
                except aiohttp.ClientError:
                    measured.failed += 1
                    return 0.1
                finally:
                    in_flight -= 1
                took = time.perf_counter() - began
                if status == 200:
                    measured.latencies.append(took)
                    measured.mails += size
                    return 0.0
                if status in (429, 503):
                    measured.refused.append(took)
                    return wait or 0.1
                measured.failed += 1
                return 0.1

            watching = asyncio.ensure_future(meter.watch())
            meter.peak_bytes = 0
            cpu, began = meter.cpu_seconds(), time.perf_counter()
            tasks = [asyncio.ensure_future(worker) for worker in workers(ask, began + seconds)]
            await asyncio.wait(tasks, timeout=seconds + DRAIN_SECONDS)
            measured.seconds = time.perf_counter() - began
            measured.cpu_seconds = meter.cpu_seconds() - cpu
            measured.unfinished = in_flight
            for task in (*tasks, watching):
                task.cancel()
            await asyncio.gather(*tasks, watching, return_exceptions=True)
            measured.peak_bytes = meter.peak_bytes
        return measured
